"""What the tests share: cells run in this process (TensorFlow is imported once), and short runs in kernels."""
import functools
import gzip
import itertools
import linecache
import os
import pickle
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from unittest import mock

import nbformat
import numpy as np
import pytest
from compare import DRAWING, TEST, TRAIN, read_pixels

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = ('BasicAE', 'EasyDAE', 'ConvDAE')
ARCHIVES = {'train': TRAIN, 'test': TEST}
SAMPLE = ROOT / 'MNIST_data' / 'sample'
FULL = Path(os.environ['MNIST_DATA']).resolve() if os.environ.get('MNIST_DATA') else None
NOBODY = 'http://127.0.0.1:9/'    # in place of a mirror: the discard port, where nothing answers

# What the article sets, so that a change of it in a notebook is no fault.
ARTICLE = {'BasicAE': {'hidden_units': 64, 'learning_rate': 0.001, 'original_learning_rate': 0.01},
           'EasyDAE': {'hidden_units': 32, 'learning_rate': 0.001, 'noise_factor': 0.5},
           'ConvDAE': {'learning_rate': 0.001, 'noise_factor': 0.5}}
# Runs in kernels. On the sample every parameter is another than in the notebook, so that a number written into a cell
# would show; on the full data only those are changed that make the run short.
OTHER = {'batch_size': 100, 'learning_rate': 0.002, 'seed': 3, 'shown': [5, 9, 5]}
PARAMETERS = {
    ('BasicAE', 'sample'): {**OTHER, 'epochs': 2, 'hidden_units': 37, 'original_learning_rate': 0.05, 'sizes': [2, 37],
                            'size_epochs': 1},
    ('EasyDAE', 'sample'): {**OTHER, 'epochs': 2, 'hidden_units': 37, 'noise_factor': 0.3},
    ('ConvDAE', 'sample'): {**OTHER, 'epochs': 1, 'noise_factor': 0.3, 'dense_units': [37], 'dense_epochs': 1,
                            'distances': [0, 4], 'noise_factors': [0.6], 'flipped': 0.3},
    ('BasicAE', 'full'): {**ARTICLE['BasicAE'], 'batch_size': 128, 'epochs': 2, 'sizes': [2, 64], 'size_epochs': 1},
    ('EasyDAE', 'full'): {**ARTICLE['EasyDAE'], 'batch_size': 128, 'epochs': 2},
    ('ConvDAE', 'full'): {**ARTICLE['ConvDAE'], 'batch_size': 128, 'epochs': 1, 'dense_units': [32], 'dense_epochs': 1,
                          'distances': [4], 'noise_factors': [0.25]},
}
# Put behind the cell that defines show(): keeps what each figure shows, by its title.
KEEP_FIGURES = """

figures = {}


def show(figure, description, result=False, draw=show):
    kept = figures[figure.get_suptitle() or figure.axes[0].get_title()] = {'rows': {}, 'curves': {}}
    for axes in figure.axes:
        kept['curves'] |= {line.get_label(): list(line.get_ydata()) for line in axes.lines}
        if axes.images:
            name = axes.get_ylabel() or name
            kept['rows'].setdefault(name, []).append(np.array(axes.images[0].get_array()))
            assert (axes.images[0].get_clim(), axes.images[0].get_cmap().name) == ((0, 1), 'Greys_r')
    assert (plt.rcParams['figure.facecolor'], plt.rcParams['font.size']) == ('white', 12)
    draw(figure, description, result)
"""
# Put at the end: keeps what the tests look at. Keras pickles a model as the bytes of its file.
KEEP = """
import pickle
losses = history.history['loss']
status = open('/proc/self/status').read() if os.path.exists('/proc/self/status') else None
names = ['figures', 'losses', 'status', 'model', 'networks', 'noisy_images', 'reconstructed', 'linear', 'narrow',
         'pca_psnr', *PARAMETERS]
with open(os.environ['KEPT'], 'wb') as file:
    pickle.dump({name: globals()[name] for name in names if name in globals()}, file)
"""
RUNNERS = {    # what readers run notebooks with; each stores what a notebook prints in its own way
    'BasicAE': 'papermill --no-progress-bar {}.ipynb run.ipynb',
    'EasyDAE': 'jupyter execute --output=run.ipynb {}.ipynb',
    'ConvDAE': 'nbconvert --to=notebook --execute --output=run.ipynb {}.ipynb',
}
SETTINGS = {    # of the reader's own, none of which may change anything
    'keras.json': '{"backend": "jax", "floatx": "float16", "image_data_format": "channels_first"}',
    'matplotlibrc': 'image.cmap: jet\nfigure.facecolor: black\naxes.grid: True\nfont.size: 3\nfigure.dpi: 30\n',
}


def read_notebook(name):
    """Return a notebook as it lies in the tree."""
    return nbformat.read(ROOT / f'{name}.ipynb', as_version=4)


def code_cells(notebook):
    """Return the code cells by their ids."""
    return {cell.id: cell for cell in notebook.cells if cell.cell_type == 'code'}


def idx(pixels, *header):
    """Return pixels as an IDX archive, with a header that need not fit them."""
    return gzip.compress(np.array(header, '>i4').tobytes() + bytes(pixels))


def cut_sample(folder, train_count, test_count):
    """Write archives with the first images of the sample into a folder; return the folder."""
    for part, count in (('train', train_count), ('test', test_count)):
        pixels = read_pixels(SAMPLE / ARCHIVES[part])[:count]
        (folder / ARCHIVES[part]).write_bytes(idx(pixels, 2051, count, 28, 28))
    return folder


def import_tensorflow():
    """Import TensorFlow and return Keras, whatever the settings of the one who tests; one thread for each worker."""
    with mock.patch.dict(os.environ, KERAS_BACKEND='tensorflow', TF_CPP_MIN_LOG_LEVEL='3'):
        import keras
        import matplotlib as mpl
        import tensorflow as tf
    tf.config.threading.set_intra_op_parallelism_threads(1)    # it cannot be changed later
    mpl.use('agg')
    keras.backend.clear_session()    # also the settings of precision
    return keras


class Cells:
    """The code cells of a notebook, run in this process; `space` holds their variables."""

    numbers = itertools.count()

    def __init__(self, name, **parameters):
        self.sources = {cell_id: cell.source for cell_id, cell in code_cells(read_notebook(name)).items()}
        self.parameters, self.display = parameters, mock.Mock()    # display() needs a kernel
        self.space = {'__name__': '__main__', 'gzip': gzip, 'np': np, 'os': os, 'tempfile': tempfile}
        self.change('%matplotlib inline\n', '')
        self.sources['plot'] += KEEP_FIGURES

    def change(self, before, after):
        """Replace a text in the cells; fail where it is in none."""
        assert any(before in source for source in self.sources.values()), f'no cell has {before!r}'
        self.sources = {cell_id: source.replace(before, after) for cell_id, source in self.sources.items()}

    def execute(self, source, name):
        """Execute a source; its lines are kept for tracebacks and for TensorFlow's autograph."""
        file = f'<{name} {next(self.numbers)}>'
        linecache.cache[file] = len(source), None, source.splitlines(keepends=True), file
        with mock.patch.dict(os.environ):    # a kernel that is started later sees nothing of it
            exec(compile(source, file, 'exec'), self.space)

    def run(self, *cell_ids):
        """Run cells in the given order and return their variables."""
        for cell_id in cell_ids:
            if cell_id == 'setup' and 'keras' not in self.space:
                import_tensorflow()
            self.execute(self.sources[cell_id], cell_id)
            if cell_id == 'setup':
                self.space['display'] = self.space['result_handle'] = self.display
            elif cell_id == 'parameters':
                assert self.parameters.keys() <= self.space.keys()
                self.space |= self.parameters
            elif cell_id == 'faster':
                self.space['milliseconds'] = lambda network, images: 0    # not timed here
        return self.space

    def run_to(self, last):
        """Run all cells up to one, but for those that only draw."""
        ids = list(self.sources)
        return self.run(*(cell_id for cell_id in ids[:ids.index(last) + 1] if cell_id not in DRAWING))

    @property
    def trained(self):
        """The network that the notebook trains: `model`, in ConvDAE `network`."""
        return self.space.get('network', self.space['model'])


class Run(dict):
    """The variables that were kept of a notebook run by a reader's tool, with the executed notebook itself."""

    def __init__(self, name, data, folder):
        """Run a notebook in a folder, without a network and under settings of the reader's own."""
        if data == 'full' and not FULL:
            pytest.skip('the environment variable MNIST_DATA does not name the folder of the MNIST archives')
        self.full, self.folder = data == 'full', folder / 'my notebooks, Übung 数字'
        self.data = FULL if self.full else self.folder / 'MNIST_data' / 'sample'
        shutil.copytree(SAMPLE, self.folder / 'MNIST_data' / 'sample')
        for file, content in SETTINGS.items():
            (folder / file).write_text(content)
        environment = {'KERAS_HOME': str(folder), 'KERAS_BACKEND': 'torch', 'TF_CPP_MIN_LOG_LEVEL': '0',
                       'MATPLOTLIBRC': str(folder / 'matplotlibrc'), 'MPLBACKEND': 'Agg', 'KEPT': str(folder / 'kept')}
        notebook, defaults = read_notebook(name), {}
        cells = code_cells(notebook)
        exec(cells['parameters'].source, defaults)
        changed = PARAMETERS[name, data] | ({'data_dir': str(FULL)} if self.full else {})
        cells['parameters'].source += ''.join(f'\n{parameter} = {value!r}' for parameter, value in changed.items())
        cells['load_images'].source = re.sub("'https://.*?'", repr(NOBODY), cells['load_images'].source)
        cells['plot'].source += KEEP_FIGURES
        notebook.cells.append(nbformat.v4.new_code_cell(KEEP.replace('PARAMETERS', repr([*defaults][1:]))))
        nbformat.write(notebook, self.folder / f'{name}.ipynb')
        run = subprocess.run([sys.executable, '-m', *RUNNERS[name].format(name).split()], cwd=self.folder,
                             env={**os.environ, **environment}, capture_output=True)
        assert run.returncode == 0, run.stderr.decode()
        self.notebook = nbformat.read(self.folder / 'run.ipynb', as_version=4)
        import_tensorflow()
        super().__init__(pickle.loads((folder / 'kept').read_bytes()))

    def printed(self, cell_id):
        """Return what a cell printed."""
        outputs = code_cells(self.notebook)[cell_id].outputs
        return ''.join(output.text for output in outputs if output.output_type == 'stream')

    def rows(self, title):
        """Return the rows of the figure with that in its title: from the name of a row to an array of images."""
        (rows,) = (figure['rows'] for each, figure in self['figures'].items() if title in each)
        return {name: np.array(images) for name, images in rows.items()}

    def images(self, part):
        """Return the training or test images, read from the archive: float, shape (count, 28, 28)."""
        return read_pixels(self.data / ARCHIVES[part]).reshape(-1, 28, 28) / 255


@pytest.fixture(params=NOTEBOOKS)
def name(request):
    """Return the name of a notebook, one after the other."""
    return request.param


@pytest.fixture(scope='session')
def runs(tmp_path_factory):
    """Return a function (name, data) -> a short run of all cells, executed when it is first asked for."""
    return functools.cache(lambda name, data: Run(name, data, tmp_path_factory.mktemp(f'{name}-{data}')))


@pytest.fixture(params=['sample', 'full'])
def run(request, name, runs):
    """Return a short run of a notebook, on the sample and on the full data."""
    return runs(name, request.param)


@pytest.fixture(scope='session')
def tiny(tmp_path_factory):
    """Return a folder with 300 training and 50 test images, for runs of a few seconds."""
    return cut_sample(tmp_path_factory.mktemp('tiny'), 300, 50)
