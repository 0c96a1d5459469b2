"""Each notebook, run top to bottom by a reader's own tool: what it prints, draws and measures is what it says."""
import functools
import json
import math
import re
import shutil
import subprocess
import sys
from types import SimpleNamespace

import keras
import nbformat
import numpy as np
import pytest
import tensorflow as tf
from compare import TEST, TRAIN, read_pixels
from helpers import (
    ARTICLE,
    FULL,
    NOTEBOOKS,
    ROOT,
    SAMPLE,
    assert_clean,
    cells_up_to,
    code_cells,
    figures,
    kernel_environment,
    prepared,
    printed,
)
from PIL import Image, ImageDraw

tf.config.threading.set_intra_op_parallelism_threads(1)    # as the dense notebooks do in a kernel of their own

# On the sample every parameter is another than in the notebook, so that a number written into a cell would show; on
# the full data only those are changed that make the run short.
PICTURES = ['1.png', '7.png']
OTHER = {'batch_size': 100, 'learning_rate': 0.002, 'seed': 3, 'shown': [5, 9, 5]}
PARAMETERS = {
    ('BasicAE', 'sample'): {**OTHER, 'epochs': 2, 'hidden_units': 37, 'original_learning_rate': 0.05, 'sizes': [2, 37],
                            'size_epochs': 1},
    ('EasyDAE', 'sample'): {**OTHER, 'epochs': 2, 'hidden_units': 37, 'noise_factor': 0.3},
    ('ConvDAE', 'sample'): {**OTHER, 'epochs': 1, 'noise_factor': 0.3, 'dense_units': [37],
                            'distances': [0, 4], 'picture': PICTURES, 'model_file': 'kept.keras'},
    ('BasicAE', 'full'): {**ARTICLE['BasicAE'], 'batch_size': 128, 'epochs': 2, 'sizes': [2, 64], 'size_epochs': 1},
    ('EasyDAE', 'full'): {**ARTICLE['EasyDAE'], 'batch_size': 128, 'epochs': 2},
    ('ConvDAE', 'full'): {**ARTICLE['ConvDAE'], 'batch_size': 128, 'epochs': 1, 'dense_units': [32],
                          'distances': [4]},
}
RUNNERS = {    # what readers run notebooks with; each stores what a notebook prints in its own way
    'BasicAE': 'papermill --no-progress-bar {}.ipynb run.ipynb',
    'EasyDAE': 'jupyter execute --output=run.ipynb {}.ipynb',
    'ConvDAE': 'nbconvert --to=notebook --execute --output=run.ipynb {}.ipynb',
}
SETTINGS = {    # of the reader's own, none of which may change anything
    'keras.json': '{"backend": "jax", "floatx": "float16", "image_data_format": "channels_first"}',
    'matplotlibrc': 'image.cmap: jet\nfigure.facecolor: black\naxes.grid: True\nfont.size: 3\nfigure.dpi: 30\n',
}
# Starts a program and prints the peak of its memory, and that of what it starts, in kB.
MEASURED = ('import resource, subprocess, sys; code = subprocess.call(sys.argv[1:]); '
            'print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss); sys.exit(code)')
ORIGINAL_LOSSES = json.loads((ROOT / 'tests' / 'original_losses.json').read_text())
LAST = {'BasicAE': 'train', 'EasyDAE': 'narrow', 'ConvDAE': 'dense'}    # cells that the tests need to have run


def only(*names):
    """Mark a test as one of these notebooks alone."""
    return pytest.mark.parametrize('name', names, indirect=True)


def of_the(data):
    """Mark a test as one of runs on these data alone."""
    return pytest.mark.parametrize('run', [data], indirect=True)


def draw_digits(folder):
    """Draw a 1 and a 7 as a reader may: dark on light, of any size."""
    for name, points in zip(PICTURES, ([(60, 20), (50, 130)], [(20, 30), (90, 30), (40, 140)])):
        image = Image.new('L', (120, 160), 230)
        ImageDraw.Draw(image).line(points, fill=30, width=12)
        image.save(folder / name)


def run_by_a_tool(name, data, folder):
    """Run a notebook in a folder, without a network and under settings of the reader's own; return what came of it."""
    if data == 'full' and not FULL:
        pytest.skip('the environment variable MNIST_DATA does not name the folder of the MNIST archives')
    run = SimpleNamespace(name=name, kind=data, folder=folder / 'my notebooks, Übung 数字')
    run.data = FULL if data == 'full' else SAMPLE
    shutil.copytree(SAMPLE, run.folder / 'MNIST_data' / 'sample')
    draw_digits(run.folder)
    for file, content in SETTINGS.items():
        (folder / file).write_text(content)
    changed, run.parameters = PARAMETERS[name, data] | ({'data_dir': str(FULL)} if data == 'full' else {}), {}
    notebook = prepared(name, **changed)
    nbformat.write(notebook, run.folder / f'{name}.ipynb')
    for cell_id in ('parameters', 'injected'):
        exec(code_cells(notebook)[cell_id].source, run.parameters)
    command = [sys.executable, '-c', MEASURED, sys.executable, '-m', *RUNNERS[name].format(name).split()]
    done = subprocess.run(command, cwd=run.folder, capture_output=True, env=kernel_environment(
        folder, KERAS_HOME=str(folder), KERAS_BACKEND='torch', TF_CPP_MIN_LOG_LEVEL='0',
        MATPLOTLIBRC=str(folder / 'matplotlibrc'), MPLBACKEND='Agg'))
    assert done.returncode == 0, done.stderr.decode()
    run.memory = int(done.stdout.split()[-1])
    run.notebook = nbformat.read(run.folder / 'run.ipynb', as_version=4)
    run.figures, run.cells = figures(run.notebook), code_cells(run.notebook)
    return run


@pytest.fixture(params=NOTEBOOKS)
def name(request):
    """Return the name of a notebook, one after the other."""
    return request.param


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
    """Return a function (name, data) -> a short run of all cells, executed when it is first asked for."""
    return functools.cache(lambda name, data: run_by_a_tool(name, data, tmp_path_factory.mktemp(f'{name}-{data}')))


@pytest.fixture(params=['sample', 'full'])
def run(request, name, runs):
    """Return a short run of a notebook, on the sample and on the full data."""
    return runs(name, request.param)


@functools.cache
def again(name, data):
    """Return the variables of the same cells, run in this process with the same parameters."""
    parameters = {'data_dir': str(FULL if data == 'full' else SAMPLE), **PARAMETERS[name, data]}
    parameters.pop('picture', None)
    return cells_up_to(name, LAST[name], **parameters)


def networks(run):
    """Return the networks of a run by the names of their rows; of a long training only the one that it has kept."""
    if run.name != 'ConvDAE':
        return {'reconstructed': again(run.name, run.kind)['model']}
    kept = keras.models.load_model(run.folder / run.parameters['model_file'])
    others = {} if run.kind == 'full' else again('ConvDAE', 'sample')['networks']
    return {**others, **dict.fromkeys(['convolutional', 'reconstructed', 'denoised'], kept)}


def network(run):
    """Return the network that a notebook trains."""
    return networks(run)['reconstructed']


def rows(run, title):
    """Return the rows of the figure with that in its title: from the name of a row to an array of images."""
    (figure,) = (figure for each, figure in run.figures.items() if title in each)
    return figure['rows']


def images(run, file=TEST):
    """Return the images of a run, read from the archive: float, shape (count, 28, 28)."""
    return read_pixels(run.data / file).reshape(-1, 28, 28) / 255


def add_noise(run, images):
    """Return images under the noise that a notebook puts on all that it tests with."""
    normal = tf.random.stateless_normal(np.shape(images), (run.parameters['seed'], 0)).numpy()
    return np.clip(images + run.parameters['noise_factor'] * normal, 0, 1)


def rebuild(model, images):
    """Return what a model makes of images, shape (count, height, width)."""
    logits = model.predict(np.reshape(images, (-1, *model.input_shape[1:])), verbose=0).astype(float)
    return 1 / (1 + np.exp(-logits.reshape(np.shape(images))))


def psnr(clean, images):
    """Return the peak signal-to-noise ratio of each image."""
    return -10 * np.log10(np.mean((clean - images)**2, axis=(1, 2)))


def measures(clean, images):
    """Return cross-entropy, PSNR and SSIM of images."""
    images = np.reshape(images, clean.shape).astype(float)
    pixels = np.clip(images, np.float32(1e-7), 1 - np.float32(1e-7))    # as Keras does, in float32
    cross_entropy = -np.mean(clean * np.log(pixels) + (1 - clean) * np.log(1 - pixels))
    ssim = tf.image.ssim(clean[..., np.newaxis], images[..., np.newaxis], max_val=1)
    return cross_entropy, np.mean(psnr(clean, images)), np.mean(ssim)


def losses(run):
    """Return the losses that are drawn beside the original's: from the label of a curve to its values."""
    (curves,) = (figure['curves'] for title, figure in run.figures.items() if 'with the original' in title)
    own = {'BasicAE': f'rate {run.parameters["learning_rate"]}'}.get(run.name, 'this notebook')
    found = {label.split(':')[0]: values for label, values in curves.items()}    # without the last of them
    return found[own], found['the original, 2017']


def test_runs_clean(run):
    """No warnings, redrawn lines, or paths of this machine; nothing is written but the network."""
    assert_clean(run.notebook, str(run.data))
    written = {path.name for path in run.folder.iterdir()} - {'MNIST_data', f'{run.name}.ipynb', 'run.ipynb'}
    assert written == {*PICTURES, *([run.parameters['model_file']] if run.name == 'ConvDAE' else [])}


def test_figures_look_as_they_should_under_a_reader_s_settings(run):
    looks = [figure['look'] for figure in run.figures.values() if 'look' in figure]
    assert looks == [[0, 1, 'Greys_r', [1, 1, 1, 1]]] * len(looks) != []


@of_the('full')
def test_needs_less_than_one_and_a_half_gigabytes(run):
    assert run.memory < 1_500_000


def test_prints_one_line_per_epoch_with_a_falling_loss(run):
    own, epochs = losses(run)[0], run.parameters['epochs']
    assert len(own) == epochs
    assert re.findall('epoch .*', printed(run.cells['train'])) == [
        f'epoch {epoch:2}/{epochs}  loss {loss:.4f}' for epoch, loss in enumerate(own, start=1)]
    assert np.all(np.diff([math.log(2), *own]) < 0)    # from that of guessing on


@of_the('sample')
def test_loss_curve_shows_the_original_s_and_names_all_that_differs(run):
    (title,) = (title for title in run.figures if 'with the original' in title)
    assert losses(run)[1] == ORIGINAL_LOSSES[run.name]['mean_loss_per_epoch']
    differ = {'BasicAE': ['37 hidden units', '0.05 learning rate'],
              'EasyDAE': ['37 hidden units', '0.3 noise factor', '0.002 learning rate'],
              'ConvDAE': ['0.3 noise factor', '0.002 learning rate']}[run.name]
    differ += ['other data, not MNIST', '100 batch size, not 128']
    assert 'NOT COMPARABLE' in title and all(each in title for each in differ)
    assert title.count(', not ') == len(differ)


def test_first_row_holds_the_digits_that_are_asked_for(run):
    drawn = rows(run, 'test digits, rebuilt' if run.name == 'BasicAE' else 'Test digits under noise')
    np.testing.assert_allclose(drawn['original'], images(run)[run.parameters['shown']], atol=1e-6)


def test_rows_show_what_the_networks_make_of_the_very_digits_above(run):
    """In all figures. The original drew noisy digits and fed clean ones."""
    known, count = networks(run), 0
    for figure in run.figures.values():
        drawn = figure['rows']
        for label, each in known.items():
            if label in drawn:
                (fed,) = [drawn[above] for above in ('noisy', 'noise alone') if above in drawn] or [drawn['original']]
                np.testing.assert_allclose(drawn[label], rebuild(each, fed), atol=1e-4)
                count += 1
    assert count == {'ConvDAE': {'sample': 8, 'full': 5}[run.kind]}.get(run.name, 1)


@only('BasicAE')
def test_hidden_numbers_paint_the_digit_the_strongest_first(run):
    drawn = rows(run, 'A digit painted by its hidden numbers')
    single, together = drawn['this number'], drawn['sum so far']
    np.testing.assert_allclose(together[-1], rows(run, 'test digits, rebuilt')['reconstructed'][0], atol=1e-4)
    assert np.all(np.diff(np.abs(single - 0.5).sum(axis=(1, 2))) <= 1e-3)    # grey is nothing


@only('BasicAE')
@of_the('sample')
def test_pca_is_that_of_the_training_images(run):
    train_images, test_images = (images(run, file).reshape(-1, 784) for file in (TRAIN, TEST))
    mean, (_, directions) = train_images.mean(axis=0), np.linalg.eigh(np.cov(train_images, rowvar=False))
    found = re.findall(r'(\d+) numbers: .*, PCA +([\d.]+) dB', printed(run.cells['size_curve']))
    assert [int(size) for size, _ in found] == run.parameters['sizes']
    for size, value in found:
        basis = directions[:, -int(size):]
        rebuilt = np.clip(mean + (test_images - mean) @ basis @ basis.T, 0, 1).reshape(-1, 28, 28)
        assert float(value) == pytest.approx(psnr(images(run), rebuilt).mean(), abs=0.01)


@only('ConvDAE')
def test_curve_of_moved_digits_is_that_of_a_fifth_of_the_test_images(run):
    (curves,) = (figure['curves'] for title, figure in run.figures.items() if 'how far they are moved' in title)
    for label in curves.keys() & networks(run).keys():
        for distance, value in zip(run.parameters['distances'], curves[label], strict=True):
            inner = images(run)[::5, distance:, distance:]
            clean = np.pad(inner, ((0, 0), (0, distance), (0, distance)))    # moved up and left
            denoised = rebuild(networks(run)[label], add_noise(run, clean))
            assert value == pytest.approx(psnr(clean, denoised).mean(), abs=0.02)


@only('ConvDAE')
def test_a_page_of_digits_is_denoised_in_one_piece_and_in_tiles(run):
    (page, noisy), (piece, tiles) = rows(run, 'A page of test digits').values()
    digits, fed, made = (each.reshape(6, 28, 6, 28).swapaxes(1, 2).reshape(36, 28, 28) for each in (page, noisy, tiles))
    np.testing.assert_allclose(digits, images(run)[:36], atol=1e-6)
    np.testing.assert_allclose(made, rebuild(network(run), fed), atol=1e-4)
    uncropped = keras.Sequential([
        layer for layer in network(run).layers[1:] if not isinstance(layer, keras.layers.Cropping2D)])
    np.testing.assert_allclose(piece, tf.sigmoid(uncropped(noisy[np.newaxis, ..., np.newaxis]))[0, ..., 0], atol=1e-4)


@only('ConvDAE')
def test_the_saved_network_needs_no_notebook(run):
    """Plain Keras has loaded it for these tests: the article's layers, though trained through another network."""
    assert {type(layer).__module__.split('.')[0] for layer in network(run).layers} == {'keras'}
    assert printed(run.cells['save']) == f'{run.parameters["model_file"]} holds 121,281 weights\n'


@only('BasicAE', 'EasyDAE')
@of_the('sample')
def test_another_process_with_other_settings_gives_the_same_run(run):
    """To the last bit; the run in the kernel was under Keras's and matplotlib's settings of a reader."""
    assert again(run.name, 'sample')['losses'] == losses(run)[0]


def denoised(run, noisy):
    """Return what a notebook makes of all noisy images, by what the row in its table begins with."""
    if run.name == 'ConvDAE':
        rebuilt = {label: rebuild(each, noisy) for label, each in networks(run).items()}
        return {label: rebuilt[label] for label in rebuilt.keys() - {'reconstructed', 'denoised'}}
    padded, units = np.pad(noisy, ((0, 0), (1, 1), (1, 1)), 'edge'), run.parameters['hidden_units']
    windows, space = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2)), again(run.name, run.kind)
    return {f'EasyDAE, {units} numbers': rebuild(network(run), noisy), 'median filter': np.median(windows, axis=(3, 4)),
            'linear map  ': space['linear'], f'linear map, {units} numbers': space['narrow']}


def test_figures_of_merit_are_those_of_all_test_images(run):
    """All rows that a notebook prints."""
    clean = images(run)
    if run.name == 'BasicAE':
        cell_id, expected = 'results', {f'{len(clean):,} test images': rebuild(network(run), clean)}
    else:
        noisy = add_noise(run, clean)
        cell_id, expected = 'table', {'noisy': noisy, **denoised(run, noisy)}
    for label, each in expected.items():
        (line,) = re.findall(rf'^{re.escape(label)}[ :].*', printed(run.cells[cell_id]), re.MULTILINE)
        found = [float(number) for number in re.findall(r'\d+\.\d+', line)]
        np.testing.assert_allclose(found, measures(clean, each), atol=5e-3, err_msg=line)
