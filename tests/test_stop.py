"""A kernel in use: trainings that are stopped and gone on with, cells run again, and settings of the reader's own."""
import re
import time
from contextlib import contextmanager, suppress

import nbformat
import numpy as np
import pytest
from helpers import code_cells, cut_sample, figures, kernel_environment, prepared, printed
from jupyter_client.manager import run_kernel


class Kernel:
    """A kernel that runs, and the cells of a notebook, which it can run in any order and stop."""

    def __init__(self, client, cells):
        self.client, self.cells = client, cells

    def run(self, source, stop_at=None):
        """Run a source, stop it where that is in what it puts out; return its outputs in a notebook's cell."""
        cell, stops = nbformat.v4.new_code_cell(source), [0]

        def hear(message):
            with suppress(ValueError):    # of what is no output
                cell.outputs.append(nbformat.v4.output_from_msg(message))
            said = message['content'].get('text', '') + message['content'].get('data', {}).get('text/plain', '')
            if stop_at and stop_at in said and time.time() > stops[-1] + 9:    # again, as Python may have lost one
                stops.append(time.time())
                self.client.parent.interrupt_kernel()

        self.client.execute_interactive(source, allow_stdin=False, timeout=200, output_hook=hear)
        return cell

    def run_cells(self, first='setup', last=None):
        """Run cells from one to another, none of which may fail; return them as a notebook."""
        ids, notebook = list(self.cells), nbformat.v4.new_notebook()
        for cell_id in ids[ids.index(first):ids.index(last or ids[-1]) + 1]:
            notebook.cells.append(cell := self.run(self.cells[cell_id].source))
            cell.id = cell_id
            assert [output for output in cell.outputs if output.output_type == 'error'] == [], cell_id
        return notebook

    def error(self, cell_id, stop_at=None):
        """Run a cell, stop it where that is in what it puts out; return the error with which it ends."""
        *_, error = self.run(self.cells[cell_id].source, stop_at).outputs
        return f'{error.ename}: {error.evalue}'

    def value(self, expression):
        """Return what an expression is now, as a text."""
        return printed(self.run(f'print({expression})')).strip()


@contextmanager
def kernel_of(name, folder, **parameters):
    """Start a kernel for the cells of a notebook on 300 images, until the context is left."""
    cells = code_cells(prepared(name, data_dir=cut_sample(folder / 'tiny'), batch_size=30, **parameters))
    with run_kernel(cwd=str(folder), env=kernel_environment(folder)) as client:
        yield Kernel(client, cells)


@pytest.fixture(scope='module')
def conv(tmp_path_factory):
    """Return a kernel in which ConvDAE's training was stopped after an epoch, then the rest was run."""
    parameters = {'epochs': 3, 'dense_units': [5, 6], 'distances': [0, 3], 'model_file': 'kept.keras'}
    with kernel_of('ConvDAE', tmp_path_factory.mktemp('conv'), **parameters) as kernel:
        kernel.run_cells(last='batches')
        assert 'KeyboardInterrupt' in kernel.error('train', stop_at='epoch  1/3')
        kernel.rest = kernel.run_cells('curve')
        yield kernel


@pytest.fixture(scope='module')
def easy(tmp_path_factory):
    """Return a kernel in which EasyDAE was run as far as to its result."""
    with kernel_of('EasyDAE', tmp_path_factory.mktemp('easy'), epochs=2, shown=[10, 11]) as kernel:
        kernel.run_cells(last='denoise')
        yield kernel


def table(notebook):
    """Return from the table of ConvDAE for each network the number of epochs that it was trained."""
    text = printed(code_cells(notebook)['table'])
    return dict(re.findall(r'(?m)^(convolutional|dense \d+) +[\d,]+ +(\d+) +\d+ ', text))


def test_after_a_stopped_training_the_rest_shows_what_was_trained_so_far(conv):
    assert table(conv.rest) == {'convolutional': '1', 'dense 5': '3', 'dense 6': '3'}
    rows = [*figures(conv.rest)['The same noisy digits, denoised in 3 ways']['rows']][2:]
    assert [row.split(',')[0] for row in rows] == [*table(conv.rest)]


def test_a_stopped_training_is_gone_on_with(conv):
    conv.run_cells('train', 'train')
    assert conv.value('len(losses)') == '3'


def test_a_comparison_that_is_stopped_shows_the_networks_so_far(conv):
    conv.run('epochs = 100_000')    # no training ends before it is stopped
    assert 'KeyboardInterrupt' in conv.error('dense', stop_at='step ')
    assert list(table(conv.run_cells('dense_curve', 'compare'))) == ['convolutional', 'dense 5']


@pytest.mark.parametrize(('file', 'cause'), [('/proc/x.keras', 'pass'), (
    'kept.keras', 'import resource, signal\nsignal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n'    # a full disk
    'resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))')])
def test_a_network_that_cannot_be_kept_costs_one_sentence_and_not_the_one_that_was_kept(file, cause, conv):
    files = 'sorted(os.listdir()), hash(open("kept.keras", "rb").read())'
    before = conv.value(files)
    conv.run(f'{cause}\nmodel_file = {file!r}')
    assert re.fullmatch(rf'{file} is not written, .*\n', printed(conv.run_cells('save', 'save').cells[0]))
    assert conv.value(files) == before


def test_a_dense_training_that_is_stopped_is_gone_on_with(easy):
    easy.run('epochs = 100_000')    # no training ends before it is stopped
    assert 'KeyboardInterrupt' in easy.error('train', stop_at='epoch ')
    easy.run('epochs = len(losses) + 1')
    easy.run_cells('train', 'train')
    assert easy.value('len(losses) == epochs > 2') == 'True'


@pytest.mark.parametrize(('change', 'back', 'cell_id'), [
    ('shown[0] = 3', 'shown[0] = 10', 'denoise'), ("kept, data_dir = data_dir, 'other'", 'data_dir = kept', 'curve'),
    ("keras.config.set_dtype_policy('mixed_bfloat16')", "keras.config.set_dtype_policy('float32')", 'train')])
def test_a_cell_run_after_a_change_says_what_to_run(change, back, cell_id, easy):
    easy.run(change)
    assert re.fullmatch(r'ValueError: A parameter has changed [^\n]*: run all cells[^\n]*', easy.error(cell_id))
    easy.run(back)
    easy.run_cells(cell_id, cell_id)


def test_all_cells_run_again_after_a_change_give_what_a_fresh_kernel_gives(tmp_path):
    """The same seed gives the same losses and pictures to the last bit, whatever was run before."""
    with kernel_of('ConvDAE', tmp_path, epochs=1, dense_units=[5], distances=[2], shown=[10, 11]) as kernel:
        fresh = figures(kernel.run_cells())
        kernel.run("keras.config.set_dtype_policy('mixed_bfloat16')\nnoise_factor, shown[0] = 0.2, 3")
        kernel.run_cells('add_noise', 'decoder')
        again = figures(kernel.run_cells())
        for kind in ('rows', 'curves'):
            np.testing.assert_equal([each[kind] for each in again.values()], [each[kind] for each in fresh.values()])


def test_tensorflow_may_be_in_use_and_run_eagerly(tmp_path):
    with kernel_of('BasicAE', tmp_path, epochs=1) as kernel:
        kernel.run('import tensorflow as tf\ntf.constant(0)\ntf.config.run_functions_eagerly(True)')
        kernel.run_cells(last='train')


@pytest.mark.parametrize(('fault', 'said'), [
    ("__version__ = '2.15.0'\nclass backend:\n    backend = lambda: 'tensorflow'\n", 'Keras 3 on TensorFlow is needed'),
    ("raise ImportError('broken')\n", 'broken')])
def test_a_keras_that_does_not_fit_costs_one_sentence_and_leaves_the_error_stream_open(fault, said, tmp_path):
    (tmp_path / 'keras.py').write_text(fault)
    with kernel_of('EasyDAE', tmp_path) as kernel:
        assert re.fullmatch(rf'ImportError: {said}[^\n]*', kernel.error('setup'))
        assert kernel.value('os.path.sameopenfile(2, os.open(os.devnull, os.O_WRONLY))') == 'False'
