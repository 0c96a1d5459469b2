"""The notebooks run with a reader's tools, wherever they lie, and go on after an interruption."""
import os
import shutil
import signal
import subprocess
import sys
import threading

import nbformat
import pytest
from conftest import NOBODY, NOTEBOOKS, Cells, code_cell, read_notebook, stream_text
from test_data import MIRRORS

RUNNERS = {
    'papermill': ['papermill', 'EasyDAE.ipynb', 'run.ipynb'],
    'nbconvert': ['nbconvert', '--to', 'notebook', '--execute', '--output', 'run.ipynb', 'EasyDAE.ipynb'],
    'jupyter execute': ['jupyter', 'execute', '--output', 'run.ipynb', 'EasyDAE.ipynb'],
}


@pytest.mark.parametrize('runner', RUNNERS)
def test_runs_in_a_folder_with_spaces_and_other_letters(runner, tiny, tmp_path):
    """Without a network, on what lies in MNIST_data/sample; it stores no redraws and opens with the result."""
    folder = tmp_path / 'my notebooks, Übung 数字'
    shutil.copytree(tiny, folder / 'MNIST_data' / 'sample')
    notebook = read_notebook('EasyDAE')
    for mirror in MIRRORS:
        code_cell(notebook, 'load_images').source = code_cell(notebook, 'load_images').source.replace(mirror, NOBODY)
    code_cell(notebook, 'parameters').source += '\nepochs, noise_factor = 1, 0.3'
    nbformat.write(notebook, folder / 'EasyDAE.ipynb')
    run = subprocess.run([sys.executable, '-m', *RUNNERS[runner]], cwd=folder, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    done = nbformat.read(folder / 'run.ipynb', as_version=4)
    text = stream_text(done.cells)
    assert 'Connection refused): using the sample in MNIST_data/sample.\n' in text
    assert '300 training images and 50 test images from MNIST_data/sample\n' in text
    assert text.count('epoch ') == text.count('epoch  1/1  loss') == 1
    assert '\r' not in text
    assert stream_text(done.cells, 'stderr') == ''
    opening, version = code_cell(done, 'setup').outputs
    assert 'factor 0.3' in opening.metadata['image/png']['alt']
    assert version.text.startswith('TensorFlow ')


@pytest.mark.skipif(sys.platform == 'win32', reason='a signal interrupts the training')
@pytest.mark.parametrize('name', NOTEBOOKS)
def test_training_goes_on_after_an_interruption(name, tiny):
    """The cell can be run again: what was learned is not lost."""
    cells = Cells(name, data_dir=str(tiny), epochs=1000, batch_size=50)
    space, printed = cells.run_to('batches'), []

    def print_and_interrupt(line):
        printed.append(line)
        if len(printed) == 1:
            threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT)).start()

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        space['print'] = print_and_interrupt
        with pytest.raises(KeyboardInterrupt):
            cells.run('train')
    finally:
        signal.signal(signal.SIGINT, before)
    del space['print']
    space['epochs'] = 2
    losses = cells.run('train')['history'].history['loss']
    assert len(losses) == 2
    assert max(losses) < float(printed[0].removeprefix('epoch  1/1000  loss '))
