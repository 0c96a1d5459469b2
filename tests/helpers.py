"""What the tests share: cells run in this process or in a kernel, and what they printed and drew."""
import gzip
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import types
from pathlib import Path
from unittest import mock

import nbformat
import numpy as np
from compare import DRAWING, TEST, TRAIN, code_cells, read_pixels
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from traitlets.config import Config

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = ('BasicAE', 'EasyDAE', 'ConvDAE')
SAMPLE = ROOT / 'MNIST_data' / 'sample'
FULL = Path(os.environ['MNIST_DATA']).resolve() if os.environ.get('MNIST_DATA') else None
NOBODY = 'http://127.0.0.1:9/'    # in place of the mirror: the discard port, where nothing answers
FIGURE = 'application/x-figure+json'    # the type under which the kernels of the tests store figures as numbers
# What TensorFlow writes while it is imported, before any setting of it applies.
LOG_LINE = r'(WARNING: All log messages before absl|[IWEF]\d{4} |\d{4}-\d\d-\d\d [\d:.]+: |To enable )[^\n]*'
TOOLS = {    # what readers run notebooks with; each stores what a notebook prints in its own way
    'BasicAE': 'papermill --no-progress-bar {}.ipynb run.ipynb',
    'EasyDAE': 'jupyter execute --output=run.ipynb {}.ipynb',
    'ConvDAE': 'nbconvert --to=notebook --execute --output=run.ipynb {}.ipynb'}


def read_notebook(name):
    """Return a notebook as it lies in the tree."""
    return nbformat.read(ROOT / f'{name}.ipynb', as_version=4)


def prepared(name, changes=(), **parameters):
    """Return a notebook without its mirror, with texts changed, and with parameters set as papermill does."""
    notebook = read_notebook(name)
    cells = code_cells(notebook)
    cells['load_images'].source = re.sub('(?m)^mirror = .*', f'mirror = {NOBODY!r}', cells['load_images'].source)
    for old, new in dict(changes).items():
        assert any(old in cell.source for cell in cells.values()), f'no cell has {old!r}'
        for cell in cells.values():
            cell.source = cell.source.replace(old, new)
    assert all(f'\n{parameter} = ' in f'\n{cells["parameters"].source}' for parameter in parameters)
    injected = '\n'.join(f'{parameter} = {value!r}' for parameter, value in parameters.items())
    place = notebook.cells.index(cells['parameters'])
    notebook.cells.insert(place + 1, nbformat.v4.new_code_cell(injected, metadata={'tags': ['injected']}))
    return notebook


class Shell(InteractiveShell):
    """IPython without a kernel, so that TensorFlow is imported once: without windows, and errors are raised."""

    enable_gui = showtraceback = lambda *arguments, **options: None


def run_cells(cells, space=None):
    """Run cells in this process, in a module of their own or in one that they fill further; return it.

    What they put out is kept in them as in a notebook.
    """
    space = space or types.ModuleType('notebook')
    Shell.clear_instance()
    with mock.patch.dict(os.environ):    # a kernel that is started later sees nothing of it
        shell = Shell.instance(user_module=space, config=Config(HistoryManager={'enabled': False}))
        runpy.run_path(ROOT / 'tests' / 'settings' / 'profile_default' / 'startup' / 'figures.py')
        for cell in cells:
            with capture_output() as captured:
                result = shell.run_cell(cell.source, store_history=True)    # by which a last ; is heard
            cell.outputs = [nbformat.v4.new_output('stream', text=captured.stdout)] + [
                nbformat.v4.new_output('display_data', output.data, metadata=output.metadata)
                for output in captured.outputs if not output.update]
            result.raise_error()
    return space


def cells_up_to(name, last, changes=(), without=DRAWING, **parameters):
    """Run the cells of a notebook in this process, as a rule without what only draws; return their module."""
    cells = code_cells(prepared(name, changes, **parameters))
    count = [*cells].index(last) + 1
    return run_cells([cells[each] for each in [*cells][:count] if each not in without])


def execute(name, folder, changes=(), **parameters):
    """Run a notebook in a folder with a tool that readers use; return it with its outputs."""
    nbformat.write(prepared(name, changes, **parameters), folder / f'{name}.ipynb')
    own = shutil.copytree(ROOT / 'tests' / 'settings', folder / '.own')    # of a reader; none may change anything
    settings = {**os.environ, 'IPYTHONDIR': str(own), 'KERAS_HOME': str(own), 'MATPLOTLIBRC': str(own / 'matplotlibrc'),
                'KERAS_BACKEND': 'torch', 'MPLBACKEND': 'Agg', 'TF_CPP_MIN_LOG_LEVEL': '0'}
    done = subprocess.run([sys.executable, '-m', *TOOLS[name].format(name).split()], cwd=folder,
                          env=settings, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return nbformat.read(folder / 'run.ipynb', as_version=4)


def figures(cell):
    """Return what the figures of a cell show: title, rows of images, texts, curves, and how they look."""
    found = [output.data[FIGURE] for output in cell.outputs if FIGURE in output.get('data', {})]
    found = [figure if isinstance(figure, dict) else json.loads(figure) for figure in found]
    return [{**figure, 'rows': {name: np.array(images, float) for name, images in figure['rows'].items()},
             'curves': {name: np.array(curve) for name, curve in figure['curves'].items()}} for figure in found]


def table(cell):
    """Return a cell's table: from what begins a row to its numbers by their headings."""
    heads, _, *rows = [[text.strip() for text in line.split('|')[1:-1]]
                       for line in printed(cell).splitlines() if line.startswith('|')] or [[], []]
    return {row[0]: {head: float(text.replace(',', '')) for head, text in zip(heads[1:], row[1:])} for row in rows}


def idx(pixels, *header):
    """Return pixels as an IDX archive, with a header that need not fit them."""
    return gzip.compress(np.array(header, '>i4').tobytes() + bytes(pixels))


def cut_sample(folder, train_count=300, test_count=100):
    """Write archives with the first images of the sample into a new folder; return its path."""
    folder.mkdir()
    for name, count in ((TRAIN, train_count), (TEST, test_count)):
        (folder / name).write_bytes(idx(read_pixels(SAMPLE / name)[:count], 2051, count, 28, 28))
    return str(folder)


def printed(cell):
    """Return the text of a cell's outputs, tables too, without colours."""
    texts = (output.get('data', {'text/plain': output.get('text', '')}) for output in cell.outputs)
    texts = (data for data in texts if not {'image/png', FIGURE} & data.keys())
    return re.sub(r'\x1b\[[0-9;]*m', '', ''.join(data.get('text/markdown', data.get('text/plain')) for data in texts))


def pictures(cell):
    """Return a cell's pictures: their bytes in base64 and their alternative texts."""
    return [(''.join(output.data['image/png'].split()), output.metadata['image/png']['alt'])
            for output in cell.outputs if 'image/png' in output.get('data', {})]


def assert_clean(notebook, folder=''):
    """Fail on warnings, redrawn lines, paths of a machine, and figures without a text."""
    for name, cell in code_cells(notebook).items():
        errors = [output for output in cell.outputs if 'error' in output.output_type or output.get('name') == 'stderr']
        said = '\n'.join(output.get('text', 'error') for output in errors)
        assert not said or (name == 'setup' and re.fullmatch(f'({LOG_LINE}\n*)+', said)), f'{name}: {said}'
        disturbing = '[^\n -\uffff]|(?:^|[\\s\'"(])/\\w+|warning'    # control characters, paths
        rest = printed(types.SimpleNamespace(outputs=[output for output in cell.outputs if output not in errors]))
        assert re.findall(disturbing, rest.replace(folder, ''), re.IGNORECASE) == [], name
        assert [alt for _, alt in pictures(cell) if len(alt) <= 30] == [], name
