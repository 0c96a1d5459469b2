"""Each notebook, run top to bottom by a reader's own tool: what it prints, draws and measures is what it says."""
import functools
import json
import math
import re
import shutil
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf
from compare import TEST, TRAIN, read_pixels
from helpers import FULL, NOTEBOOKS, ROOT, SAMPLE, assert_clean, cells_up_to, code_cells, execute, figures, printed

tf.config.threading.set_intra_op_parallelism_threads(1)    # as the dense notebooks do in a kernel of their own

OTHER = {'batch_size': 100, 'learning_rate': 0.002, 'seed': 3, 'shown': [5, 9, 5]}
PARAMETERS = {    # each is another than in the notebook, so that a number written into a cell would show
    'BasicAE': {**OTHER, 'epochs': 2, 'hidden_units': 37, 'original_learning_rate': 0.05, 'sizes': [2, 37],
                'size_epochs': 1},
    'EasyDAE': {**OTHER, 'epochs': 2, 'hidden_units': 37, 'noise_factor': 0.3},
    'ConvDAE': {**OTHER, 'epochs': 1, 'noise_factor': 0.3, 'dense_units': [37], 'distances': [0, 4],
                'model_file': 'kept.keras'},
}
SHORT = {'BasicAE': {'sizes': [64], 'size_epochs': 1}, 'EasyDAE': {}, 'ConvDAE': {'dense_units': [8], 'distances': [4]}}
LAST = {'BasicAE': 'train', 'EasyDAE': 'narrow', 'ConvDAE': 'dense'}    # cells that the tests need to have run
ROWS = ['convolutional', 'reconstructed', 'denoised', 'EasyDAE,\n37 numbers']    # of the network that a notebook trains
TEST_IMAGES = read_pixels(SAMPLE / TEST).reshape(-1, 28, 28) / 255
CONV, DENSE = (pytest.mark.parametrize('run', names, indirect=True) for names in (['ConvDAE'], ['BasicAE', 'EasyDAE']))


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
    """Return a function from a name to what came of a short run of that notebook on the sample, which is made once."""
    @functools.cache
    def run_once(name):
        folder = tmp_path_factory.mktemp('my notebooks, Übung 数字')
        shutil.copytree(SAMPLE, folder / 'MNIST_data' / 'sample')
        notebook = execute(name, folder, **PARAMETERS[name])
        again = cells_up_to(name, LAST[name], data_dir=str(SAMPLE), **PARAMETERS[name])    # in this process
        model = keras.models.load_model(folder / 'kept.keras') if name == 'ConvDAE' else again['model']
        networks = {**again.get('networks', {}), **dict.fromkeys(ROWS, model)}
        return SimpleNamespace(name=name, folder=folder, notebook=notebook, figures=figures(notebook), model=model,
                               cells=code_cells(notebook), again=again, networks=networks)
    return run_once


@pytest.fixture(params=NOTEBOOKS)
def run(request, runs):
    return runs(request.param)


def add_noise(images):
    """Return images under the noise that a notebook puts on all that it tests with."""
    return np.clip(images + 0.3 * tf.random.stateless_normal(np.shape(images), (3, 0)).numpy(), 0, 1)


def rebuild(model, images):
    """Return what a model makes of images, shape (count, height, width)."""
    logits = model.predict(np.reshape(images, (-1, *model.input_shape[1:])), verbose=0).astype(float)
    return 1 / (1 + np.exp(-logits.reshape(np.shape(images))))


def psnr(clean, images):
    """Return the peak signal-to-noise ratio of each image."""
    return -10 * np.log10(np.maximum(np.mean((clean - images)**2, axis=(1, 2)), 1e-12))


def measures(clean, images):
    """Return cross-entropy, PSNR and SSIM of images."""
    images = np.reshape(images, clean.shape).astype(float)
    pixels = np.clip(images, np.float32(1e-7), 1 - np.float32(1e-7))    # as Keras does, in float32
    cross_entropy = -np.mean(clean * np.log(pixels) + (1 - clean) * np.log(1 - pixels))
    ssim = tf.image.ssim(clean[..., np.newaxis], images[..., np.newaxis], max_val=1)
    return cross_entropy, np.mean(psnr(clean, images)), np.mean(ssim)


def losses(run, label=''):
    """Return the losses that are drawn beside the original's, or those with another label."""
    (curves,) = (figure['curves'] for title, figure in run.figures.items() if 'with the original' in title)
    label = label or ('rate 0.002' if run.name == 'BasicAE' else 'this notebook')
    return next(values for each, values in curves.items() if each.startswith(label))


def test_runs_clean(run):
    """No warnings, redrawn lines, or paths of this machine, nor the reader's colours; only the network is written."""
    assert_clean(run.notebook)
    looks = [figure['look'] for figure in run.figures.values() if 'look' in figure]
    assert looks == [[0, 1, 'Greys_r', [1, 1, 1, 1]]] * len(looks) != []
    written = {path.name for path in run.folder.glob('[!.]*')} - {'MNIST_data', f'{run.name}.ipynb', 'run.ipynb'}
    assert written == ({'kept.keras'} if run.name == 'ConvDAE' else set())


@pytest.mark.skipif(not FULL, reason='the environment variable MNIST_DATA does not name a folder with MNIST')
@pytest.mark.parametrize('name', NOTEBOOKS)
def test_with_all_of_mnist_it_needs_less_than_one_and_a_half_gigabytes(name, tmp_path):
    notebook = execute(name, tmp_path, data_dir=str(FULL), epochs=1, **SHORT[name])
    assert_clean(notebook, str(FULL))
    assert 200_000 < max(figure['peak'] for figure in figures(notebook).values()) < 1_500_000


def test_prints_the_falling_losses_of_its_epochs(run):
    own, epochs = losses(run), PARAMETERS[run.name]['epochs']
    assert len(own) == epochs and np.all(np.diff([math.log(2), *own]) < 0)    # from that of guessing on
    lines = [f'epoch {epoch:2}/{epochs}  loss {loss:.4f}' for epoch, loss in enumerate(own, start=1)]
    assert set() < set(re.findall('epoch .*', printed(run.cells['train']))) <= set(lines)


def test_loss_curve_shows_the_original_s_and_names_all_that_differs(run):
    (title,) = (title for title in run.figures if 'with the original' in title)
    original = json.loads((ROOT / 'tests' / 'original_losses.json').read_text())
    assert losses(run, 'the original') == original[run.name]['mean_loss_per_epoch']
    differ = {'BasicAE': ['37 hidden units', '0.05 learning rate'],
              'EasyDAE': ['37 hidden units', '0.3 noise factor', '0.002 learning rate'],
              'ConvDAE': ['0.3 noise factor', '0.002 learning rate']}[run.name] + ['other data', '100 batch size']
    assert 'NOT COMPARABLE' in title and len(differ) == title.count(', not ') == sum(each in title for each in differ)


def test_rows_show_what_the_networks_make_of_the_very_digits_above(run):
    """In all figures. The original drew noisy digits and fed clean ones."""
    count, shown = 0, TEST_IMAGES[OTHER['shown']]
    for title, figure in run.figures.items():
        drawn = {re.sub(r',\n[\d.]+ dB$', '', label): images for label, images in figure['rows'].items()}
        fed = [drawn[above] for above in ('noisy', 'noise alone', 'original') if above in drawn]
        for label in run.networks.keys() & drawn.keys() if fed else ():
            made = drawn[label] / (2 if 'twice as bright' in title else 1)
            np.testing.assert_allclose(made, rebuild(run.networks[label], fed[0]), atol=1e-4)
            np.testing.assert_allclose(drawn.get('original', shown), shown, atol=1e-6)
            count += 1
    assert count >= {'BasicAE': 1, 'EasyDAE': 2, 'ConvDAE': 8}[run.name]


@CONV
def test_noise_without_a_digit_is_noise_alone(run):
    drawn = run.figures['Noise without a digit, and what each network makes of it, twice as bright']['rows']
    np.testing.assert_allclose(drawn['noise alone'], add_noise(np.zeros((3, 28, 28, 1)))[..., 0], atol=1e-6)


@pytest.mark.parametrize('run', ['BasicAE'], indirect=True)
def test_pca_is_that_of_the_training_images(run):
    train_images, test_images = (read_pixels(SAMPLE / name) / 255 for name in (TRAIN, TEST))
    mean, directions = train_images.mean(axis=0), np.linalg.eigh(np.cov(train_images, rowvar=False))[1][:, -2:]
    projected = np.clip(mean + (test_images - mean) @ directions @ directions.T, 0, 1).reshape(-1, 28, 28)
    curves = run.figures['Quality of the rebuilt test images over the size of the hidden vector']['curves']
    assert curves['PCA'][0] == pytest.approx(psnr(TEST_IMAGES, projected).mean(), abs=0.01)


@CONV
def test_curve_of_moved_digits_is_that_of_a_fifth_of_the_test_images(run):
    curves = run.figures['Quality of denoised test images over how far they are moved']['curves']
    clean = np.pad(TEST_IMAGES[::5, 4:, 4:], ((0, 0), (0, 4), (0, 4)))    # moved up and left
    for label in ('convolutional', 'dense 37'):
        value = psnr(clean, rebuild(run.networks[label], add_noise(clean))).mean()
        assert curves[label][1] == pytest.approx(value, abs=0.02)


@CONV
def test_a_page_of_digits_is_denoised_in_one_piece_and_in_tiles(run):
    (title,) = (title for title in run.figures if title.startswith('A page of test digits'))
    (page, noisy), made = (images for _, images in sorted(run.figures[title]['rows'].items()))
    digits, fed, tiles = np.reshape([page, noisy, made[1]], (3, 6, 28, 6, 28)).swapaxes(2, 3).reshape(3, 36, 28, 28)
    np.testing.assert_allclose(digits, TEST_IMAGES[:36], atol=1e-6)
    np.testing.assert_allclose(tiles, rebuild(run.model, fed), atol=1e-4)
    uncropped = keras.Sequential([layer for layer in run.model.layers[1:] if layer.name != 'crop'])
    np.testing.assert_allclose(made[0], tf.sigmoid(uncropped(noisy[np.newaxis, ..., np.newaxis]))[0, ..., 0], atol=1e-4)
    said = re.findall(r'([\d.]+) dB', title)
    np.testing.assert_allclose(np.array(said, float), psnr(page, made), atol=0.01)


@CONV
def test_the_saved_network_needs_no_notebook(run):
    """Plain Keras has loaded it for these tests, though it was trained through another."""
    assert printed(run.cells['save']) == 'kept.keras holds 121,281 weights\n'


@DENSE
def test_another_process_with_other_settings_gives_the_same_run(run):
    """To the last bit; the run in the kernel was under Keras's and matplotlib's settings of a reader."""
    assert run.again['losses'] == losses(run)


def measured(run):
    """Return what a notebook measures: from what begins its line in the text to all test images, as they come out."""
    if run.name == 'BasicAE':
        return {'1,000 test images:': rebuild(run.model, TEST_IMAGES), 'least cross-entropy.*:': TEST_IMAGES}
    noisy = add_noise(TEST_IMAGES)
    if run.name == 'ConvDAE':
        return {'noisy': noisy, 'convolutional': rebuild(run.model, noisy),
                'dense 37': rebuild(run.networks['dense 37'], noisy)}
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(noisy, ((0, 0), (1, 1), (1, 1)), 'edge'), (1, 3, 3))
    return {'noisy': noisy, 'median filter': np.median(windows, axis=(3, 4, 5)),
            'linear map, 37 numbers': run.again['narrow'], 'full linear map ': run.again['linear'],
            'EasyDAE, 37 numbers': rebuild(run.model, noisy)}


def test_measures_of_quality_are_those_of_all_test_images(run):
    """All rows that a notebook prints."""
    text = printed(run.cells['results' if run.name == 'BasicAE' else 'table'])
    for label, images in measured(run).items():
        (line,) = re.findall(rf'^{label} .*', text, re.MULTILINE)
        found = np.array(re.findall(r'\d+\.\d+', line), float)
        np.testing.assert_allclose(found, measures(TEST_IMAGES, images)[:1 if 'least' in label else 3], atol=5e-3)
