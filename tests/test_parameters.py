"""Any sensible value of a parameter runs and draws; one that cannot work says so before anything is trained."""
import re

import numpy as np
import pytest
from helpers import NOTEBOOKS, cells_up_to, code_cells, cut_sample, displayed, read_notebook, run_sources

IMPOSSIBLE = {    # kinds of values, each once
    'ConvDAE': {'epochs': [0, 2.5, '10', None, True, (2,)], 'batch_size': [301], 'seed': [-1, 2**31],
                'learning_rate': [0, float('nan'), (0.001,)], 'noise_factor': [(0, 5), 1j], 'dense_units': [[0, 32]],
                'shown': [[], 3, [50], [1.5], [[1, 2], [3]], range(21), range(10**6)], 'distances': [[28]]},
    'EasyDAE': {'hidden_units': [10.5]},
    'BasicAE': {'original_learning_rate': ['0.1'], 'sizes': [[]], 'size_epochs': [0]}}


@pytest.fixture(scope='module')
def tiny(tmp_path_factory):
    """Return a folder with 300 training and 50 test images."""
    return str(cut_sample(tmp_path_factory.mktemp('tiny'), 300, 50))


@pytest.fixture(scope='module')
def checked(tiny):
    """Return a function that runs a notebook's check with parameters changed, and returns its variables."""
    spaces = {name: cells_up_to(name, 'check', data_dir=tiny, batch_size=30) for name in NOTEBOOKS}
    checks = {name: code_cells(read_notebook(name))['check'].source for name in NOTEBOOKS}
    return lambda name, **parameters: run_sources([checks[name]], **{**spaces[name], **parameters})


@pytest.mark.parametrize(('name', 'parameter', 'value'), [
    (name, parameter, value) for name in NOTEBOOKS for parameter in IMPOSSIBLE[name]
    for value in IMPOSSIBLE[name][parameter]])
def test_a_value_that_cannot_work_is_named_in_one_sentence(name, parameter, value, checked):
    shown = re.escape(repr(value)[:60])
    with pytest.raises(ValueError, match=rf'^{parameter} is {shown}: choose [^\n]*, then run all cells\.$'):
        checked(name, **{parameter: value})


@pytest.mark.parametrize(('parameter', 'value', 'expected'), [
    ('seed', np.arange(5)[2], 2), ('learning_rate', 1, 1.0), ('noise_factor', np.array(0.25), 0.25),
    ('shown', range(3), [0, 1, 2]), ('shown', np.array([7, 7]), [7, 7])])
def test_a_right_value_of_another_type_is_taken_as_a_plain_number_or_list(parameter, value, expected, checked):
    found = checked('ConvDAE', **{parameter: value})[parameter]
    assert (found, type(found)) == (expected, type(expected))


@pytest.mark.parametrize(('fast', 'precision'), [(False, 'bfloat16'), (True, 'float8'), ('no', 'float32')])
def test_fast_and_precision_that_do_not_go_together_are_named(fast, precision, checked):
    with pytest.raises(ValueError, match=r'^fast is .* and precision .*: choose .*, then run all cells\.$'):
        checked('ConvDAE', fast=fast, precision=precision)


@pytest.mark.filterwarnings('error::UserWarning', 'error::RuntimeWarning')
@pytest.mark.parametrize(('name', 'parameters'), [
    ('BasicAE', dict(hidden_units=1000, batch_size=300, epochs=2, sizes=[900, 784, 1], size_epochs=1, shown=[7] * 20,
                     learning_rate=1, original_learning_rate=100)),
    ('EasyDAE', dict(hidden_units=1, noise_factor=0, batch_size=19, epochs=12, shown=[0], seed=2**31 - 1)),
    ('ConvDAE', dict(noise_factor=3, epochs=1, dense_units=[1, 4], learning_rate=1, batch_size=60,
                     shown=range(20), distances=[27, 0], precision='bfloat16'))])
def test_sensible_extremes_run_and_draw(name, parameters, tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    losses = cells_up_to(name, [*code_cells(read_notebook(name))][-1], data_dir=tiny, **parameters)['losses']
    assert len(losses) == parameters['epochs'] and np.isfinite(losses).all()
    assert 'nan' not in capsys.readouterr().out
    (result,) = {text for text in displayed() if re.match(r'\d+ test digits, rebuilt|The same noisy digits', text)}
    assert f'Rows of {len(parameters["shown"])}, ' in result
