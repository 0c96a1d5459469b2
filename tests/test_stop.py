"""A kernel in use: trainings that are stopped and gone on with, and networks that cannot be kept."""
import re
import time
from contextlib import contextmanager, suppress

import nbformat
import pytest
from helpers import code_cells, cut_sample, figures, kernel_environment, prepared, printed, table
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

        # Which some one in forty stops of a dense network does, in TensorFlow 2.21, when its memory is corrupted.
        assert self.client.parent.is_alive(), 'the kernel has died'
        self.client.execute_interactive(source, allow_stdin=False, timeout=120, output_hook=hear)
        return cell

    def run_cells(self, first, last):
        """Run cells from one to another, none of which may fail; return what they put out, by their names."""
        names, done = [*self.cells], {}
        for name in names[names.index(first):names.index(last) + 1]:
            done[name] = self.run(self.cells[name].source)
            assert [output for output in done[name].outputs if output.output_type == 'error'] == [], name
        return done

    def stop(self, name, stop_at):
        """Run a cell and stop it where that is in what it puts out."""
        *_, error = self.run(self.cells[name].source, stop_at).outputs
        assert error.ename == 'KeyboardInterrupt'

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
    parameters = {'epochs': 3, 'dense_units': [5, 6], 'skip_epochs': 2, 'distances': [3], 'noise_factors': [0.5],
                  'model_file': 'kept.keras'}
    with kernel_of('ConvDAE', tmp_path_factory.mktemp('conv'), **parameters) as kernel:
        kernel.run_cells('setup', 'batches')
        kernel.stop('train', stop_at='epoch 2 of 3')
        kernel.rest = kernel.run_cells('curve', 'picture')
        yield kernel


def epochs(outputs):
    """Return from the table of ConvDAE for each network the number of epochs that it was trained."""
    return {name: row['epochs'] for name, row in table(outputs['table']).items() if name != 'noisy'}


def test_after_a_stopped_training_the_rest_shows_what_was_trained_so_far(conv):
    assert epochs(conv.rest) == {'convolutional': 1, 'dense 5': 3, 'dense 6': 3, 'skip connections': 2}
    rows = [*figures(conv.rest['compare'])[0]['rows']][2:]
    assert [row.split(',')[0] for row in rows] == [*epochs(conv.rest)]


def test_a_stopped_training_is_gone_on_with_and_ends_once(conv):
    for _ in range(2):
        conv.run_cells('train', 'train')
        assert conv.value('[len(each) for each in history.history.values()]') == '[3, 3]'    # losses, seconds
        assert conv.value('history.history["seconds"] == sorted(history.history["seconds"])') == 'True'


def test_a_comparison_that_is_stopped_shows_the_networks_so_far(conv):
    conv.run('epochs = 100_000')    # no training ends before it is stopped
    conv.run_cells('networks', 'networks')
    conv.stop('dense', stop_at='step ')
    assert [*epochs(conv.run_cells('time_curve', 'compare'))] == ['convolutional', 'dense 5']


def test_a_network_kept_as_h5_can_be_opened(tmp_path, conv):
    conv.run(f'model_file = {str(tmp_path / "kept.h5")!r}')
    assert 'kept.h5 holds ' in printed(conv.run_cells('save', 'save')['save'])
    assert conv.value('keras.models.load_model(model_file).name').endswith('ConvDAE')    # after a warning


@pytest.mark.parametrize(('file', 'cause'), [
    ('/proc/x.keras', 'pass'), ('kept.zip', 'pass'), ('~/no/such/folder/x.keras', 'pass'),
    ('kept.keras', 'import resource, signal\nsignal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n'    # a full disk
     'resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))')])
def test_a_network_that_cannot_be_kept_costs_one_sentence_and_not_the_one_that_was_kept(file, cause, conv):
    files = 'sorted(os.listdir()), hash(open("kept.keras", "rb").read())'
    before = conv.value(files)
    conv.run(f'{cause}\nmodel_file = {file!r}')
    assert re.fullmatch(rf'{file} is not written, .*\n', printed(conv.run_cells('save', 'save')['save']))
    assert conv.value(files) == before


def test_a_dense_training_that_is_stopped_is_gone_on_with_and_ends_once(tmp_path):
    with kernel_of('EasyDAE', tmp_path, epochs=100_000) as easy:    # no training ends before it is stopped
        easy.run_cells('setup', 'batches')
        easy.stop('train', stop_at='epoch ')
        easy.run('epochs = len(losses) + 1')
        for _ in range(2):
            easy.run_cells('train', 'denoise')
            assert easy.value('len(losses) == epochs > 1') == 'True'
