"""A kernel in use: trainings that are stopped and gone on with, cells run again, and settings of the reader's own."""
import queue
import re
import time

import nbformat
import pytest
from helpers import code_cells, cut_sample, figures, kernel_environment, prepared, printed, run_in_kernel
from jupyter_client import KernelManager

SHORT = {'batch_size': 30, 'epochs': 2}
CONVDAE = {**SHORT, 'dense_units': [5, 6], 'distances': [0, 3]}
ENDLESS = 100_000    # epochs: no training ends before it is stopped


@pytest.fixture(scope='module')
def tiny(tmp_path_factory):
    """Return a folder with 300 training and 50 test images."""
    return str(cut_sample(tmp_path_factory.mktemp('tiny'), 300, 50))


class Kernel:
    """A kernel with the cells of a notebook, which can be run in any order, and stopped."""

    def __init__(self, folder, name, **parameters):
        self.cells = code_cells(prepared(name, **parameters))
        self.manager = KernelManager()
        self.manager.start_kernel(cwd=str(folder), env=kernel_environment(folder))
        self.client = self.manager.blocking_client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=100)

    def run(self, source, stop_at=None):
        """Run a source, stop it where that is in what it puts out; return its outputs in a notebook's cell."""
        message, cell, stopped = self.client.execute(source), nbformat.v4.new_code_cell(source), False
        deadline = time.time() + 200
        while time.time() < deadline:
            try:
                reply = self.client.get_iopub_msg(timeout=5)
            except queue.Empty:
                continue
            if reply['parent_header'].get('msg_id') != message:
                continue
            kind, content = reply['msg_type'], reply['content']
            if kind == 'status' and content['execution_state'] == 'idle':
                return cell
            if kind in ('stream', 'display_data', 'execute_result', 'error'):
                cell.outputs.append(nbformat.v4.output_from_msg(reply))
            text = content.get('text', '') + content.get('data', {}).get('text/plain', '')
            if stop_at and stop_at in text and not stopped:
                stopped = True
                self.manager.interrupt_kernel()
        raise TimeoutError(source)

    def run_cells(self, first=None, last=None):
        """Run cells from one to another, none of which may fail; return them as a notebook."""
        ids = list(self.cells)
        ids = ids[ids.index(first) if first else 0:ids.index(last) + 1 if last else None]
        done = [self.run(self.cells[cell_id].source) for cell_id in ids]
        for cell_id, cell in zip(ids, done):
            cell.id = cell_id
            assert [output for output in cell.outputs if output.output_type == 'error'] == [], cell_id
        return nbformat.v4.new_notebook(cells=done)

    def stop(self, cell_id, stop_at):
        """Run a cell and stop it where that is in what it puts out."""
        (error,) = (each for each in self.run(self.cells[cell_id].source, stop_at).outputs
                    if each.output_type == 'error')
        assert error.ename == 'KeyboardInterrupt'


@pytest.fixture
def start(tmp_path):
    """Return a function that starts a kernel with the cells of a notebook."""
    kernels = []

    def start(name, **parameters):
        kernels.append(Kernel(tmp_path, name, **parameters))
        return kernels[-1]

    yield start
    for kernel in kernels:
        kernel.client.stop_channels()
        kernel.manager.shutdown_kernel(now=True)


def error_of(cell):
    """Return what stopped a cell."""
    (error,) = (output for output in cell.outputs if output.output_type == 'error')
    return f'{error.ename}: {error.evalue}'


def table(notebook):
    """Return from the table of ConvDAE for each network the number of epochs that it was trained."""
    text = printed(code_cells(notebook)['table'])
    return {name.strip(): int(epochs) for name, epochs in re.findall(r'^(.+?) +[\d,]+ +(\d+) +\d+ ', text, re.MULTILINE)}


def test_after_a_stopped_training_the_rest_shows_what_was_trained_so_far_and_it_can_be_gone_on_with(start, tiny):
    kernel = start('ConvDAE', data_dir=tiny, **{**CONVDAE, 'epochs': 3})
    kernel.run_cells(last='batches')
    kernel.stop('train', 'epoch  1/3')
    rest = kernel.run_cells('curve')
    assert table(rest) == {'convolutional': 1, 'dense 5': 3, 'dense 6': 3}
    assert list(figures(rest)['The same noisy digits, denoised in 3 ways']['rows'])[2:] == [*table(rest)]
    again = kernel.run(kernel.cells['train'].source)
    assert re.findall(r'epoch +(\d)/3', printed(again)) == ['2', '3']
    assert table(kernel.run_cells('curve'))['convolutional'] == 3


def test_a_comparison_that_is_stopped_shows_the_networks_so_far(start, tiny):
    kernel = start('ConvDAE', data_dir=tiny, **CONVDAE)
    kernel.run_cells(last='measure')
    kernel.run_cells('denoise', 'inside')
    kernel.stop('dense', 'dense 5: loss')
    assert {'convolutional', 'dense 5'} <= table(kernel.run_cells('dense_curve')).keys()


@pytest.mark.parametrize('name', ['BasicAE', 'EasyDAE'])
def test_a_dense_training_that_is_stopped_is_gone_on_with(name, start, tiny):
    kernel = start(name, data_dir=tiny, **SHORT)
    kernel.run_cells(last='batches')
    kernel.run(f'epochs = {ENDLESS}')
    kernel.stop('train', 'epoch  3/')
    kernel.run('epochs = len(losses) + 1')
    assert re.findall(r'epoch .*', printed(kernel.run(kernel.cells['train'].source))) != []
    kernel.run_cells('original' if name == 'BasicAE' else 'curve', 'curve')


CHANGES = {    # what a reader changes after a run, and the cell that is run then
    'noise factor': ('noise_factor = 0.1', 'noise'),
    'type of numbers': ("keras.config.set_dtype_policy('mixed_bfloat16')", 'train'),
    'data': ("data_dir = 'other'", 'curve'),
    'seed, in a list': ('shown = [3]', 'denoise'),
}


def test_a_cell_run_after_a_change_says_what_to_run(start, tiny):
    kernel = start('EasyDAE', data_dir=tiny, **SHORT)
    kernel.run_cells()
    for kind, (change, cell_id) in CHANGES.items():
        kernel.run('before = {**globals()}\n' + change)
        cell = kernel.run(kernel.cells[cell_id].source)
        assert re.fullmatch(r'ValueError: A parameter has changed [^\n]*: run all cells[^\n]*', error_of(cell)), kind
        kernel.run("keras.config.set_dtype_policy('float32')\n"
                   'noise_factor, data_dir, shown = (before[name] for name in ("noise_factor", "data_dir", "shown"))')


def test_run_again_after_a_change_it_gives_what_a_fresh_kernel_gives(start, tiny):
    """Half precision is gone when its line is."""
    kernel, fresh = (start('EasyDAE', data_dir=tiny, **SHORT, noise_factor=factor) for factor in (0.5, 0.2))
    kernel.run(kernel.cells['setup'].source)
    kernel.run("keras.config.set_dtype_policy('mixed_bfloat16')")
    kernel.run_cells('parameters')
    kernel.cells['injected'].source += '\nnoise_factor = 0.2'
    found, expected = figures(kernel.run_cells()), figures(fresh.run_cells())
    assert found.keys() == expected.keys()
    curve = next(title for title in found if title.startswith('Training loss'))
    assert found[curve]['curves'] == expected[curve]['curves']


def test_tensorflow_may_be_in_use_and_run_eagerly(tiny, tmp_path):
    notebook = prepared('BasicAE', before='import tensorflow as tf\ntf.constant(0)\n'
                        'tf.config.run_functions_eagerly(True)', data_dir=tiny, **SHORT, sizes=[2], size_epochs=1)
    assert figures(run_in_kernel(notebook, tmp_path)) != {}


@pytest.mark.parametrize(('fault', 'said'), [
    ("__version__ = '2.15.0'\nclass backend:\n    backend = lambda: 'tensorflow'\n", 'Keras 3 on TensorFlow is needed'),
    ("raise ImportError('broken')\n", 'broken')])
def test_a_keras_that_does_not_fit_costs_one_sentence_and_leaves_the_error_stream_open(fault, said, tmp_path, start):
    (tmp_path / 'keras.py').write_text(fault)
    kernel = start('EasyDAE')
    assert re.fullmatch(rf'ImportError: {said}[^\n]*', error_of(kernel.run(kernel.cells['setup'].source)))
    heard = kernel.run("import subprocess, sys\nprint(subprocess.run([sys.executable, '-c', 'import sys; "
                       "sys.stderr.write(\"heard\")'], stderr=subprocess.PIPE).stderr, os.fstat(2).st_rdev != "
                       'os.stat(os.devnull).st_rdev)')
    assert printed(heard) == "b'heard' True\n"


SAVED = {    # where the network cannot be kept, and what a reader is told
    'folder that cannot be written': ('/proc/x.keras', ''),
    'no such folder': ('missing/x.keras', ''),
    'full disk': ('yesterday.keras', 'import resource, signal\nsignal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n'
                  'resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))'),
}


def test_a_network_that_cannot_be_kept_costs_one_sentence(start, tiny, tmp_path):
    (tmp_path / 'yesterday.keras').write_text('yesterday')
    kernel = start('ConvDAE', data_dir=tiny, **CONVDAE)
    kernel.run_cells(last='noise')
    kernel.run_cells('model', 'train')
    kernel.run_cells('measure', 'denoise')
    for kind, (file, before) in SAVED.items():
        kernel.run(f'{before}\nmodel_file = {file!r}')
        said = printed(kernel.run_cells('save', 'save').cells[0])
        assert re.fullmatch(rf'{file} is not written, [^\n]*\n', said), kind
    assert (tmp_path / 'yesterday.keras').read_text() == 'yesterday'
    assert [path.name for path in tmp_path.iterdir() if path.name not in ('.ipython', 'yesterday.keras')] == []
    kernel.run_cells('picture')
