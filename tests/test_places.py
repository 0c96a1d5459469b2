"""The notebooks run wherever a reader starts them, however their tools are set up, and in whatever order."""
import json
import os
import shutil
import subprocess
import sys

import nbformat
import pytest
from cases import check_case
from conftest import NOTEBOOKS, SAMPLE, Client, code_cell, execute, read_notebook, short_run, stream_text
from nbclient.exceptions import CellExecutionError
from test_data import NOBODY, with_mirrors
from traitlets.config import Config

SHORT = {'BasicAE': {'epochs': 1, 'sizes': [2, 37], 'size_epochs': 1}, 'EasyDAE': {'epochs': 1},
         'ConvDAE': {'epochs': 1, 'dense_epochs': 1, 'batch_size': 200}}
RUNNERS = {
    'papermill': ['papermill', 'EasyDAE.ipynb', 'run.ipynb', '-p', 'epochs', '1'],
    'nbconvert': ['nbconvert', '--to', 'notebook', '--execute', '--output', 'run.ipynb', 'EasyDAE.ipynb'],
    'jupyter execute': ['jupyter', 'execute', '--output', 'run.ipynb', 'EasyDAE.ipynb'],
}


def outputs_of(cells):
    """Return texts and pictures of the outputs, but for lines that are redrawn and times in them."""
    kept = []
    for cell in cells:
        for output in cell.get('outputs', []):
            kept.append(output.get('text') or output.get('data', {}).get('image/png'))
    return [each for each in kept if each]


@pytest.mark.parametrize('runner', RUNNERS)
def test_runs_in_a_folder_with_spaces_and_other_letters(runner, tmp_path):
    folder = tmp_path / 'my notebooks, Übung 数字'
    shutil.copytree(SAMPLE, folder / 'MNIST_data' / 'sample')
    notebook = with_mirrors(read_notebook('EasyDAE'), [NOBODY, NOBODY])
    if runner != 'papermill':
        code_cell(notebook, 'parameters').source += '\nepochs = 1'
    nbformat.write(notebook, folder / 'EasyDAE.ipynb')
    run = subprocess.run([sys.executable, '-m', *RUNNERS[runner]], cwd=folder, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    done = nbformat.read(folder / 'run.ipynb', as_version=4)
    assert 'using the sample in MNIST_data/sample.' in stream_text(done.cells)
    assert 'epoch  1/1  loss' in stream_text(done.cells)
    assert stream_text(done.cells, 'stderr') == ''
    check_case(f'{runner}, in a folder with spaces and letters of other languages', 'runs', 'images from ...',
               folder)


def test_runs_from_another_folder_or_says_where_it_looked(tmp_path):
    elsewhere = tmp_path / 'elsewhere'
    elsewhere.mkdir()
    nbformat.write(with_mirrors(read_notebook('EasyDAE'), [NOBODY, NOBODY]), tmp_path / 'EasyDAE.ipynb')
    command = [sys.executable, '-m', 'papermill', str(tmp_path / 'EasyDAE.ipynb'), 'run.ipynb', '-p', 'epochs', '1']
    run = subprocess.run(command, cwd=elsewhere, capture_output=True, text=True)
    assert run.returncode != 0
    (sentence,) = {line for line in run.stderr.splitlines() if line.startswith('FileNotFoundError: ')}
    check_case('started in a folder without digits, no network', 'stops',
               sentence.removeprefix('FileNotFoundError: '), elsewhere)
    run = subprocess.run([*command, '-p', 'data_dir', str(SAMPLE)], cwd=elsewhere, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert f'images from {SAMPLE}' in stream_text(nbformat.read(elsewhere / 'run.ipynb', as_version=4).cells)


@pytest.mark.parametrize('name', NOTEBOOKS)
def test_the_reader_s_own_settings_change_nothing(name, runs, tmp_path, monkeypatch):
    usual, _ = runs(name, 'sample')
    (tmp_path / 'keras').mkdir()
    (tmp_path / 'keras' / 'keras.json').write_text(json.dumps(
        {'backend': 'jax', 'floatx': 'float16', 'image_data_format': 'channels_first', 'epsilon': 1e-3}))
    (tmp_path / 'matplotlibrc').write_text(
        'image.cmap: jet\nfigure.facecolor: black\naxes.grid: True\nfigure.dpi: 30\nfont.size: 3\n'
        'savefig.dpi: 20\nfigure.constrained_layout.use: False\naxes.titlesize: 40\n')
    monkeypatch.setenv('KERAS_HOME', str(tmp_path / 'keras'))
    monkeypatch.setenv('KERAS_BACKEND', 'torch')
    monkeypatch.setenv('MATPLOTLIBRC', str(tmp_path / 'matplotlibrc'))
    monkeypatch.setenv('MPLBACKEND', 'Agg')
    folder = tmp_path / 'run'
    folder.mkdir()
    run, _ = short_run(name, 'sample', folder)
    assert outputs_of(run.cells) == outputs_of(usual.cells)
    check_case(f'{name}, with Keras set up for another backend, float16 and channels_first, and with a matplotlibrc '
               'and MPLBACKEND', 'runs', 'the same numbers and figures', folder)


@pytest.mark.parametrize('name', NOTEBOOKS)
def test_runs_twice_in_one_kernel_and_then_backwards(name, tmp_path):
    notebook = read_notebook(name)
    once = [cell for cell in notebook.cells if cell.cell_type == 'code']
    parameters = code_cell(notebook, 'parameters')
    parameters.source += '\n' + '\n'.join(f'{key} = {value!r}' for key, value in
                                          {'data_dir': str(SAMPLE), **SHORT[name]}.items())
    sources = [cell.source for cell in once]
    notebook.cells = [nbformat.v4.new_code_cell(source) for source in (*sources, *sources, *reversed(sources))]
    done, _ = execute(notebook, tmp_path)
    count = len(sources)
    first, second, backwards = (done.cells[len(done.cells) - number * count:][:count] for number in (3, 2, 1))
    assert outputs_of(first) == outputs_of(second)
    assert stream_text(done.cells, 'stderr') == ''
    assert len(outputs_of(backwards)) >= 10
    check_case(f'{name}, run twice in one kernel, then cell by cell from the last to the first',
               'runs; the second time is like the first', 'the same numbers and figures', tmp_path)


class Interrupting(Client):
    """Interrupts the kernel once, when the first epoch has been reported."""

    interrupted = False

    def process_message(self, message, cell, cell_index):
        """Handle a message from the kernel as usual."""
        if not self.interrupted and 'epoch  1/' in message['content'].get('text', ''):
            self.interrupted = True
            os.kill(self.km.provisioner.pid, 2)
        return super().process_message(message, cell, cell_index)


@pytest.mark.skipif(sys.platform == 'win32', reason='a signal interrupts the kernel')
@pytest.mark.parametrize('name', NOTEBOOKS)
def test_training_goes_on_after_an_interruption(name, tmp_path):
    notebook = read_notebook(name)
    last = notebook.cells.index(code_cell(notebook, 'train'))
    notebook.cells = notebook.cells[:last + 1]
    code_cell(notebook, 'parameters').source += f'\ndata_dir, epochs = {str(SAMPLE)!r}, 100'
    train = code_cell(notebook, 'train')
    train.metadata['tags'] = ['raises-exception']
    notebook.cells += [nbformat.v4.new_code_cell('epochs = 2'), nbformat.v4.new_code_cell(train.source)]
    client = Interrupting(notebook, timeout=None, coalesce_streams=True, record_timing=False,
                          resources={'metadata': {'path': str(tmp_path)}},
                          config=Config(KernelManager={'transport_encryption': 'auto'}))
    try:
        client.execute()
    except CellExecutionError as error:
        pytest.fail(str(error))
    assert any(output.output_type == 'error' and output.ename == 'KeyboardInterrupt' for output in train.outputs)
    first = float(stream_text([train]).split('loss ')[1].split()[0])
    losses = [float(each.split()[0]) for each in stream_text([notebook.cells[-1]]).split('loss ')[1:]]
    assert len(losses) == 2
    assert max(losses) < first
    check_case(f'{name}, training interrupted, its cell run again', 'goes on from where it was',
               'the loss falls further', tmp_path)
