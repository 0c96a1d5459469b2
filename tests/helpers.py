"""What the tests share: cells run in this process or in a kernel, and what they printed and drew."""
import gzip
import json
import os
import re
import types
from decimal import Decimal
from pathlib import Path
from unittest import mock

import nbformat
import numpy as np
import pytest
from compare import DRAWING, TEST, TRAIN, read_pixels
from IPython.core.displaypub import CapturingDisplayPublisher
from IPython.core.interactiveshell import InteractiveShell
from nbclient import NotebookClient
from run_notebooks import code_digest
from traitlets.config import Config

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = ('BasicAE', 'EasyDAE', 'ConvDAE')
SAMPLE = ROOT / 'MNIST_data' / 'sample'
FULL = Path(os.environ['MNIST_DATA']).resolve() if os.environ.get('MNIST_DATA') else None
NOBODY = 'http://127.0.0.1:9/'    # in place of a mirror: the discard port, where nothing answers
MIRRORS = ('https://storage.googleapis.com/cvdf-datasets/mnist/', 'https://ossci-datasets.s3.amazonaws.com/mnist/')
# What the article sets, so that a change of it in a notebook is no fault.
ARTICLE = {'BasicAE': {'hidden_units': 64, 'learning_rate': 0.001, 'original_learning_rate': 0.01},
           'EasyDAE': {'hidden_units': 32, 'learning_rate': 0.001, 'noise_factor': 0.5},
           'ConvDAE': {'learning_rate': 0.001, 'noise_factor': 0.5}}
# Run when a kernel starts: beside its picture, each figure is stored as the numbers in it.
DATA = 'application/x-figure+json'
STARTUP = f"""
from IPython.core.formatters import JSONFormatter


class Numbers(JSONFormatter):
    def __call__(self, figure):
        if not hasattr(figure, 'get_suptitle'):
            return None
        found, name = {{'title': figure.get_suptitle() or figure.axes[0].get_title(), 'rows': {{}}, 'curves': {{}}}}, ''
        for axes in figure.axes:
            found['curves'] |= {{line.get_label(): [float(value) for value in line.get_ydata()] for line in axes.lines}}
            name = axes.get_ylabel() or name
            for image in axes.images:
                found['rows'].setdefault(name, []).append(image.get_array().tolist())
                found['look'] = [*image.get_clim(), image.get_cmap().name, figure.get_facecolor()]
        return found


formatter = get_ipython().display_formatter
formatter.formatters[{DATA!r}] = Numbers(parent=formatter, format_type={DATA!r})
"""
NUMBER = re.compile(r'(?<![\w.])\d+(?:\.\d+)?(?:e-?\d+)?(?!\w|\.\d)')
NOT_PROSE = re.compile(r'```.*?```|`[^`]*`|\]\([^)]*\)|https?://\S+|\b201[67]\b', re.DOTALL)    # code, links, years


def read_notebook(name):
    """Return a notebook as it lies in the tree."""
    return nbformat.read(ROOT / f'{name}.ipynb', as_version=4)


def code_cells(notebook):
    """Return the code cells by their ids."""
    return {cell.id: cell for cell in notebook.cells if cell.cell_type == 'code'}


def prepared(name, changes=(), before='', **parameters):
    """Return a notebook with parameters set as papermill does, and without mirrors, as there is no network.

    changes: from a text in the cells to another. before: source of a cell in front of all others.
    """
    notebook = read_notebook(name)
    cells = code_cells(notebook)
    known = {}
    exec(cells['parameters'].source, known)
    assert parameters.keys() <= known.keys()
    for old, new in {**dict.fromkeys(MIRRORS, NOBODY), **dict(changes)}.items():
        assert any(old in cell.source for cell in cells.values()), f'no cell has {old!r}'
        for cell in cells.values():
            cell.source = cell.source.replace(old, new)
    lines = '\n'.join(f'{parameter} = {value!r}' for parameter, value in parameters.items())
    injected = nbformat.v4.new_code_cell(lines, id='injected')
    notebook.cells.insert(notebook.cells.index(cells['parameters']) + 1, injected)
    notebook.cells[:0] = [nbformat.v4.new_code_cell(before, id='before')] if before else []
    return notebook


class Shell(InteractiveShell):
    """IPython without a kernel, so that TensorFlow is imported once; what is displayed goes nowhere."""

    def enable_gui(self, gui=None):
        """Figures need no window."""

    def showtraceback(self, *arguments, **options):
        """Print nothing: the error is raised."""


def cells_up_to(name, last, changes=(), **parameters):
    """Run the cells of a notebook in this process, but for those that only draw; return their variables."""
    sources = {cell_id: cell.source for cell_id, cell in code_cells(prepared(name, changes, **parameters)).items()}
    ids = [cell_id for cell_id in sources if cell_id not in DRAWING]
    return run_sources([sources[cell_id] for cell_id in ids[:ids.index(last) + 1]])


def run_sources(sources, **variables):
    """Run sources of cells in this process; return their variables."""
    module = types.ModuleType('notebook')
    module.__dict__.update(variables)
    Shell.clear_instance()
    with mock.patch.dict(os.environ):    # a kernel that is started later sees nothing of it
        shell = Shell.instance(user_module=module, config=Config(HistoryManager={'enabled': False}))
        shell.display_pub = CapturingDisplayPublisher(parent=shell)
        for source in sources:
            shell.run_cell(source).raise_error()
    return module.__dict__


def displayed():
    """Return the alternative texts of the figures that the cells run last in this process have drawn."""
    return [' '.join(output['metadata']['image/png']['alt'].split()) for output in Shell.instance().display_pub.outputs
            if 'image/png' in output['metadata']]


def kernel_environment(folder, **variables):
    """Return the variables of the environment of a kernel that also stores figures as numbers."""
    startup = folder / '.ipython' / 'profile_default' / 'startup'
    startup.mkdir(parents=True, exist_ok=True)
    (startup / 'figures.py').write_text(STARTUP)
    return {**os.environ, 'IPYTHONDIR': str(folder / '.ipython'), **variables}


def run_in_kernel(notebook, folder, allow_errors=False, **variables):
    """Run a notebook in a kernel of its own, in a folder; return it with its outputs."""
    client = NotebookClient(notebook, timeout=600, allow_errors=allow_errors,
                            resources={'metadata': {'path': str(folder)}})
    return client.execute(env=kernel_environment(folder, **variables))


def execute(name, folder, changes=(), before='', **parameters):
    """Run a notebook in a kernel, in a folder, with parameters set; return it with its outputs."""
    return run_in_kernel(prepared(name, changes, before, **parameters), folder)


def figures(notebook):
    """Return what the figures show, by their titles: rows of images and curves by their names.

    look: the values drawn as black and white, the map of colours, and the colour around.
    """
    found = [output.data[DATA] for cell in code_cells(notebook).values() for output in cell.outputs
             if DATA in output.get('data', {})]
    return {each['title']: {**each, 'rows': {name: np.array(images, float) for name, images in each['rows'].items()}}
            for each in (json.loads(each) if isinstance(each, str) else each for each in found)}


def idx(pixels, *header):
    """Return pixels as an IDX archive, with a header that need not fit them."""
    return gzip.compress(np.array(header, '>i4').tobytes() + bytes(pixels))


def cut_sample(folder, train_count, test_count):
    """Write archives with the first images of the sample into a folder; return the folder."""
    folder.mkdir(exist_ok=True)
    for name, count in ((TRAIN, train_count), (TEST, test_count)):
        (folder / name).write_bytes(idx(read_pixels(SAMPLE / name)[:count], 2051, count, 28, 28))
    return folder


def stored_run(name, older=pytest.skip):
    """Return a notebook whose outputs are of today's cells; else skip: one test says that they are older."""
    notebook = read_notebook(name)
    if notebook.metadata.get('executed_code_sha256') != code_digest(notebook):
        older(f'the outputs of {name} are older than its cells: run "make refresh"')
    return notebook


def printed(cell):
    """Return the text of a cell's outputs, without colours."""
    texts = [output.get('text', '') + output.get('data', {}).get('text/plain', '') for output in cell.outputs
             if 'image/png' not in output.get('data', {})]
    return re.sub(r'\x1b\[[0-9;]*m', '', ''.join(texts))


def pictures(cell):
    """Return a cell's pictures: their bytes in base64 and their alternative texts."""
    return [(''.join(output.data['image/png'].split()), output.metadata['image/png']['alt'])
            for output in cell.outputs if 'image/png' in output.get('data', {})]


def assert_clean(notebook, folder=''):
    """Warnings, redrawn lines and paths of another machine disturb; a figure without text is lost."""
    for cell in code_cells(notebook).values():
        assert {'error', 'stderr'}.isdisjoint(output.get('name', output.output_type) for output in cell.outputs)
        disturbing = '[^\n -\uffff]|(?:^|[\\s\'"(])/\\w+|warning'    # control characters, paths
        assert re.findall(disturbing, printed(cell).replace(folder, ''), re.IGNORECASE) == [], cell.id
        assert [alt for _, alt in pictures(cell) if len(alt) <= 40] == [], cell.id


def all_of(notebook):
    """Return in one text the code of a notebook, what it printed, and the alternative texts."""
    return '\n'.join(text for cell in code_cells(notebook).values()
                     for text in (cell.source, printed(cell), *(alt for _, alt in pictures(cell))))


def numbers(text):
    """Return the numbers in a text, without separators of thousands; 28x28 is two numbers."""
    text = re.sub(r'(?<=\d)[,_](?=\d{3}(?!\d))', '', text)
    return [Decimal(number) for number in NUMBER.findall(re.sub(r'(?<=\d)x(?=\d)', ' x ', text))]


def not_produced(markdown, *sources):
    """Return the numbers in a text that are in none of the sources, nor are one of theirs rounded."""
    produced = {number for source in sources for number in numbers(source)}
    return [str(number) for number in numbers(NOT_PROSE.sub(' ', markdown)) if not any(
        abs(number - each) <= Decimal((0, (5,), number.as_tuple().exponent - 1)) for each in produced)]
