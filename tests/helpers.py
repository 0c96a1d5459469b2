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
from compare import DRAWING, TEST, TRAIN, read_pixels
from IPython.core.displaypub import CapturingDisplayPublisher
from IPython.core.interactiveshell import InteractiveShell
from nbclient import NotebookClient
from traitlets.config import Config

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = ('BasicAE', 'EasyDAE', 'ConvDAE')
SAMPLE = ROOT / 'MNIST_data' / 'sample'
FULL = Path(os.environ['MNIST_DATA']).resolve() if os.environ.get('MNIST_DATA') else None
NOBODY = ['http://127.0.0.1:9/'] * 2    # in place of the mirrors: the discard port, where nothing answers
# What the article sets, so that a change of it in a notebook is no fault.
ARTICLE = {'BasicAE': {'hidden_units': 64, 'learning_rate': 0.001, 'original_learning_rate': 0.01},
           'EasyDAE': {'hidden_units': 32, 'learning_rate': 0.001, 'noise_factor': 0.5},
           'ConvDAE': {'learning_rate': 0.001, 'noise_factor': 0.5}}
DATA = 'application/x-figure+json'    # beside its picture, each figure in a kernel is stored as the numbers in it
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


def read_notebook(name):
    """Return a notebook as it lies in the tree."""
    return nbformat.read(ROOT / f'{name}.ipynb', as_version=4)


def code_cells(notebook):
    """Return the code cells by their ids."""
    return {cell.id: cell for cell in notebook.cells if cell.cell_type == 'code'}


def prepared(name, changes=(), before='', **parameters):
    """Return a notebook with a cell before, texts changed and parameters set as papermill does, and without mirrors."""
    notebook = read_notebook(name)
    cells = code_cells(notebook)
    cells['load_images'].source = re.sub('(?m)^mirrors = .*', f'mirrors = {NOBODY}', cells['load_images'].source)
    for old, new in dict(changes).items():
        assert any(old in cell.source for cell in cells.values()), f'no cell has {old!r}'
        for cell in cells.values():
            cell.source = cell.source.replace(old, new)
    assert all(f'\n{parameter} = ' in f'\n{cells["parameters"].source}' for parameter in parameters)
    injected = '\n'.join(f'{parameter} = {value!r}' for parameter, value in parameters.items())
    place, new_cell = notebook.cells.index(cells['parameters']) + 1, nbformat.v4.new_code_cell
    notebook.cells.insert(place, new_cell(injected, id='injected'))
    notebook.cells[:0] = [new_cell(before, id='before')] if before else []
    return notebook


class Shell(InteractiveShell):
    """IPython without a kernel, so that TensorFlow is imported once: without windows, and errors are raised."""

    enable_gui = showtraceback = lambda *arguments, **options: None


def cells_up_to(name, last, changes=(), **parameters):
    """Run the cells of a notebook in this process, but for those that only draw; return their variables."""
    cells = [*code_cells(prepared(name, changes, **parameters)).values()]
    count = [cell.id for cell in cells].index(last) + 1
    return run_sources([cell.source for cell in cells[:count] if cell.id not in DRAWING])


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
    startup = folder / '.ipython' / 'profile_default' / 'startup' / 'figures.py'
    startup.parent.mkdir(parents=True, exist_ok=True)
    startup.write_text(STARTUP)
    return {**os.environ, 'IPYTHONDIR': str(folder / '.ipython'), **variables}


def run_in_kernel(notebook, folder):
    """Run a notebook in a kernel of its own, in a folder; return it with its outputs."""
    client = NotebookClient(notebook, timeout=600, resources={'metadata': {'path': str(folder)}})
    return client.execute(env=kernel_environment(folder))


def execute(name, folder, changes=(), before='', **parameters):
    """Run a notebook in a kernel, in a folder, with parameters set; return it with its outputs."""
    return run_in_kernel(prepared(name, changes, before, **parameters), folder)


def figures(notebook):
    """Return what the figures show, by their titles: rows of images and curves by their names, and how they look."""
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


def not_produced(markdown, *sources):
    """Return the numbers in a text that are in none of the sources, nor are one of theirs rounded.

    Left out are code, links and years. Separators of thousands are no part of a number; 28x28 is two numbers.
    """
    prose = re.sub(r'```.*?```|`[^`]*`|\]\([^)]*\)|https?://\S+|\b20(?:08|1[67])\b', ' ', markdown, flags=re.DOTALL)
    written, produced = ([Decimal(number) for number in re.findall(
        r'(?<![\w.])\d+(?:\.\d+)?(?:e-?\d+)?(?!\w|\.\d)',
        re.sub(r'(?<=\d)x(?=\d)', ' x ', re.sub(r'(?<=\d)[,_](?=\d{3}(?!\d))', '', text)))]
        for text in (prose, '\n'.join(sources)))
    return [str(number) for number in written if not any(
        abs(number - each) <= Decimal((0, (5,), number.as_tuple().exponent - 1)) for each in set(produced))]
