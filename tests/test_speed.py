"""What makes the notebooks fast changes nothing of what they compute, and keeps within the memory it should."""
import json
import re
import subprocess
import sys

import numpy as np
import pytest
from compare import DRAWING, KERAS, NETWORKS, ORIGINAL, OURS, OURS_BFLOAT16, PYTORCH, table, waiting
from conftest import NOTEBOOKS, ROOT, SAMPLE, code_cell, execute, read_notebook, stream_text

MEGABYTES = {'BasicAE': 350, 'EasyDAE': 350, 'ConvDAE': 650}    # beyond the packages; a float32 copy of MNIST is 188


@pytest.fixture(scope='module')
def recorded():
    """Return the record of the last comparison."""
    return json.loads((ROOT / 'benchmarks' / 'compare.json').read_text())


@pytest.mark.parametrize('name', ['BasicAE', 'EasyDAE'])
def test_many_steps_at_once_change_nothing(name, tmp_path):
    losses = []
    for speed in ("{'steps_per_execution': steps}", '{}'):
        notebook = read_notebook(name)
        cell = code_cell(notebook, 'compile')
        before = "speed = {} if devices else {'steps_per_execution': steps}"
        assert cell.source.count(before) == 1
        cell.source = cell.source.replace(before, f'speed = {speed}')
        _, kept = execute(notebook, tmp_path, {'data_dir': str(SAMPLE), 'epochs': 3},
                          "kept['losses'] = history.history['loss']", after='train')
        losses.append(kept['losses'])
    np.testing.assert_array_equal(*losses)


def test_output_shows_the_same_loss_with_and_without_the_option(runs):
    notebook, _ = runs('EasyDAE', 'sample')
    for run in (notebook, read_notebook('EasyDAE')):
        losses = re.findall(r'loss (0\.\d{8})', stream_text([code_cell(run, 'free')]))
        assert len(losses) == 2
        assert losses[0] == losses[1]


def test_output_shows_that_less_work_gives_the_same(runs):
    notebook, _ = runs('ConvDAE', 'sample')
    for run in (notebook, read_notebook('ConvDAE')):
        for cell_id in ('order', 'equal', 'last'):
            printed = stream_text([code_cell(run, cell_id)])
            (difference, largest), = re.findall(r'largest difference (\S+), largest output (\S+)\n', printed)
            assert float(difference) < 1e-5 * float(largest)


ONE_STEP = """
rng = np.random.default_rng(0)
for number, (height, width, channels, filters, count) in enumerate(
        [(1, 1, 1, 1, 1), (1, 5, 2, 3, 2), (7, 7, 32, 64, 3), (6, 3, 5, 4, 2), (14, 14, 64, 64, 2)]):
    layer = UpsampleConv2D(filters, 3, padding='same', activation='relu', bias_initializer='normal', dtype='float64')
    pair = [layers.UpSampling2D(2, interpolation='nearest', dtype='float64'),
            layers.Conv2D(filters, 3, padding='same', activation='relu', dtype='float64')]
    images = tf.constant(rng.normal(size=(count, height, width, channels)))
    enlarged = pair[0](images)
    layer(images), pair[1](enlarged)
    pair[1].set_weights(layer.get_weights())
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(images)
        results = layer(images), pair[1](pair[0](images))
        totals = [tf.reduce_sum(result**2) for result in results]
    for side, total, convolution in zip(('one', 'two'), totals, (layer, pair[1])):
        kept[f'{number} {side} output'] = results[side == 'two']
        for name, of in {'images': images, 'kernel': convolution.kernel.value, 'bias': convolution.bias.value}.items():
            kept[f'{number} {side} gradient of {name}'] = tape.gradient(total, of)
    assert layer.compute_output_shape(images.shape) == results[1].shape
"""


def test_one_step_is_two_steps_in_outputs_and_gradients(tmp_path):
    notebook = read_notebook('ConvDAE')
    needed = ('setup', 'parameters', 'hardware', 'encoder', 'one_step')
    notebook.cells = [cell for cell in notebook.cells if cell.id in needed]
    _, kept = execute(notebook, tmp_path, keep=ONE_STEP)
    assert len(kept) == 5 * 2 * 4
    for name, result in kept.items():
        if ' one ' in name:
            expected = kept[name.replace(' one ', ' two ')]
            np.testing.assert_allclose(result, expected, rtol=1e-12, atol=1e-12, err_msg=name)


POOLING_FIRST = """
rng = np.random.default_rng(0)
for number, (height, width, channels, filters, count) in enumerate(
        [(3, 1, 2, 3, 2), (7, 7, 5, 3, 2), (28, 28, 1, 64, 3)]):
    options = {'padding': 'same', 'dtype': 'float64'}
    last = [layers.Conv2D(filters, 3, activation='relu', bias_initializer='normal', **options),
            layers.MaxPooling2D(2, **options)]
    first = [layers.Conv2D(filters, 3, use_bias=False, **options), MaxPoolingBiasReLU(2, **options)]
    images = tf.constant(rng.normal(size=(count, height, width, channels)))
    last[0](images), first[1](first[0](images))
    for layer, weight in zip(first, last[0].get_weights()):
        layer.set_weights([weight])
    for side, (convolution, pooling), bias in ('last', last, last[0].bias), ('first', first, first[1].bias):
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(images)
            result = pooling(convolution(images))
            total = tf.reduce_sum(result**2)
        kept[f'{number} {side} output'] = result
        for name, of in {'images': images, 'kernel': convolution.kernel.value, 'bias': bias.value}.items():
            kept[f'{number} {side} gradient of {name}'] = tape.gradient(total, of)
"""


def test_pooling_first_changes_neither_outputs_nor_gradients(tmp_path):
    notebook = read_notebook('ConvDAE')
    notebook.cells = [cell for cell in notebook.cells if cell.id in ('setup', 'parameters', 'hardware', 'encoder')]
    _, kept = execute(notebook, tmp_path, keep=POOLING_FIRST)
    assert len(kept) == 3 * 2 * 4
    for name, result in kept.items():
        if ' first ' in name:
            assert np.abs(result).max() > 0
            np.testing.assert_allclose(result, kept[name.replace(' first ', ' last ')], rtol=1e-12, atol=1e-12,
                                       err_msg=name)


SAVE = """
model.save('model.keras')
loaded = keras.saving.load_model('model.keras')
images = test_images[:7]
kept['saved'], kept['loaded'] = model(images), loaded(images)
kept['kinds'] = np.array([type(layer).__name__ for layer in loaded.layers])
before = model.get_weights()
kept['losses'] = [network.train_on_batch(images, images) for network in (model, loaded)]
kept['moved'] = np.array([np.abs(a - b).max() for a, b in zip(before, loaded.get_weights())])
"""


@pytest.mark.parametrize('name', NOTEBOOKS)
def test_model_is_saved_and_loaded_with_its_optimizer_and_loss(name, tmp_path):
    notebook = read_notebook(name)
    notebook.cells = [cell for cell in notebook.cells if cell.id not in DRAWING]
    _, kept = execute(notebook, tmp_path, {'data_dir': str(SAMPLE), 'epochs': 1}, SAVE,
                      after='compile' if name == 'ConvDAE' else 'train')
    np.testing.assert_array_equal(kept['saved'], kept['loaded'])
    assert kept['losses'][0] == pytest.approx(kept['losses'][1], rel=1e-6)
    assert kept['moved'].min() > 0    # the loaded one goes on learning
    assert {'UpsampleConv2D', 'MaxPoolingBiasReLU'} <= set(kept['kinds']) or name != 'ConvDAE'


@pytest.mark.skipif(sys.platform != 'linux', reason='the peak of the memory is read from /proc')
@pytest.mark.parametrize('name', NOTEBOOKS)
def test_whole_run_keeps_the_memory_small(runs, name):
    _, kept = runs(name, 'full')
    code = ('import IPython, ipykernel, keras, matplotlib.pyplot, numpy, tensorflow; '
            'print(open("/proc/self/status").read().split("VmHWM:")[1].split()[0])')
    packages = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout
    assert kept['peak kilobytes'] - int(packages) < MEGABYTES[name] * 1000


@pytest.mark.parametrize('name', ['BasicAE', 'ConvDAE'])
def test_comparison_runs_and_writes_its_table(name, tmp_path):
    output = tmp_path / 'compare.json'
    command = [sys.executable, str(ROOT / 'benchmarks' / 'compare.py'), name, '--data', str(SAMPLE),
               '--output', str(output), '--rounds', '1']
    printed = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path).stdout
    record = json.loads(output.read_text())
    assert list(record) == [name]
    assert {OURS, ORIGINAL, KERAS} <= set(record[name]['contestants'])
    for result in record[name]['contestants'].values():
        assert result['ms per step'][0] > 0
        assert result['peak memory (MB)'] > 100
        assert 0 < result['share of the matrix product'] < 1
    assert {'importing', 'loading data', 'the first step'} <= set(record[name]['seconds until the first step'])
    for line in (*table(record), *waiting(record)):
        assert line in printed
    assert [path.name for path in tmp_path.iterdir()] == ['compare.json']


def test_record_holds_what_was_aimed_at(recorded):
    assert tuple(recorded) == NETWORKS
    for name, record in recorded.items():
        contestants = {label: np.median(result['ms per step']) for label, result in record['contestants'].items()}
        expected = {OURS, ORIGINAL, KERAS, PYTORCH} | ({OURS_BFLOAT16} if name == 'ConvDAE' else set())
        assert set(contestants) == expected
        least = {'BasicAE': 1.8, 'EasyDAE': 2.3, 'ConvDAE': 1.35}[name]
        assert contestants[ORIGINAL] / contestants[OURS] >= least
        for result in record['contestants'].values():
            assert [int(count) for count in result['seconds per epoch']] == [15000, 30000, 60000]
    convolutional = {label: np.median(result['ms per step'])
                     for label, result in recorded['ConvDAE']['contestants'].items()}
    assert convolutional[KERAS] / convolutional[OURS] >= 1.35
    assert convolutional[PYTORCH] / convolutional[OURS] >= 1.9
    assert convolutional[ORIGINAL] / convolutional[OURS_BFLOAT16] >= 1.9
    for name, record in recorded.items():
        assert record['peak memory of all cells (MB)'] <= (1300 if name == 'ConvDAE' else 1000)


def test_readme_holds_the_recorded_comparison(recorded):
    readme = (ROOT / 'README.md').read_text(encoding='utf-8').splitlines()
    for line in (*table(recorded), *waiting(recorded)):
        assert line in readme


def test_cells_of_the_comparison_are_there():
    for name in NOTEBOOKS:
        ids = {cell.id for cell in read_notebook(name).cells}
        assert {'parameters', 'batches', 'train'} <= ids
    every_id = {cell.id for name in NOTEBOOKS for cell in read_notebook(name).cells}
    assert every_id >= DRAWING
