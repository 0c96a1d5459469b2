"""Any sensible value of a parameter runs and draws; one that cannot work says so before anything is trained."""
import json

import nbformat
import numpy as np
import pytest
from cases import check_case
from conftest import NOTEBOOKS, SAMPLE, code_cell, execute, read_notebook, stream_text

DENSE, NOISY = ('BasicAE', 'EasyDAE'), ('EasyDAE', 'ConvDAE')
IMPOSSIBLE = [    # parameter, value, notebooks that have it
    ('epochs', 0, NOTEBOOKS), ('epochs', 2.5, NOTEBOOKS), ('epochs', '10', NOTEBOOKS), ('epochs', None, NOTEBOOKS),
    ('batch_size', 0, NOTEBOOKS), ('batch_size', 4001, NOTEBOOKS),
    ('learning_rate', 0, NOTEBOOKS), ('learning_rate', -0.1, NOTEBOOKS), ('learning_rate', float('nan'), NOTEBOOKS),
    ('noise_factor', -0.5, NOISY), ('noise_factor', float('inf'), NOISY), ('noise_factor', 'much', NOISY),
    ('hidden_units', 0, NOTEBOOKS), ('hidden_units', 10.5, NOTEBOOKS),
    ('seed', -1, NOTEBOOKS), ('seed', 2**31, NOTEBOOKS), ('seed', 0.5, NOTEBOOKS),
    ('shown', [], NOTEBOOKS), ('shown', [1000], NOTEBOOKS), ('shown', ['first'], NOTEBOOKS),
    ('dense_epochs', 0, ('ConvDAE',)),
    ('size_epochs', 0, ('BasicAE',)), ('sizes', [], ('BasicAE',)), ('sizes', [2, 0], ('BasicAE',)),
    ('original_learning_rate', 0, ('BasicAE',)),
    ('precision', 'float8', NOTEBOOKS), ('devices', ['GPU:7'], NOTEBOOKS),
    ('devices', None, NOTEBOOKS), ('devices', 'CPU:0', NOTEBOOKS), ('one_step_upsampling', 'false', ('ConvDAE',)),
]
ATTEMPTS = """
import json

seen = []
for name, value in IMPOSSIBLE:
    before = globals()[name]
    globals()[name] = value
    try:
        for source in json.loads(SOURCES):
            exec(source, globals())
    except Exception as problem:
        seen.append([type(problem).__name__, str(problem)])
    else:
        seen.append(None)
    globals()[name] = before
print('SEEN ' + json.dumps(seen))
"""


@pytest.mark.parametrize('name', NOTEBOOKS)
def test_values_that_cannot_work_are_named_before_the_training(name, tmp_path):
    cases = [(parameter, value) for parameter, value, notebooks in IMPOSSIBLE if name in notebooks]
    notebook = read_notebook(name)
    ids = [cell.id for cell in notebook.cells]
    assert ids.index('hardware') < ids.index('check') < ids.index('train')
    assert ids.index('check') < ids.index('model' if name in DENSE else 'encoder')
    sources = [code_cell(notebook, cell_id).source for cell_id in ('hardware', 'check')]
    names = f'inf, nan = float("inf"), float("nan")\nIMPOSSIBLE, SOURCES = {cases!r}, {json.dumps(sources)!r}\n'
    notebook.cells = [*notebook.cells[:ids.index('check')], nbformat.v4.new_code_cell(names + ATTEMPTS)]
    notebook, _ = execute(notebook, tmp_path, {'data_dir': str(SAMPLE)})
    seen = json.loads(stream_text(notebook.cells).split('SEEN ')[1])
    for (parameter, value), error in zip(cases, seen):
        assert error is not None, f'{parameter} = {value!r} is not noticed'
        assert error[0] == 'ValueError'
        assert parameter in error[1]
        assert '\n' not in error[1]
        check_case(f'`{parameter} = {value!r}`', 'stops before the training', error[1], tmp_path)


SENSIBLE = {
    'BasicAE': [{'hidden_units': 1, 'batch_size': 33, 'epochs': 1, 'sizes': 3, 'size_epochs': 1, 'shown': 999},
                {'hidden_units': 1000, 'batch_size': 4000, 'epochs': 2, 'sizes': [900, 2], 'size_epochs': 1,
                 'shown': [7, 7], 'learning_rate': 1}],
    'EasyDAE': [{'hidden_units': 3, 'noise_factor': 0, 'batch_size': 1999, 'epochs': 1, 'shown': [0]},
                {'noise_factor': 20, 'epochs': 1, 'seed': 2**31 - 2, 'shown': list(range(30))}],
    'ConvDAE': [{'noise_factor': 0, 'batch_size': 7, 'epochs': 1, 'dense_epochs': 1, 'hidden_units': 5, 'shown': [3]},
                {'one_step_upsampling': False, 'batch_size': 501, 'epochs': 1, 'dense_epochs': 2}],
}


@pytest.mark.parametrize(('name', 'parameters'), [(name, each) for name in NOTEBOOKS for each in SENSIBLE[name]])
def test_sensible_values_run_and_draw(name, parameters, tmp_path):
    notebook, kept = execute(read_notebook(name), tmp_path, {'data_dir': str(SAMPLE), **parameters},
                             "kept['losses'] = history.history['loss']")
    assert stream_text(notebook.cells, 'stderr') == ''
    assert len(kept['losses']) == parameters['epochs']
    assert np.all(np.isfinite(kept['losses']))
    figures = [output for cell in notebook.cells if cell.cell_type == 'code' for output in cell.outputs
               if 'image/png' in output.get('data', {})]
    assert len(figures) >= 4
