"""Single cells: their noise, batches and linear maps; and the whole of ConvDAE twice in one kernel."""
import copy
from statistics import NormalDist

import nbconvert
import nbformat
import numpy as np
import pytest
from helpers import (
    ARTICLE,
    NOTEBOOKS,
    SAMPLE,
    cells_up_to,
    code_cells,
    cut_sample,
    figures,
    prepared,
    read_notebook,
    run_in_kernel,
    run_sources,
)

NOISY = ('EasyDAE', 'ConvDAE')


def test_run_twice_in_one_kernel_it_gives_the_same_run(tmp_path):
    """The same seed gives the same losses and pictures to the last bit, whatever was run before."""
    notebook = prepared('ConvDAE', data_dir=str(cut_sample(tmp_path, 300, 50)), epochs=1, batch_size=60,
                        dense_units=[5], distances=[2])
    count = len(notebook.cells)
    notebook.cells += copy.deepcopy(notebook.cells)
    run_in_kernel(notebook, tmp_path)
    first, second = (figures(nbformat.v4.new_notebook(cells=cells)) for cells in (
        notebook.cells[:count], notebook.cells[count:]))
    assert any('Training loss' in title for title in first)
    np.testing.assert_equal(second, first)


@pytest.mark.parametrize('name', NOTEBOOKS)
def test_becomes_a_script_that_python_can_read(name):
    """As `jupyter nbconvert --to script` makes it, which takes the ending from the notebook's metadata."""
    script, resources = nbconvert.ScriptExporter().from_notebook_node(read_notebook(name))
    assert resources['output_extension'] == '.py'
    compile(script, name, 'exec')


@pytest.mark.parametrize('name', NOISY)
def test_noise_is_gaussian_with_the_given_factor_and_clipped(name):
    add_noise = cells_up_to(name, 'add_noise', data_dir=str(SAMPLE), noise_factor=0.3)['add_noise']
    noisy, again, other = (add_noise(np.full((500, 784), 0.5, 'float32'), seed).numpy()
                           for seed in ((3, 4), (3, 4), (3, 5)))
    np.testing.assert_array_equal(noisy, again)
    assert np.abs(np.corrcoef(noisy.ravel(), other.ravel())[0, 1]) < 0.01
    assert (noisy.min(), noisy.max()) == (0, 1)
    for level in np.linspace(0, 0.99, 34):
        assert np.mean(noisy <= level) == pytest.approx(NormalDist(0.5, 0.3).cdf(level), abs=0.005)


def two_epochs(name):
    """Return the variables of a notebook before its training, and for each of two epochs its batches of flat images."""
    space = cells_up_to(name, 'batches', data_dir=str(SAMPLE), batch_size=500, **ARTICLE[name])
    return space, [[[np.reshape(images, (-1, 784)) for images in batch] for batch in space['train_batches']]
                   for _ in range(2)]


@pytest.mark.parametrize('name', NOTEBOOKS)
def test_batches_hold_all_images_in_a_new_order(name):
    """The size of a batch stays open: where TensorFlow knows it, it may add up gradients in varying order."""
    space, epochs = two_epochs(name)
    assert space['train_batches'].element_spec[0].shape[0] is None
    sums = [np.concatenate([clean for _, clean in batches]).sum(axis=1) for batches in epochs]
    expected = np.reshape(space['train_images'], (-1, 784)).sum(axis=1) / 255
    np.testing.assert_allclose(np.sort(sums), [np.sort(expected)] * 2, rtol=1e-5)
    assert not np.array_equal(*sums)


def test_basicae_s_targets_are_its_inputs():
    for inputs, targets in two_epochs('BasicAE')[1][0]:
        np.testing.assert_array_equal(inputs, targets)


@pytest.mark.parametrize('name', NOISY)
def test_noise_is_new_in_each_batch(name):
    first, second = two_epochs(name)[1]
    noisy, clean = first[0]
    for level in (0, 0.5, 0.9):
        assert np.mean(noisy[clean == 0] <= level) == pytest.approx(NormalDist(0, 0.5).cdf(level), abs=0.01)
    for other_noisy, other_clean in (first[1], second[0]):    # the next, and the first of the next epoch
        black = (clean == 0) & (other_clean == 0)
        assert abs(np.corrcoef(noisy[black], other_noisy[black])[0, 1]) < 0.02


def test_linear_maps_have_the_least_squared_difference(tmp_path):
    """Of all, and of those of rank hidden_units: numpy's own least squares say so, on the very batches."""
    parameters = {**ARTICLE['EasyDAE'], 'data_dir': str(cut_sample(tmp_path, 2000, 50)), 'batch_size': 500}
    cells = code_cells(read_notebook('EasyDAE'))
    found = run_sources([cells[cell_id].source for cell_id in ('measure', 'denoise', 'linear', 'narrow')],
                        **cells_up_to('EasyDAE', 'batches', **parameters))    # without a training
    batches = cells_up_to('EasyDAE', 'batches', **parameters)['train_batches']
    noisy, clean = (np.concatenate(each).astype(float) for each in zip(*batches))
    with_one = np.pad(noisy, ((0, 0), (0, 1)), constant_values=1)
    linear = with_one @ found['linear_map']
    narrow = found['mean'] + (linear - found['mean']) @ found['directions'] @ found['directions'].T
    best = with_one @ np.linalg.lstsq(with_one, clean, rcond=None)[0]
    directions = np.linalg.eigh(np.cov(best, rowvar=False))[1][:, -32:]
    best_narrow = best.mean(axis=0) + (best - best.mean(axis=0)) @ directions @ directions.T
    for images, expected in ((linear, best), (narrow, best_narrow)):
        least = np.mean((expected - clean)**2)
        assert least <= np.mean((images - clean)**2) <= 1.01 * least
