"""Each notebook on all of MNIST, in a kernel: what it needs of memory. In a file of its own, for another worker."""
import pytest
from helpers import FULL, NOTEBOOKS, assert_clean, code_cells, execute, figures

SHORT = {'BasicAE': {'sizes': [64], 'size_epochs': 1},
         'EasyDAE': {'sizes': [32], 'size_epochs': 1, 'average_factors': [0.5]},
         'ConvDAE': {'dense_units': [8], 'distances': [4], 'noise_factors': [0.5], 'skip_epochs': 1}}


@pytest.mark.skipif(not FULL, reason='the environment variable MNIST_DATA does not name a folder with MNIST')
@pytest.mark.parametrize('name', NOTEBOOKS)
def test_with_all_of_mnist_it_needs_less_than_one_and_a_half_gigabytes(name, tmp_path):
    """ConvDAE learns from 40 batches of all images only: more take time and no more memory."""
    changes = {'network.fit(train_batches(),': 'network.fit(train_batches().take(40),'} if name == 'ConvDAE' else {}
    notebook = execute(name, tmp_path, changes, data_dir=str(FULL), epochs=1, **SHORT[name])
    assert_clean(notebook, str(FULL))
    cells = code_cells(notebook)
    assert 200_000 < max(each['peak'] for cell in cells.values() for each in figures(cell)) < 1_500_000
    assert cells['curve'].outputs[-1].metadata['as_original'] is True
