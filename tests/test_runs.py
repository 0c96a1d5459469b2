"""Each notebook, run top to bottom by a reader's own tool: what it prints, draws and measures is what it says."""
import functools
import json
import math
import re
import shutil
import subprocess
import sys
from statistics import NormalDist
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
NOISY = ('EasyDAE', 'ConvDAE')
LAST = {'BasicAE': 'train', 'EasyDAE': 'narrow', 'ConvDAE': 'dense'}    # cells that the tests need to have run


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
    run = SimpleNamespace(name=name, full=data == 'full', folder=folder / 'my notebooks, Übung 数字')
    shutil.copytree(SAMPLE, run.folder / 'MNIST_data' / 'sample')
    draw_digits(run.folder)
    for file, content in SETTINGS.items():
        (folder / file).write_text(content)
    changed, run.parameters = PARAMETERS[name, data] | ({'data_dir': str(FULL)} if run.full else {}), {}
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
    run.data = FULL if run.full else SAMPLE
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
def again(name, full):
    """Return the variables of the same cells, run in this process with the same parameters."""
    parameters = {'data_dir': str(FULL if full else SAMPLE), **PARAMETERS[name, 'full' if full else 'sample']}
    parameters.pop('picture', None)
    return cells_up_to(name, LAST[name], **parameters)


def networks(run):
    """Return the networks of a run by the names of their rows; of a long training only the one that it has kept."""
    kept = keras.models.load_model(run.folder / run.parameters['model_file'])
    return {'convolutional': kept} if run.full else {**again('ConvDAE', False)['networks'], 'convolutional': kept}


def network(run):
    """Return the network that a notebook trains."""
    return networks(run)['convolutional'] if run.name == 'ConvDAE' else again(run.name, run.full)['model']


def rows(run, title):
    """Return the rows of the figure with that in its title: from the name of a row to an array of images."""
    (figure,) = (figure for each, figure in run.figures.items() if title in each)
    return figure['rows']


def images(run, part):
    """Return the training or test images of a run, read from the archive: float, shape (count, 28, 28)."""
    return read_pixels(run.data / {'train': TRAIN, 'test': TEST}[part]).reshape(-1, 28, 28) / 255


def add_noise(run, images):
    """Return images under the noise that a notebook puts on all that it tests with."""
    normal = tf.random.stateless_normal(np.shape(images), (run.parameters['seed'], 0)).numpy()
    return np.clip(images + run.parameters['noise_factor'] * normal, 0, 1)


def rebuild(model, images):
    """Return what a model makes of images, shape (count, height, width)."""
    logits = model.predict(np.reshape(images, (-1, *model.input_shape[1:])), verbose=0).astype(float)
    return 1 / (1 + np.exp(-logits.reshape(np.shape(images))))


def measures(clean, images):
    """Return cross-entropy, PSNR and SSIM of images."""
    clean, images = (np.reshape(each, (-1, 28, 28)).astype(float) for each in (clean, images))
    pixels = np.clip(images, np.float32(1e-7), 1 - np.float32(1e-7))    # as Keras does, in float32
    cross_entropy = -np.mean(clean * np.log(pixels) + (1 - clean) * np.log(1 - pixels))
    ssim = tf.image.ssim(clean[..., np.newaxis], images[..., np.newaxis], max_val=1)
    return cross_entropy, np.mean(psnr(clean, images)), np.mean(ssim)


def noisy_images(run):
    """Return all test images under noise."""
    return add_noise(run, images(run, 'test'))


def psnr(clean, images):
    """Return the peak signal-to-noise ratio of each image."""
    return -10 * np.log10(np.mean((clean - images)**2, axis=(1, 2)))


def assert_measures(run, cell_id, label, denoised):
    """Assert that the line that begins with a label holds the figures of merit of all test images, denoised."""
    (line,) = re.findall(rf'^{re.escape(label)}[ :].*', printed(run.cells[cell_id]), re.MULTILINE)
    numbers = [float(number) for number in re.findall(r'\d+\.\d+', line)]
    np.testing.assert_allclose(numbers, measures(images(run, 'test'), denoised), atol=5e-3, err_msg=line)


def test_runs_clean(run):
    """No warnings, redrawn lines, or paths of this machine; nothing is written but the network."""
    assert_clean(run.notebook, str(run.data))
    written = {path.name for path in run.folder.iterdir()} - {'MNIST_data', f'{run.name}.ipynb', 'run.ipynb'}
    kept = {run.parameters['model_file']} if run.name == 'ConvDAE' else set()
    assert written == {*kept, *PICTURES}


def test_figures_look_as_they_should_under_a_reader_s_settings(run):
    looks = [figure['look'] for figure in run.figures.values() if 'look' in figure]
    assert looks == [[0, 1, 'Greys_r', [1, 1, 1, 1]]] * len(looks) != []


@pytest.mark.parametrize('run', ['sample'], indirect=True)
def test_says_that_the_sample_is_all_it_has(run):
    said = printed(run.cells['load_images'])
    assert 'refused' in said and said.endswith(': on to the sample in MNIST_data/sample.\n')
    assert printed(run.cells['images']) == '4,000 training images and 1,000 test images from MNIST_data/sample\n'


@pytest.mark.parametrize('run', ['full'], indirect=True)
def test_needs_less_than_one_and_a_half_gigabytes(run):
    assert run.memory < 1_500_000


def losses(run):
    """Return the losses that are drawn beside the original's: from the label of a curve to its values."""
    (curves,) = (figure['curves'] for title, figure in run.figures.items() if 'with the original' in title)
    return {label.split(':')[0]: values for label, values in curves.items()}    # without the last of them


def own_losses(run):
    """Return the losses of the network that the notebook trains."""
    return losses(run)[f'rate {run.parameters["learning_rate"]}' if run.name == 'BasicAE' else 'this notebook']


def test_prints_one_line_per_epoch_with_a_falling_loss(run):
    epochs = run.parameters['epochs']
    assert re.findall('epoch .*', printed(run.cells['train'])) == [
        f'epoch {epoch:2}/{epochs}  loss {loss:.4f}' for epoch, loss in enumerate(own_losses(run), start=1)]
    assert len(own_losses(run)) == epochs
    assert np.all(np.diff([math.log(2), *own_losses(run)]) < 0)    # from that of guessing on


def test_stores_no_redraws(run):
    """ConvDAE's line of progress is stored as it was at the end; the others, whose epochs are short, have none."""
    lines = [output.data['text/plain'] for output in run.cells['train'].outputs if output.output_type == 'display_data']
    steps = len(images(run, 'train')) // run.parameters['batch_size']
    last = rf'step {steps} of {steps}, loss 0\.\d{{4}}, \d+ s'
    assert [re.fullmatch(last, line) is not None for line in lines] == [True] * (run.name == 'ConvDAE')


def test_loss_curve_shows_the_original_s_and_says_whether_they_may_be_compared(run):
    (title,) = (title for title in run.figures if 'with the original' in title)
    assert losses(run)['the original, 2017'] == ORIGINAL_LOSSES[run.name]['mean_loss_per_epoch']
    differ = {'BasicAE': ['37 hidden units', '0.05 learning rate'],
              'EasyDAE': ['37 hidden units', '0.3 noise factor', '0.002 learning rate'],
              'ConvDAE': ['0.3 noise factor', '0.002 learning rate']}[run.name]
    for each in ['other data, not MNIST', '100 batch size, not 128', *differ]:
        assert (each in title) != run.full
    assert title.count(', not ') == (0 if run.full else len(differ) + 2)
    assert ('NOT COMPARABLE' in title) != run.full


def test_rows_show_what_the_network_makes_of_the_very_digits_above(run):
    """The original drew noisy digits and fed clean ones."""
    drawn = rows(run, 'test digits, rebuilt' if run.name == 'BasicAE' else 'Test digits under noise')
    np.testing.assert_allclose(drawn['original'], images(run, 'test')[run.parameters['shown']], atol=1e-6)
    fed = drawn['original' if run.name == 'BasicAE' else 'noisy']
    np.testing.assert_allclose(drawn['reconstructed'], rebuild(network(run), fed), atol=1e-4)


@pytest.mark.parametrize('name', NOISY, indirect=True)
def test_noise_in_the_rows_is_of_the_factor_in_the_title(run):
    factor = run.parameters['noise_factor']
    drawn = rows(run, f'Test digits under noise of factor {factor}, and denoised')
    black = drawn['original'] == 0
    assert np.mean(drawn['noisy'][black] > factor) == pytest.approx(1 - NormalDist().cdf(1), abs=0.03)


@pytest.mark.parametrize('name', ['BasicAE'], indirect=True)
def test_hidden_vectors_are_drawn_as_squares(run):
    weights, bias = network(run).get_layer('hidden').get_weights()
    drawn, units = rows(run, 'test digits, rebuilt'), run.parameters['hidden_units']
    hidden = np.maximum(drawn['original'].reshape(-1, 784) @ weights + bias, 0)
    (squares,) = (squares for label, squares in drawn.items() if 'hidden' in label)
    assert squares.shape[1] == squares.shape[2] == math.ceil(math.sqrt(units))
    squares = squares.reshape(len(hidden), -1)
    np.testing.assert_allclose(squares[:, :units], hidden / hidden.max(), atol=1e-5)
    assert np.isnan(squares[:, units:].astype(float)).all()    # blank


@pytest.mark.parametrize('name', ['BasicAE'], indirect=True)
def test_hidden_numbers_paint_the_digit_the_strongest_first(run):
    drawn = rows(run, 'A digit painted by its hidden numbers')
    single, together = drawn['this number'], drawn['sum so far']
    np.testing.assert_allclose(together[-1], rows(run, 'test digits, rebuilt')['reconstructed'][0], atol=1e-4)
    strengths = np.abs(single - 0.5).sum(axis=(1, 2))    # grey is nothing
    assert np.all(np.diff(strengths) <= 1e-3)
    assert np.abs(together[0] - together[-1]).mean() > np.abs(together[-2] - together[-1]).mean() > 0


@pytest.mark.parametrize(('name', 'run'), [('BasicAE', 'sample')], indirect=True)
def test_pca_is_that_of_the_training_images(run):
    train_images, test_images = (images(run, part).reshape(-1, 784) for part in ('train', 'test'))
    mean = train_images.mean(axis=0)
    directions = np.linalg.eigh(np.cov(train_images, rowvar=False))[1][:, ::-1]
    found = re.findall(r'(\d+) numbers: .*, PCA +([\d.]+) dB', printed(run.cells['size_curve']))
    assert [int(size) for size, _ in found] == run.parameters['sizes']
    for size, value in found:
        basis = directions[:, :int(size)]
        rebuilt = np.clip(mean + (test_images - mean) @ basis @ basis.T, 0, 1)
        assert float(value) == pytest.approx(measures(test_images, rebuilt)[1], abs=0.01)


@pytest.mark.parametrize('name', ['BasicAE'], indirect=True)
def test_basicae_s_figures_of_merit_are_those_of_all_test_images(run):
    count = len(images(run, 'test'))
    assert_measures(run, 'results', f'{count:,} test images', rebuild(network(run), images(run, 'test')))


@pytest.mark.parametrize('name', NOISY, indirect=True)
def test_figures_of_merit_under_noise_are_those_of_all_test_images(run):
    assert_measures(run, 'table', 'noisy', noisy_images(run))


@pytest.mark.parametrize('name', ['EasyDAE'], indirect=True)
def test_easydae_s_figures_of_merit_are_those_of_all_test_images(run):
    units = run.parameters['hidden_units']
    assert_measures(run, 'table', f'EasyDAE, {units} numbers', rebuild(network(run), noisy_images(run)))


@pytest.mark.parametrize('name', ['EasyDAE'], indirect=True)
def test_the_median_filter_takes_the_median_of_nine(run):
    padded = np.pad(noisy_images(run), ((0, 0), (1, 1), (1, 1)), 'edge')
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
    assert_measures(run, 'table', 'median filter', np.median(windows, axis=(3, 4)))


@pytest.mark.parametrize('name', ['EasyDAE'], indirect=True)
def test_the_linear_maps_figures_of_merit_are_those_of_all_test_images(run):
    space, units = again(run.name, run.full), run.parameters['hidden_units']
    assert_measures(run, 'table', 'linear map  ', space['linear'])
    assert_measures(run, 'table', f'linear map, {units} numbers', space['narrow'])


@pytest.mark.parametrize('name', ['ConvDAE'], indirect=True)
def test_convdae_s_figures_of_merit_are_those_of_all_test_images(run):
    for label, each in networks(run).items():
        assert_measures(run, 'table', label, rebuild(each, noisy_images(run)))


@pytest.mark.parametrize('name', ['ConvDAE'], indirect=True)
def test_table_says_how_large_each_network_is_and_how_long_it_was_trained(run):
    """Weights, counted here, and the epochs of each, which are the same for all."""
    epochs, units = run.parameters['epochs'], run.parameters['dense_units'][0]
    for label, weights in {'convolutional': 121_281, f'dense {units}': 2 * 784 * units + units + 784}.items():
        assert re.search(rf'^{label} +{weights:,} +{epochs} +\d+ ', printed(run.cells['table']), re.MULTILINE)


@pytest.mark.parametrize('name', ['ConvDAE'], indirect=True)
def test_networks_are_compared_on_the_same_noisy_digits(run):
    drawn, first = rows(run, 'The same noisy digits'), rows(run, 'Test digits under noise')
    assert drawn.keys() == {'original', 'noisy', 'convolutional', f'dense {run.parameters["dense_units"][0]}'}
    np.testing.assert_array_equal([drawn['original'], drawn['noisy']], [first['original'], first['noisy']])
    for label, each in networks(run).items():
        np.testing.assert_allclose(drawn[label], rebuild(each, drawn['noisy']), atol=1e-4)


def move(images, distance):
    """Return images moved up and left; what comes in is black."""
    moved = np.zeros_like(images)
    moved[:, :28 - distance, :28 - distance] = images[:, distance:, distance:]
    return moved


@pytest.mark.parametrize('name', ['ConvDAE'], indirect=True)
def test_a_digit_is_moved_up_and_left(run):
    drawn, digit = rows(run, 'One test digit, moved up and left'), images(run, 'test')[run.parameters['shown'][0]]
    expected = [move(digit[np.newaxis], distance)[0] for distance in run.parameters['distances']]
    np.testing.assert_allclose(drawn['moved'], expected, atol=1e-6)
    for label, each in networks(run).items():
        np.testing.assert_allclose(drawn[label], rebuild(each, drawn['noisy']), atol=1e-4)


@pytest.mark.parametrize('name', ['ConvDAE'], indirect=True)
def test_curve_of_moved_digits_is_that_of_a_fifth_of_the_test_images(run):
    (curves,) = (figure['curves'] for title, figure in run.figures.items() if 'how far they are moved' in title)
    for label, each in networks(run).items():
        for distance, value in zip(run.parameters['distances'], curves[label], strict=True):
            clean = move(images(run, 'test')[::5], distance)
            assert value == pytest.approx(psnr(clean, rebuild(each, add_noise(run, clean))).mean(), abs=0.02)


def cut(page):
    """Return the 36 images of a page."""
    return page.reshape(6, 28, 6, 28).swapaxes(1, 2).reshape(36, 28, 28)


@pytest.mark.parametrize('name', ['ConvDAE'], indirect=True)
def test_a_page_of_digits_is_denoised_in_one_piece_and_in_tiles(run):
    (page, noisy), (piece, tiles) = rows(run, 'A page of test digits').values()
    np.testing.assert_allclose(cut(page), images(run, 'test')[:36], atol=1e-6)
    np.testing.assert_allclose(cut(tiles), rebuild(network(run), cut(noisy)), atol=1e-4)
    uncropped = keras.Sequential([
        layer for layer in network(run).layers[1:] if not isinstance(layer, keras.layers.Cropping2D)])
    np.testing.assert_allclose(piece, tf.sigmoid(uncropped(noisy[np.newaxis, ..., np.newaxis]))[0, ..., 0], atol=1e-4)
    assert printed(run.cells['page']) == ''.join(
        f'PSNR {way}: {-10 * np.log10(np.mean((page - each)**2)):.2f} dB\n'
        for way, each in (('in one piece', piece), ('in tiles', tiles)))


@pytest.mark.parametrize('name', ['ConvDAE'], indirect=True)
def test_each_network_denoises_noise_alone(run):
    drawn = rows(run, 'What each network makes of noise without a digit')
    noise, factor = drawn['noise alone'], run.parameters['noise_factor']
    for level in (0, factor):
        assert np.mean(noise <= level) == pytest.approx(NormalDist(0, factor).cdf(level), abs=0.03)
    for label, each in networks(run).items():
        np.testing.assert_allclose(drawn[label], rebuild(each, noise), atol=1e-4)


@pytest.mark.parametrize(('name', 'run'), [('ConvDAE', 'sample')], indirect=True)
def test_pictures_of_one_s_own_are_denoised(run):
    drawn = rows(run, 'Digits that are not from MNIST')
    assert len(drawn['picture']) == len(PICTURES)
    assert drawn['picture'].max(axis=(1, 2)) == pytest.approx(1, abs=0.1)    # white on black
    np.testing.assert_allclose(drawn['denoised'], rebuild(network(run), drawn['noisy']), atol=1e-4)


@pytest.mark.parametrize('name', ['ConvDAE'], indirect=True)
def test_the_saved_network_needs_no_notebook(run):
    """Plain Keras has loaded it for these tests: the article's layers, though trained through another network."""
    assert {type(layer).__module__.split('.')[0] for layer in network(run).layers} == {'keras'}
    assert printed(run.cells['save']) == f'{run.parameters["model_file"]} holds 121,281 weights\n'


@pytest.mark.parametrize('name', ['BasicAE', 'EasyDAE'])
def test_another_process_with_other_settings_gives_the_same_run(name, runs):
    """To the last bit; the run in the kernel was under Keras's and matplotlib's settings of a reader."""
    assert again(name, full=False)['losses'] == own_losses(runs(name, 'sample'))
