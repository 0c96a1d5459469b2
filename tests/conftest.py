"""What the tests share: run a notebook in a kernel of its own, and bring back what it computed."""
import gzip
import os
import textwrap
from pathlib import Path

import nbformat
import numpy as np
import papermill.parameterize
import pytest
from nbclient import NotebookClient
from traitlets.config import Config

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = ('BasicAE', 'EasyDAE', 'ConvDAE')
ARCHIVES = {'train': 'train-images-idx3-ubyte.gz', 'test': 't10k-images-idx3-ubyte.gz'}
SAMPLE = ROOT / 'MNIST_data' / 'sample'
FULL = Path(os.environ['MNIST_DATA']).resolve() if os.environ.get('MNIST_DATA') else None
DATA = {'sample': SAMPLE, 'full': FULL}

# Shortened runs: every cell is executed, few epochs are trained. The parameters that are not set to make
# it short are set to something else than in the notebook, so that a number written into a cell would show.
PARAMETERS = {
    ('BasicAE', 'sample'): {'epochs': 2, 'sizes': [2, 37], 'size_epochs': 1, 'hidden_units': 37},
    ('EasyDAE', 'sample'): {'epochs': 2, 'noise_factor': 0.3},
    ('ConvDAE', 'sample'): {'epochs': 2, 'dense_epochs': 1, 'batch_size': 100},
    ('BasicAE', 'full'): {'epochs': 2, 'sizes': [2, 64], 'size_epochs': 1},
    ('EasyDAE', 'full'): {'epochs': 2},
    ('ConvDAE', 'full'): {'epochs': 1, 'dense_epochs': 2},
}

# Put behind the cell that defines show(): keeps what each figure of images really draws.
KEEP_FIGURES = """
drawn = []


def show(figure, description, show=show):
    images = [axes for axes in figure.axes if axes.images]
    drawn.append({
        'rows': [axes.get_ylabel() for axes in images if axes.get_ylabel()],
        'images': [np.array(axes.images[0].get_array()) for axes in images],
        'looks': {(axes.images[0].get_clim(), axes.images[0].get_cmap().name) for axes in images},
    })
    show(figure, description)
"""


def read_notebook(name):
    """Return a notebook as it lies in the tree."""
    return nbformat.read(ROOT / f'{name}.ipynb', as_version=4)


def code_cell(notebook, cell_id):
    """Return the code cell of that id."""
    (cell,) = (cell for cell in notebook.cells if cell.id == cell_id)
    return cell


def read_images(path):
    """Read an IDX archive without the notebooks' help: uint8, shape (count, height, width)."""
    content = gzip.decompress(path.read_bytes())
    shape = np.frombuffer(content, '>i4', count=3, offset=4)
    return np.frombuffer(content, np.uint8, offset=16).reshape(shape)


def stream_text(cells, name='stdout'):
    """Return all that the cells printed."""
    outputs = (output for cell in cells if cell.cell_type == 'code' for output in cell.outputs)
    return ''.join(output.text for output in outputs if output.output_type == 'stream' and output.name == name)


class Client(NotebookClient):
    """Runs a notebook and notes in its metadata each text with which a line is redrawn."""

    def process_message(self, message, cell, cell_index):
        """Handle a message from the kernel as usual."""
        if message['msg_type'] == 'update_display_data':
            self.nb.metadata.setdefault('redraws', []).append(message['content']['data']['text/plain'])
        return super().process_message(message, cell, cell_index)


def execute(notebook, folder, parameters=None, keep=None, after=None):
    """Run a notebook in a folder, in a new kernel; return it and what was kept.

    parameters: injected as papermill does it. after: id of the last cell to run (default: all of them).
    keep: code run at the end, in which `kept` is a dictionary to fill with arrays.
    """
    notebook.metadata['papermill'] = {}    # papermill expects what it adds when it reads a file itself
    for cell in notebook.cells:
        cell.metadata.setdefault('tags', [])
    notebook = papermill.parameterize.parameterize_notebook(notebook, parameters or {})
    if after:
        last = [cell.id for cell in notebook.cells].index(after)
        notebook.cells = notebook.cells[:last + 1]
    result = folder / 'kept.npz'
    if keep:
        code = f'kept = {{}}\n{textwrap.dedent(keep)}\nnp.savez({str(result)!r}, **kept)'
        notebook.cells.append(nbformat.v4.new_code_cell(code))
    Client(notebook, timeout=None, coalesce_streams=True, record_timing=False,
           resources={'metadata': {'path': str(folder)}},
           config=Config(KernelManager={'transport_encryption': 'auto'})).execute()
    if not keep:
        return notebook, {}
    del notebook.cells[-1]
    kept = dict(np.load(result))
    result.unlink()
    return notebook, kept


KEEP = """
if os.path.exists('/proc/self/status'):
    kept['peak kilobytes'] = int(open('/proc/self/status').read().split('VmHWM:')[1].split()[0])
kept['losses'] = history.history['loss']
(figure,) = [figure for figure in drawn if 'reconstructed' in figure['rows']]
columns = len(figure['images']) // len(figure['rows'])
kept['looks'] = np.array([str(look) for look in figure['looks']])
for row, name in enumerate(figure['rows']):
    images = figure['images'][row * columns:(row + 1) * columns]
    kept[f'row {name.split()[0]}'] = np.stack(images)
fed = kept['row noisy'] if 'row noisy' in kept else kept['row original']
kept['reconstruction of what is drawn'] = tf.sigmoid(model(fed.reshape(-1, *inputs.shape[1:])))
if 'add_noise' in globals():
    grey = np.full((500, 784), 0.5, 'float32')
    kept['grey'], kept['grey again'] = add_noise(grey, (3, 4)), add_noise(grey, (3, 4))
    batches = [*train_batches.take(3), *train_batches.take(3)]
    kept['batch noisy'] = np.stack([np.reshape(noisy, (batch_size, 784)) for noisy, clean in batches])
    kept['batch clean'] = np.stack([np.reshape(clean, (batch_size, 784)) for noisy, clean in batches])
    kept['results'] = np.array(list(results.values()))
    kept['noisy images'], kept['reconstructed'] = noisy_images, reconstructed
    kept['test images'] = test_images
if 'compared_rows' in globals():
    (figure,) = [figure for figure in drawn if 'convolutional' in figure['rows']]
    kept['compared names'] = np.array(figure['rows'])
    kept['compared'] = np.stack(figure['images']).reshape(4, -1, 28, 28)
    kept['dense reconstruction of what is drawn'] = tf.sigmoid(
        dense_model(kept['compared'][1].reshape(-1, 28, 28, 1)))
if 'painted' in globals():
    (figure,) = [figure for figure in drawn if 'its picture' in figure['rows']]
    kept['painted'] = np.stack(figure['images']).reshape(2, -1, 28, 28)
if 'inside' in globals():
    (figure,) = [figure for figure in drawn if 'encoded\\n4 x 4' in figure['rows']]
    kept['inside names'] = np.array(figure['rows'])
    kept['inside conv1'] = np.stack(figure['images'][:8])
    kept['conv1'] = tf.nn.relu(keras.Model(inputs, model.get_layer('conv1').output)(noisy_images[shown[:1]])[0])
if 'size_psnr' in globals():
    kept['size_psnr'], kept['pca_psnr'] = size_psnr, pca_psnr
"""


def short_run(name, data, folder):
    """Run all cells of a notebook, shortened, and keep what the tests look at."""
    notebook = read_notebook(name)
    shown_at = notebook.cells.index(code_cell(notebook, 'plot_rows'))
    notebook.cells.insert(shown_at + 1, nbformat.v4.new_code_cell(KEEP_FIGURES))
    parameters = {'data_dir': str(DATA[data]), **PARAMETERS[name, data]}
    return execute(notebook, folder, parameters, KEEP)


@pytest.fixture(scope='session')
def runs(tmp_path_factory):
    """Return a function (name, data) -> a shortened run, executed when it is first asked for."""
    done = {}

    def run(name, data):
        if DATA[data] is None:
            pytest.skip('the environment variable MNIST_DATA does not name the folder of the MNIST archives')
        if (name, data) not in done:
            done[name, data] = short_run(name, data, tmp_path_factory.mktemp(f'{name}-{data}'))
        return done[name, data]

    return run
