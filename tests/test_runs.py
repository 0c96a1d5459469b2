"""Each notebook, run top to bottom with few epochs: what it prints, draws and measures is what it says."""
import math
import re
from statistics import NormalDist

import numpy as np
import pytest
from conftest import ARTICLE, PARAMETERS, SAMPLE, Cells, code_cells, import_tensorflow
from produced import assert_clean

keras = import_tensorflow()

NOISY = ('EasyDAE', 'ConvDAE')
TIMES = re.compile(r'\d+ (s in all|ms)')


def rebuild(model, images):
    """Return what a model makes of images, shape (count, 28, 28)."""
    logits = model.predict(np.reshape(images, (-1, *model.input_shape[1:])), verbose=0).astype(float)
    return 1 / (1 + np.exp(-logits.reshape(-1, 28, 28)))


def measures(clean, images):
    """Return cross-entropy, PSNR and SSIM of images."""
    from tensorflow.image import ssim
    clean, images = (np.reshape(each, (-1, 28, 28)).astype(float) for each in (clean, images))
    pixels = np.clip(images, np.float32(1e-7), 1 - np.float32(1e-7))    # as Keras does, in float32
    cross_entropy = -np.mean(clean * np.log(pixels) + (1 - clean) * np.log(1 - pixels))
    psnr = np.mean(-10 * np.log10(np.mean((clean - images)**2, axis=(1, 2))))
    return cross_entropy, psnr, np.mean(ssim(clean[..., np.newaxis], images[..., np.newaxis], max_val=1))


def test_runs_clean(run, name):
    assert_clean(run.notebook, str(run.data))
    assert ('refused): using the sample in MNIST_data/sample.\n' in run.printed('load_images')) != run.full
    written = {path.name for path in run.folder.iterdir()} - {'MNIST_data', f'{name}.ipynb', 'run.ipynb'}
    assert written == ({'ConvDAE.keras'} if name == 'ConvDAE' else set())
    if run.full and run['status']:
        assert int(re.search(r'VmHWM:\s+(\d+) kB', run['status'])[1]) < 1_500_000    # the peak of its memory


def test_prints_one_line_per_epoch_and_stores_no_redraws(run, name):
    lines = re.findall(r'^epoch .*', run.printed('train'), re.MULTILINE)
    assert lines == [f'epoch {epoch:2}/{run["epochs"]}  loss {loss:.4f}' for epoch, loss in
                     enumerate(run['losses'], start=1)]
    assert np.all(np.diff([math.log(2), *run['losses']]) < 0)    # from the loss of guessing on
    progress = [output.data['text/plain'] for output in code_cells(run.notebook)['train'].outputs
                if output.output_type == 'display_data']
    if name == 'ConvDAE':    # whose epochs take half a minute
        steps = len(run.images('train')) // run['batch_size']
        assert re.fullmatch(rf'step {steps} of {steps}, loss 0\.\d{{4}}, \d+ s', progress.pop())
    assert progress == []


def test_loss_curve_says_whether_it_may_be_compared_with_the_original(run, name):
    ((title, figure),) = ((title, figure) for title, figure in run['figures'].items() if title.startswith('Training'))
    values = {label.split(':')[0]: values for label, values in figure['curves'].items()}
    original = values['the original, 2017']
    assert (len(original), original[0], original[-1]) == {
        'BasicAE': (20, 0.1329, 0.0950), 'EasyDAE': (30, 0.2596, 0.1269), 'ConvDAE': (10, 0.1814, 0.0996)}[name]
    assert run['losses'] in values.values()
    assert ('NOT COMPARABLE' in title) != run.full
    assert title.count(', not ') == (0 if run.full else {'BasicAE': 4, 'EasyDAE': 5, 'ConvDAE': 4}[name])
    assert run.full or '4,000 training images, not 60,000; ' in title


def test_rows_show_what_the_network_makes_of_the_very_digits_above(run, name):
    """The original drew noisy digits and fed clean ones."""
    rows = run.rows('test digits, rebuilt' if name == 'BasicAE' else 'Test digits under noise')
    originals = run.images('test')[run['shown']]
    np.testing.assert_allclose(rows['original'], originals, atol=1e-6)
    fed = rows['original' if name == 'BasicAE' else 'noisy']
    np.testing.assert_allclose(rows['reconstructed'], rebuild(run['model'], fed), atol=1e-4)
    if name != 'BasicAE':
        share = np.mean((fed - originals)[originals == 0] > run['noise_factor'])
        assert share == pytest.approx(1 - NormalDist().cdf(1), abs=0.03)


@pytest.mark.parametrize('name', ['BasicAE'])
def test_hidden_vectors_are_drawn_as_squares_and_paint_the_digit(run):
    weights, bias = run['model'].get_layer('hidden').get_weights()
    hidden = np.maximum(run.images('test')[run['shown']].reshape(-1, 784) @ weights + bias, 0)
    (squares,) = (images for name, images in run.rows('test digits, rebuilt').items() if 'hidden' in name)
    assert squares.shape[1] == squares.shape[2] == math.ceil(math.sqrt(run['hidden_units']))
    squares = squares.reshape(len(hidden), -1)
    np.testing.assert_allclose(squares[:, :run['hidden_units']], hidden / hidden.max(), atol=1e-5)
    assert np.isnan(squares[:, run['hidden_units']:]).all()    # blank
    single, together = run.rows('A digit painted by its hidden numbers').values()
    np.testing.assert_allclose(together[-1], run.rows('test digits, rebuilt')['reconstructed'][0], atol=1e-4)
    strengths = np.abs(single - 0.5).sum(axis=(1, 2))    # grey is nothing
    assert np.all(np.diff(strengths) <= 1e-3)    # the strongest first
    assert np.abs(together[0] - together[-1]).mean() > np.abs(together[-2] - together[-1]).mean() > 0


@pytest.mark.parametrize(('name', 'run'), [('BasicAE', 'sample')], indirect=['run'])
def test_pca_is_that_of_the_training_images(run):
    train_images, test_images = (run.images(part).reshape(-1, 784) for part in ('train', 'test'))
    mean = train_images.mean(axis=0)
    directions = np.linalg.svd(train_images - mean, full_matrices=False)[2]
    for size, psnr in zip(run['sizes'], run['pca_psnr']):
        rebuilt = np.clip(mean + (test_images - mean) @ directions[:size].T @ directions[:size], 0, 1)
        assert psnr == pytest.approx(measures(test_images, rebuilt)[1], abs=0.01)
    assert len(run['pca_psnr']) == len(run['sizes'])


def test_table_holds_the_figures_of_merit_of_all_test_images(run, name):
    if name == 'BasicAE':
        table = re.findall(r'(test images): cross-entropy ([\d.]+), PSNR ([\d.]+) dB, SSIM ([\d.]+)\n',
                           run.printed('results'))
        expected = {'test images': run['reconstructed']}
    else:
        table = re.findall(r'^(\S.*?) +[\d,]+ +([\d.]+) +([\d.]+) +([\d.]+)$', run.printed('table'), re.MULTILINE)
        expected = {'noisy': run['noisy_images'], 'linear map': run['linear']}
        if name == 'EasyDAE':
            padded = np.pad(run['noisy_images'].reshape(-1, 28, 28), ((0, 0), (1, 1), (1, 1)), 'edge')
            windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
            expected |= {'median filter': np.median(windows, axis=(3, 4)),
                         f'linear map, {run["hidden_units"]} numbers': run['narrow'],
                         f'EasyDAE, {run["hidden_units"]} numbers': run['reconstructed']}
        else:
            expected |= {each: rebuild(network, run['noisy_images']) for each, network in run['networks'].items()}
    assert {label for label, *_ in table} == set(expected)
    for label, *printed in table:
        for value, digits, tolerance in zip(printed, measures(run.images('test'), expected[label]), (2e-3, 0.02, 2e-3)):
            assert float(value) == pytest.approx(digits, abs=tolerance), label


@pytest.mark.parametrize('name', ['ConvDAE'])
def test_networks_are_compared_on_the_same_noisy_digits(run):
    rows, first = run.rows('The same noisy digits'), run.rows('Test digits under noise')
    assert list(rows) == ['original', 'noisy', 'linear map', *run['networks']]
    np.testing.assert_array_equal([rows['original'], rows['noisy']], [first['original'], first['noisy']])
    moved = run.rows('One test digit, moved up and left')
    for images in (rows, moved, run.rows('Salt and pepper')):
        for name, network in run['networks'].items():
            fed = images['noisy' if 'noisy' in images else 'salt and pepper']
            np.testing.assert_allclose(images[name], rebuild(network, fed), atol=1e-4)
    digit, *_ = rows['original']
    for image, distance in zip(moved['moved'], run['distances']):
        expected = np.zeros((28, 28))
        expected[:28 - distance, :28 - distance] = digit[distance:, distance:]
        np.testing.assert_allclose(image, expected, atol=1e-6)


def test_the_saved_network_needs_no_notebook(runs):
    """Plain Keras loads what was trained through `faster`, with the article's layers only."""
    run = runs('ConvDAE', 'sample')
    loaded = keras.models.load_model(run.folder / 'ConvDAE.keras')
    assert {type(layer).__module__.split('.')[0] for layer in loaded.layers} == {'keras'}
    noisy = run['noisy_images'][:50]
    np.testing.assert_allclose(rebuild(loaded, noisy), rebuild(run['model'], noisy), atol=1e-4)
    assert run.printed('save').endswith('the same output to the last bit: True\n')


@pytest.mark.parametrize('name', NOISY)
def test_noise_is_gaussian_with_the_given_factor_and_clipped(name):
    space = Cells(name, noise_factor=0.3).run('setup', 'parameters', 'add_noise')
    grey = np.full((500, 784), 0.5, 'float32')
    noisy, again, other = (space['add_noise'](grey, seed).numpy() for seed in ((3, 4), (3, 4), (3, 5)))
    np.testing.assert_array_equal(noisy, again)
    assert np.abs(np.corrcoef(noisy.ravel(), other.ravel())[0, 1]) < 0.01
    assert (noisy.min(), noisy.max()) == (0, 1)
    for level in np.linspace(0, 0.99, 34):
        assert np.mean(noisy <= level) == pytest.approx(NormalDist(0.5, 0.3).cdf(level), abs=0.005)


def test_batches_hold_all_images_in_a_new_order_with_new_noise(name):
    """The size of a batch stays open: where TensorFlow knows it, it may add up gradients in varying order."""
    space = Cells(name, data_dir=str(SAMPLE), batch_size=500, **ARTICLE[name]).run_to('batches')
    batches, train_images = space['train_batches'], np.reshape(space['train_images'], (-1, 784)) / 255
    assert batches.element_spec[0].shape[0] is None
    parts = [[np.reshape(images, (-1, 784)) for images in batch] for _ in range(2) for batch in batches]
    for epoch in (parts[:8], parts[8:]):
        sums = np.concatenate([clean for noisy, clean in epoch]).sum(axis=1)
        np.testing.assert_allclose(np.sort(sums), np.sort(train_images.sum(axis=1)), rtol=1e-5)
    assert not np.array_equal(parts[0][1], parts[8][1])    # another order
    for number, (noisy, clean) in enumerate(parts[:9]):
        if name == 'BasicAE':
            np.testing.assert_array_equal(noisy, clean)
            continue
        for level in (0, 0.5, 0.9):
            assert np.mean(noisy[clean == 0] <= level) == pytest.approx(NormalDist(0, 0.5).cdf(level), abs=0.01)
        for other_noisy, other_clean in parts[:number]:
            black = (clean == 0) & (other_clean == 0)
            assert abs(np.corrcoef(noisy[black], other_noisy[black])[0, 1]) < 0.02


@pytest.mark.parametrize('name', NOISY)
def test_linear_maps_have_the_least_squared_difference(name):
    """Of all, and in EasyDAE of those of rank hidden_units: numpy's own least squares and singular values say so."""
    cells = Cells(name, data_dir=str(SAMPLE), batch_size=2000, **ARTICLE[name])
    cells.run_to('batches')
    noisy, clean = (np.reshape(each, (-1, 784)) for each in next(iter(cells.space['train_batches'])))
    cells.space |= {'train_batches': [(noisy, clean)], 'noisy_images': noisy}
    found = [cells.run('linear')['linear']]
    with_one = np.pad(noisy, ((0, 0), (0, 1)), constant_values=1).astype(float)
    best = [with_one @ np.linalg.lstsq(with_one, clean, rcond=None)[0]]
    if name == 'EasyDAE':
        cells.change('np.clip(linear, 0, 1), np.clip(narrow, 0, 1)', 'linear, narrow')
        found.append(cells.run('narrow')['narrow'])
        assert np.linalg.matrix_rank(found[1] - cells.space['mean'], tol=1e-3) == 32
        mean = best[0].mean(axis=0)
        directions = np.linalg.svd(best[0] - mean, full_matrices=False)[2][:32]
        best.append(mean + (best[0] - mean) @ directions.T @ directions)
    for images, expected in zip(found, best, strict=True):
        least = np.mean((expected - clean)**2)
        assert least <= np.mean((images - clean)**2) <= 1.01 * least


def test_run_twice_in_one_kernel_it_gives_the_same_run(name, tiny, tmp_path, monkeypatch, capsys):
    """The same seed gives the same losses and pictures to the last bit, whatever was run before."""
    monkeypatch.chdir(tmp_path)
    short = {'BasicAE': {'sizes': [3], 'size_epochs': 1}, 'EasyDAE': {},
             'ConvDAE': {'dense_units': [5], 'dense_epochs': 1, 'distances': [2], 'noise_factors': [1]}}
    cells, seen = Cells(name, data_dir=str(tiny), epochs=2, batch_size=60, **short[name]), []
    for _ in range(2):
        space = cells.run(*cells.sources)
        seen.append((space['history'].history, space['figures'], TIMES.sub('', capsys.readouterr().out)))
    np.testing.assert_equal(seen[1], seen[0])
    assert re.findall(r'^epoch +(\d)/2  loss', seen[0][2], re.MULTILINE) == ['1', '2']


@pytest.mark.parametrize('name', ['BasicAE', 'EasyDAE'])
def test_another_process_with_other_settings_gives_the_same_run(name, runs):
    """To the last bit; the run in the kernel was under Keras's and matplotlib's settings of a reader."""
    cells = Cells(name, data_dir=str(SAMPLE), **PARAMETERS[name, 'sample'])
    assert cells.run_to('train')['history'].history['loss'] == runs(name, 'sample')['losses']
