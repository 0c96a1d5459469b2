"""Any sensible value of a parameter runs and draws; one that cannot work says so before anything is trained."""
import re

import numpy as np
import pytest
from helpers import NOTEBOOKS, cells_up_to, code_cells, cut_sample, displayed, read_notebook, run_sources

IMPOSSIBLE = {    # kinds of values, each once
    'epochs': [0, 2.5, '10', None, True, (2,), 10**6],
    'batch_size': [301],    # more than there are images
    'learning_rate': [0, -0.1, float('nan'), float('inf'), (0.001,)],
    'seed': [-1, 2**31],
    'shown': [[], 3, [50], ['first'], [1.5], [[1, 2], [3]], [[1, 2], [3, 4]], range(21), range(10**6)],
    'noise_factor': [(0, 5), [0.5], 1j, np.arange(2)],
    'distances': [[28]],
    'dense_units': [[0, 32]],
}
OTHER = {'BasicAE': {'hidden_units': 0, 'original_learning_rate': '0.1', 'sizes': [], 'size_epochs': 0},
         'EasyDAE': {'hidden_units': 10.5, 'noise_factor': -1}, 'ConvDAE': {}}


@pytest.fixture(scope='module')
def tiny(tmp_path_factory):
    """Return a folder with 300 training and 50 test images."""
    return cut_sample(tmp_path_factory.mktemp('tiny'), 300, 50)


@pytest.fixture(scope='module')
def checked(tiny):
    """Return a function that runs a notebook's check with parameters changed, and returns its variables."""
    cells = {name: code_cells(read_notebook(name)) for name in NOTEBOOKS}
    spaces = {name: cells_up_to(name, 'check', data_dir=str(tiny), batch_size=30) for name in NOTEBOOKS}
    return lambda name, **parameters: run_sources([cells[name]['check'].source], **{**spaces[name], **parameters})


@pytest.mark.parametrize(('name', 'parameter', 'value'), [
    *(('ConvDAE', parameter, value) for parameter, values in IMPOSSIBLE.items() for value in values),
    *((name, parameter, value) for name, values in OTHER.items() for parameter, value in values.items())])
def test_a_value_that_cannot_work_is_named_in_one_sentence(name, parameter, value, checked):
    shown = re.escape(repr(value)[:60])
    with pytest.raises(ValueError, match=rf'^{parameter} is {shown}: choose [^\n]*, then run all cells\.$'):
        checked(name, **{parameter: value})


@pytest.mark.parametrize(('parameter', 'value', 'expected'), [
    ('epochs', np.int64(3), 3), ('seed', np.arange(5)[2], 2), ('learning_rate', 1, 1.0),
    ('learning_rate', np.float32(0.5), 0.5), ('noise_factor', np.array(0.25), 0.25), ('shown', range(3), [0, 1, 2]),
    ('shown', (4, 5), [4, 5]), ('shown', np.array([7, 7]), [7, 7])])
def test_a_right_value_of_another_type_is_taken_as_a_plain_number_or_list(parameter, value, expected, checked):
    found = checked('ConvDAE', **{parameter: value})[parameter]
    assert (found, type(found)) == (expected, type(expected))


@pytest.mark.parametrize(('fast', 'precision'), [(False, 'bfloat16'), (True, 'float8'), (2, 'float32'), (True, None),
                                                 ('no', 'float32'), ([], 'float32')])
def test_fast_and_precision_that_do_not_go_together_are_named(fast, precision, checked):
    with pytest.raises(ValueError, match=r'^fast is .* and precision .*: choose .*, then run all cells\.$'):
        checked('ConvDAE', fast=fast, precision=precision)


@pytest.mark.parametrize('value', [None, 5, '', ['a', 'b']])
def test_a_data_dir_that_is_no_folder_is_named(value, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((FileNotFoundError, ValueError), match=r'^data_dir is .*, then run all cells\.$'):
        cells_up_to('BasicAE', 'load_images', data_dir=value)
    assert not any(tmp_path.iterdir())


EXTREME = {    # the first of each on 20 training and 3 test images, the second on 300 and 50
    'BasicAE': [dict(hidden_units=1, batch_size=7, epochs=1, sizes=[3], size_epochs=1, shown=[2], seed=2**31 - 1),
                dict(hidden_units=1000, batch_size=300, epochs=3, sizes=[900, 784, 1], size_epochs=1, shown=[7] * 20,
                     learning_rate=1, original_learning_rate=100)],
    'EasyDAE': [dict(hidden_units=1, noise_factor=0, batch_size=19, epochs=1, shown=[0]),
                dict(hidden_units=900, noise_factor=20, epochs=12, seed=2**31 - 1, shown=range(20))],
    'ConvDAE': [dict(noise_factor=0, batch_size=20, epochs=1, dense_units=[5], shown=[1], distances=[27],
                     fast=False, seed=2**31 - 1),
                dict(noise_factor=3, epochs=2, dense_units=[1, 2, 3, 4], learning_rate=1, batch_size=60,
                     shown=range(20), distances=[27, 0, 3], precision='bfloat16')],
}


@pytest.mark.filterwarnings('error::UserWarning', 'error::RuntimeWarning')
@pytest.mark.parametrize(('name', 'number'), [(name, number) for name in NOTEBOOKS for number in range(2)])
def test_sensible_extremes_run_and_draw(name, number, tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    parameters, data = EXTREME[name][number], tiny if number else cut_sample(tmp_path / 'data', 20, 3)
    last = [*code_cells(read_notebook(name))][-1]
    losses = cells_up_to(name, last, data_dir=str(data), **parameters)['losses']
    assert len(losses) == parameters['epochs'] and np.isfinite(losses).all()
    assert 'nan' not in capsys.readouterr().out
    (result,) = {text for text in displayed() if re.match(r'\d+ test digits, rebuilt|The same noisy digits', text)}
    assert f'Rows of {len(parameters["shown"])}, ' in result
