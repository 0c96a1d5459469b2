"""What the tests share: cells run in this process or in a kernel, and what they printed and drew."""
import gzip
import json
import os
import re
import shutil
import subprocess
import sys
import types
from pathlib import Path
from unittest import mock

import nbformat
import numpy as np
from compare import DRAWING, TEST, TRAIN, read_pixels
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = ('BasicAE', 'EasyDAE', 'ConvDAE')
SAMPLE = ROOT / 'MNIST_data' / 'sample'
FULL = Path(os.environ['MNIST_DATA']).resolve() if os.environ.get('MNIST_DATA') else None
NOBODY = ['http://127.0.0.1:9/'] * 2    # in place of the mirrors: the discard port, where nothing answers
TOOLS = {    # what readers run notebooks with; each stores what a notebook prints in its own way
    'BasicAE': 'papermill --no-progress-bar {}.ipynb run.ipynb',
    'EasyDAE': 'jupyter execute --output=run.ipynb {}.ipynb',
    'ConvDAE': 'nbconvert --to=notebook --execute --output=run.ipynb {}.ipynb'}


def read_notebook(name):
    """Return a notebook as it lies in the tree."""
    return nbformat.read(ROOT / f'{name}.ipynb', as_version=4)


def code_cells(notebook):
    """Return the code cells by their ids."""
    return {cell.id: cell for cell in notebook.cells if cell.cell_type == 'code'}


def prepared(name, changes=(), **parameters):
    """Return a notebook without mirrors, with texts changed, and with parameters set as papermill does."""
    notebook = read_notebook(name)
    cells = code_cells(notebook)
    cells['load_images'].source = re.sub('(?m)^mirrors = .*', f'mirrors = {NOBODY}', cells['load_images'].source)
    for old, new in dict(changes).items():
        assert any(old in cell.source for cell in cells.values()), f'no cell has {old!r}'
        for cell in cells.values():
            cell.source = cell.source.replace(old, new)
    assert all(f'\n{parameter} = ' in f'\n{cells["parameters"].source}' for parameter in parameters)
    injected = '\n'.join(f'{parameter} = {value!r}' for parameter, value in parameters.items())
    (place,) = (place for place, cell in enumerate(notebook.cells) if 'parameters' in cell.metadata.get('tags', []))
    notebook.cells.insert(place + 1, nbformat.v4.new_code_cell(injected, id='injected'))
    return notebook


class Shell(InteractiveShell):
    """IPython without a kernel, so that TensorFlow is imported once: without windows, and errors are raised."""

    enable_gui = showtraceback = lambda *arguments, **options: None


def run_sources(sources, **variables):
    """Run sources of cells in this process; return their variables."""
    module = types.ModuleType('notebook')
    module.__dict__.update(variables)
    Shell.clear_instance()
    with mock.patch.dict(os.environ):    # a kernel that is started later sees nothing of it
        shell = Shell.instance(user_module=module, config=Config(HistoryManager={'enabled': False}))
        for source in sources:
            shell.run_cell(source).raise_error()
    return module.__dict__


def cells_up_to(name, last, changes=(), **parameters):
    """Run the cells of a notebook in this process, but for what only draws before training; return their variables."""
    cells = [*code_cells(prepared(name, changes, **parameters)).values()]
    count = [cell.id for cell in cells].index(last) + 1
    return run_sources([cell.source for cell in cells[:count] if cell.id not in DRAWING])


def kernel_environment(folder):
    """Return the environment of a kernel with settings that a reader may have, none of which may change anything."""
    own = shutil.copytree(ROOT / 'tests' / 'settings', folder / '.own')
    return {**os.environ, 'IPYTHONDIR': str(own), 'KERAS_HOME': str(own), 'MATPLOTLIBRC': str(own / 'matplotlibrc'),
            'KERAS_BACKEND': 'torch', 'MPLBACKEND': 'Agg', 'TF_CPP_MIN_LOG_LEVEL': '0'}


def execute(name, folder, changes=(), **parameters):
    """Run a notebook in a folder with a tool that readers use; return it with its outputs."""
    nbformat.write(prepared(name, changes, **parameters), folder / f'{name}.ipynb')
    done = subprocess.run([sys.executable, '-m', *TOOLS[name].format(name).split()], cwd=folder,
                          env=kernel_environment(folder), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return nbformat.read(folder / 'run.ipynb', as_version=4)


def figures(notebook):
    """Return what the figures show, by their titles: rows of images, curves, and how they look."""
    kind, found = 'application/x-figure+json', {}
    for output in (output for cell in code_cells(notebook).values() for output in cell.outputs):
        if kind in output.get('data', {}):
            figure = output.data[kind] if isinstance(output.data[kind], dict) else json.loads(output.data[kind])
            figure['rows'] = {name: np.array(images, float) for name, images in figure['rows'].items()}
            found[figure['title']] = figure
    return found


def idx(pixels, *header):
    """Return pixels as an IDX archive, with a header that need not fit them."""
    return gzip.compress(np.array(header, '>i4').tobytes() + bytes(pixels))


def cut_sample(folder, train_count=300):
    """Write archives with the first images of the sample into a new folder, 50 to test with; return its path."""
    folder.mkdir()
    for name, count in ((TRAIN, train_count), (TEST, 50)):
        (folder / name).write_bytes(idx(read_pixels(SAMPLE / name)[:count], 2051, count, 28, 28))
    return str(folder)


def printed(cell):
    """Return the text of a cell's outputs, without colours."""
    return re.sub(r'\x1b\[[0-9;]*m', '', ''.join(
        output.get('text', '') + output.get('data', {}).get('text/plain', '') for output in cell.outputs
        if 'image/png' not in output.get('data', {})))


def pictures(cell):
    """Return a cell's pictures: their bytes in base64 and their alternative texts."""
    return [(''.join(output.data['image/png'].split()), output.metadata['image/png']['alt'])
            for output in cell.outputs if 'image/png' in output.get('data', {})]


def assert_clean(notebook, folder=''):
    """Fail on warnings, redrawn lines, paths of a machine, and figures without a text."""
    for cell in code_cells(notebook).values():
        assert {'error', 'stderr'}.isdisjoint(output.get('name', output.output_type) for output in cell.outputs)
        disturbing = '[^\n -\uffff]|(?:^|[\\s\'"(])/\\w+|warning'    # control characters, paths
        assert re.findall(disturbing, printed(cell).replace(folder, ''), re.IGNORECASE) == [], cell.id
        assert [alt for _, alt in pictures(cell) if len(alt) <= 40] == [], cell.id
