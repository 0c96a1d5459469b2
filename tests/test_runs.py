"""Each notebook, run top to bottom in a folder of its own with few epochs: what it builds, draws and prints."""
import math
import re

import numpy as np
import pytest
from conftest import (
    ARCHIVES,
    DATA,
    NOTEBOOKS,
    PARAMETERS,
    SAMPLE,
    execute,
    read_images,
    read_notebook,
    short_run,
    stream_text,
)

EVERY_RUN = [(name, data) for data in DATA for name in NOTEBOOKS]
NOISY_RUNS = [(name, data) for name, data in EVERY_RUN if name != 'BasicAE']
NOISE_FACTOR, FIRST_SHOWN = 0.5, {'BasicAE': 0, 'EasyDAE': 10, 'ConvDAE': 10}


def normal(x):
    """Return the distribution function of the standard normal distribution."""
    return (1 + math.erf(x / math.sqrt(2))) / 2


@pytest.mark.parametrize(('name', 'data'), EVERY_RUN)
def test_runs_clean_and_alone(runs, name, data):
    notebook, _ = runs(name, data)
    assert stream_text(notebook.cells, 'stderr') == ''
    assert f'images from {DATA[data]}' in stream_text(notebook.cells)
    outputs = [output for cell in notebook.cells if cell.cell_type == 'code' for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == 'error']
    figures = [output for output in outputs if 'image/png' in output.get('data', {})]
    assert len(figures) >= 4
    for figure in figures:
        assert len(figure.metadata['image/png']['alt']) > 40


@pytest.mark.parametrize(('name', 'data'), EVERY_RUN)
def test_prints_one_line_per_epoch_and_no_redraws(runs, name, data):
    notebook, kept = runs(name, data)
    printed = stream_text(notebook.cells)
    epochs = PARAMETERS[name, data]['epochs']
    for epoch, loss in enumerate(kept['losses'], start=1):
        assert f'epoch {epoch:2}/{epochs}  loss {loss:.4f}\n' in printed
    assert '\r' not in printed
    assert '\b' not in printed
    lines = [output for cell in notebook.cells if cell.id == 'train' for output in cell.outputs
             if output.output_type == 'display_data']
    assert len(lines) == 1    # the line that is redrawn while it trains
    assert lines[0].data['text/plain'].endswith('s in all')


def test_progress_is_shown_within_an_epoch(runs):
    notebook, _ = runs('ConvDAE', 'sample')    # its epochs are long enough
    steps = [text for text in notebook.metadata.redraws if ' step ' in text]
    assert len(steps) >= 3
    assert all(re.fullmatch(r'epoch  [12]/[12]  step \d+/40  loss 0\.\d{4}', text) for text in steps)


@pytest.mark.parametrize(('name', 'data'), EVERY_RUN)
def test_loss_starts_at_that_of_guessing_and_falls(runs, name, data):
    _, kept = runs(name, data)
    losses = [math.log(2), *kept['losses']]    # an untrained network gives each pixel about 1/2
    assert np.all(np.diff(losses) < 0)


@pytest.mark.parametrize(('name', 'data'), EVERY_RUN)
def test_rows_hold_what_they_claim(runs, name, data):
    _, kept = runs(name, data)
    first, original = FIRST_SHOWN[name], kept['row original']
    test_images = read_images(DATA[data] / ARCHIVES['test']) / 255
    assert len(original) == (5 if name == 'BasicAE' else 10)
    np.testing.assert_allclose(original, test_images[first:first + len(original)], atol=1e-6)
    reconstruction = kept['reconstruction of what is drawn'].reshape(original.shape)
    np.testing.assert_allclose(kept['row reconstructed'], reconstruction, atol=1e-5)
    assert kept['looks'].tolist() == ["((0.0, 1.0), 'Greys_r')"]
    if name != 'BasicAE':
        noise_factor = PARAMETERS[name, data].get('noise_factor', NOISE_FACTOR)
        difference = kept['row noisy'] - original
        black = original == 0
        assert np.mean(difference[black] > noise_factor) == pytest.approx(1 - normal(1), abs=0.02)


@pytest.mark.parametrize('data', DATA)
def test_hidden_vectors_are_drawn_as_squares(runs, data):
    _, kept = runs('BasicAE', data)
    hidden_units = PARAMETERS['BasicAE', data].get('hidden_units', 64)
    pictures = kept['row hidden']
    side = math.ceil(math.sqrt(hidden_units))
    assert pictures.shape == (5, side, side)
    assert np.isnan(pictures.reshape(5, -1)[:, hidden_units:]).all()    # blank
    numbers = pictures.reshape(5, -1)[:, :hidden_units]
    assert numbers.min() >= 0
    assert numbers.max() == pytest.approx(1)


@pytest.mark.parametrize('data', DATA)
def test_the_hidden_numbers_together_paint_the_reconstruction(runs, data):
    _, kept = runs('BasicAE', data)
    single, together = kept['painted']
    np.testing.assert_allclose(together[-1], kept['row reconstructed'][0], atol=1e-4)
    distances = np.abs(together - together[-1]).mean(axis=(1, 2))
    assert distances[0] > distances[2] > distances[-2] > 0
    strengths = np.abs(single - 0.5).sum(axis=(1, 2))
    assert np.all(np.diff(strengths) <= 1e-3)    # the strongest first; grey is nothing


@pytest.mark.parametrize('data', DATA)
def test_the_inside_of_the_network_is_what_its_layers_put_out(runs, data):
    _, kept = runs('ConvDAE', data)
    assert [name.split()[0] for name in kept['inside names']] == ['conv1', 'pool2', 'encoded', 'conv4', 'conv6']
    channels = np.moveaxis(kept['conv1'], 2, 0)
    brightest = sorted(channels, key=np.mean, reverse=True)[:8]
    np.testing.assert_allclose(kept['inside conv1'], brightest / channels.max(), atol=1e-5)


@pytest.mark.parametrize(('name', 'data'), NOISY_RUNS)
def test_noise_is_gaussian_with_the_given_factor_and_clipped(runs, name, data):
    _, kept = runs(name, data)
    noise_factor = PARAMETERS[name, data].get('noise_factor', NOISE_FACTOR)
    noisy = kept['grey']    # grey images of 0.5, 392,000 pixels
    np.testing.assert_array_equal(noisy, kept['grey again'])
    assert noisy.min() == 0
    assert noisy.max() == 1
    for level in np.linspace(0, 0.99, 34):
        assert np.mean(noisy <= level) == pytest.approx(normal((level - 0.5) / noise_factor), abs=0.005)


@pytest.mark.parametrize(('name', 'data'), NOISY_RUNS)
def test_noise_is_new_in_every_batch_and_epoch(runs, name, data):
    _, kept = runs(name, data)
    noise_factor = PARAMETERS[name, data].get('noise_factor', NOISE_FACTOR)
    noisy, clean = kept['batch noisy'], kept['batch clean']    # three batches, then three of another epoch
    for level in (0, noise_factor, 2 * noise_factor):
        share = np.mean(noisy[clean == 0] <= min(level, 0.999))
        assert share == pytest.approx(normal(min(level, 0.999) / noise_factor), abs=0.01)
    for first in range(6):
        for second in range(first):
            black = (clean[first] == 0) & (clean[second] == 0)
            correlation = np.corrcoef(noisy[first][black], noisy[second][black])[0, 1]
            assert abs(correlation) < 0.03


@pytest.mark.parametrize(('name', 'data'), NOISY_RUNS)
def test_table_holds_the_figures_of_merit_of_all_test_images(runs, name, data):
    notebook, kept = runs(name, data)
    clean, noisy = kept['test images'].reshape(-1, 784), kept['noisy images'].reshape(-1, 784)
    denoised = kept['reconstructed'].reshape(-1, 784)
    for candidates, (cross_entropy, psnr, ssim) in ((noisy, kept['results'][0]), (denoised, kept['results'][-2])):
        closest = np.float32(1e-7)    # Keras clips in float32
        probabilities = np.clip(candidates, closest, 1 - closest).astype(float)
        expected = -np.mean(clean * np.log(probabilities) + (1 - clean) * np.log(1 - probabilities))
        assert cross_entropy == pytest.approx(expected, rel=1e-3)
        squared = np.mean((clean - candidates)**2, axis=1)
        assert psnr == pytest.approx(np.mean(-10 * np.log10(squared)), abs=0.01)
        assert f'{cross_entropy:.4f} {psnr:11.2f} {ssim:9.3f}\n' in stream_text(notebook.cells)


@pytest.mark.parametrize('data', DATA)
def test_dense_and_convolutional_rows_are_of_the_same_noisy_digits(runs, data):
    _, kept = runs('ConvDAE', data)
    assert kept['compared names'].tolist() == ['original', 'noisy', 'dense', 'convolutional']
    original, noisy, dense, convolutional = kept['compared']
    np.testing.assert_array_equal(original, kept['row original'])
    np.testing.assert_array_equal(noisy, kept['row noisy'])
    np.testing.assert_array_equal(convolutional, kept['row reconstructed'])
    expected = kept['dense reconstruction of what is drawn'].reshape(dense.shape)
    np.testing.assert_allclose(dense, expected, atol=1e-5)


@pytest.mark.parametrize('data', DATA)
def test_pca_is_that_of_the_training_images(runs, data):
    _, kept = runs('BasicAE', data)
    train_images, test_images = (read_images(DATA[data] / ARCHIVES[part]).reshape(-1, 784) / 255
                                 for part in ('train', 'test'))
    mean = train_images.mean(axis=0)
    _, directions = np.linalg.eigh(np.cov(train_images.T))    # ascending
    for size, psnr in zip(PARAMETERS['BasicAE', data]['sizes'], kept['pca_psnr']):
        basis = directions[:, -size:]
        rebuilt = np.clip(mean + (test_images - mean) @ basis @ basis.T, 0, 1)
        expected = np.mean(-10 * np.log10(np.mean((test_images - rebuilt)**2, axis=1)))
        assert psnr == pytest.approx(expected, abs=0.02)
    assert len(kept['size_psnr']) == len(kept['pca_psnr'])


@pytest.mark.parametrize(('name', 'difference'), [
    ('BasicAE', '37 hidden units, not 64'),
    ('EasyDAE', '0.3 noise factor, not 0.5'),
    ('ConvDAE', '100 images in a batch, not 128'),
])
def test_figure_says_when_the_losses_are_not_comparable(runs, name, difference):
    sample_run, _ = runs(name, 'sample')
    (cell,) = (cell for cell in sample_run.cells if cell.id == 'curve')
    (figure,) = (output for output in cell.outputs if output.output_type == 'display_data')
    description = figure.metadata['image/png']['alt']
    assert 'NOT COMPARABLE' in description
    assert '4,000 training images, not 60,000' in description
    assert difference in description


@pytest.mark.parametrize('name', NOTEBOOKS)
def test_figure_compares_the_losses_on_the_full_data(runs, name):
    full_run, _ = runs(name, 'full')
    (cell,) = (cell for cell in full_run.cells if cell.id == 'curve')
    (figure,) = (output for output in cell.outputs if output.output_type == 'display_data')
    assert 'NOT COMPARABLE' not in figure.metadata['image/png']['alt']


@pytest.mark.parametrize('name', NOTEBOOKS)
def test_one_run_is_every_run(runs, name, tmp_path):
    first, first_kept = runs(name, 'sample')
    second, second_kept = short_run(name, 'sample', tmp_path)
    np.testing.assert_array_equal(first_kept['losses'], second_kept['losses'])
    for first_cell, second_cell in zip(first.cells, second.cells):
        for before, after in zip(first_cell.get('outputs', []), second_cell.get('outputs', [])):
            if 'image/png' in before.get('data', {}):
                assert before.data['image/png'] == after.data['image/png'], f'another figure in {first_cell.id}'
            assert before.get('text') == after.get('text'), f'another text in {first_cell.id}'


def test_size_of_a_batch_stays_open(tmp_path):
    """TensorFlow adds up gradients in varying order where it knows that size and finds that much memory is needed."""
    _, kept = execute(read_notebook('ConvDAE'), tmp_path, {'data_dir': str(SAMPLE)},
                      "kept['shape'] = np.array(train_batches.element_spec[0].shape.as_list(), 'float')",
                      after='batches')
    np.testing.assert_array_equal(kept['shape'], [np.nan, 28, 28, 1])


@pytest.mark.parametrize('name', NOTEBOOKS)
def test_leaves_nothing_behind(name, tmp_path):
    execute(read_notebook(name), tmp_path, {'data_dir': str(SAMPLE)}, after='images')
    assert list(tmp_path.iterdir()) == []
    assert sorted(path.name for path in SAMPLE.iterdir()) == sorted(ARCHIVES.values())
