"""What a GPU does by itself, tried without one: XLA, half precision, batches shared among devices."""
import nbformat
import numpy as np
import pytest
from conftest import NOTEBOOKS, SAMPLE, code_cell, execute, read_notebook, stream_text

SHORT = {'BasicAE': {'epochs': 1, 'sizes': [2, 37], 'size_epochs': 1}, 'EasyDAE': {'epochs': 1},
         'ConvDAE': {'epochs': 1, 'dense_epochs': 1}}
TWO_DEVICES = """
(processor,) = tf.config.list_physical_devices('CPU')
tf.config.set_logical_device_configuration(processor, [tf.config.LogicalDeviceConfiguration()] * 2)
"""
STEPS = """
kept['steps'] = []
for step, (noisy, clean) in enumerate(train_batches.take(5)):
    model.fit(noisy, clean, batch_size=batch_size, shuffle=False, verbose=0)
    kept['steps'].append(model.history.history['loss'][0])
kept['dtype'] = np.array(str(model(test_images[:2]).dtype))
kept['kernel'] = model.get_weights()[0]
kept['compute dtype'] = np.array(model.layers[1].compute_dtype)
"""


def insert(notebook, after, source):
    """Put a cell behind the one of that id."""
    notebook.cells.insert(notebook.cells.index(code_cell(notebook, after)) + 1, nbformat.v4.new_code_cell(source))


@pytest.mark.parametrize('precision', ['mixed_bfloat16', 'mixed_float16'])
@pytest.mark.parametrize('name', NOTEBOOKS)
def test_runs_in_half_precision_with_logits_and_weights_in_float32(name, precision, tmp_path):
    notebook, kept = execute(read_notebook(name), tmp_path,
                             {'data_dir': str(SAMPLE), 'precision': precision, **SHORT[name]}, STEPS)
    assert stream_text(notebook.cells, 'stderr') == ''
    assert kept['compute dtype'] == precision.removeprefix('mixed_')
    assert 'float32' in str(kept['dtype'])
    assert kept['kernel'].dtype == 'float32'
    assert np.all(np.isfinite(kept['steps']))


@pytest.mark.parametrize('name', NOTEBOOKS)
def test_trains_when_xla_compiles_the_step(name, tmp_path):
    losses = []
    for compiled in (False, True):
        notebook = read_notebook(name)
        cell = code_cell(notebook, 'compile')
        assert cell.source.count('model.compile(') == 1
        cell.source = cell.source.replace('model.compile(', f'model.compile(jit_compile={compiled}, ')
        _, kept = execute(notebook, tmp_path, {'data_dir': str(SAMPLE), 'epochs': 1}, STEPS, after='batches')
        losses.append(kept['steps'])
    np.testing.assert_allclose(*losses, rtol=1e-4)


@pytest.mark.parametrize('name', NOTEBOOKS)
def test_two_devices_learn_what_one_learns(name, tmp_path):
    results = []
    for devices in ([], ['CPU:0', 'CPU:1']):
        notebook = read_notebook(name)
        insert(notebook, 'setup', TWO_DEVICES)
        _, kept = execute(notebook, tmp_path, {'data_dir': str(SAMPLE), 'devices': devices}, STEPS, after='batches')
        results.append(kept['steps'])
    np.testing.assert_allclose(*results, rtol=1e-4)


@pytest.mark.parametrize('name', NOTEBOOKS)
def test_runs_to_the_end_on_two_devices(name, tmp_path):
    notebook = read_notebook(name)
    insert(notebook, 'setup', TWO_DEVICES)
    notebook, kept = execute(notebook, tmp_path,
                             {'data_dir': str(SAMPLE), 'devices': ['CPU:0', 'CPU:1'], **SHORT[name]},
                             "kept['replicas'] = model.distribute_strategy.num_replicas_in_sync")
    assert stream_text(notebook.cells, 'stderr') == ''
    assert kept['replicas'] == 2
