"""Where the digits come from: the archives in data_dir, a mirror, or the sample that ships with the project."""
import gzip
import hashlib
import http.server
import shutil
import threading
from functools import partial

import pytest
from conftest import ARCHIVES, FULL, NOTEBOOKS, SAMPLE, execute, read_images, read_notebook, stream_text
from nbclient.exceptions import CellExecutionError

MIRRORS = ('https://storage.googleapis.com/cvdf-datasets/mnist/',
           'https://ossci-datasets.s3.amazonaws.com/mnist/')
NOBODY = 'http://127.0.0.1:9/'    # the discard port: nothing answers there


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    """Serves a folder and keeps quiet about it."""

    def log_message(self, *arguments):
        """Say nothing."""


@pytest.fixture
def serve():
    """Return a function that serves a folder over HTTP on the loopback and returns its address."""
    servers = []

    def start(folder):
        handler = partial(QuietHandler, directory=str(folder))
        servers.append(http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return f'http://127.0.0.1:{servers[-1].server_port}/'

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def load(folder, mirrors, parameters=None, name='BasicAE'):
    """Run a notebook until the images are loaded, with other mirrors; return what it printed."""
    notebook = read_notebook(name)
    for cell in notebook.cells:
        if cell.id == 'download':
            for mirror, other in zip(MIRRORS, mirrors):
                assert cell.source.count(mirror) == 1
                cell.source = cell.source.replace(mirror, other)
    notebook, _ = execute(notebook, folder, parameters, after='load_images')
    assert stream_text(notebook.cells, 'stderr') == ''
    return stream_text(notebook.cells)


def digests(folder):
    """Return name and SHA-256 of all files in a folder."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir() if path.is_file()}


def test_sample_is_what_its_readme_says():
    train, test = (read_images(SAMPLE / ARCHIVES[part]) for part in ('train', 'test'))
    assert train.shape == (4000, 28, 28)
    assert test.shape == (1000, 28, 28)
    assert len({image.tobytes() for image in [*train, *test]}) == 5000
    assert sum(path.stat().st_size for path in SAMPLE.iterdir()) < 1e6
    if FULL:
        genuine = {image.tobytes() for image in read_images(FULL / ARCHIVES['train'])}
        assert all(image.tobytes() in genuine for image in [*train, *test])


@pytest.mark.parametrize('name', NOTEBOOKS)
def test_goes_on_with_the_sample_when_no_mirror_answers(name, tmp_path):
    shutil.copytree(SAMPLE, tmp_path / 'MNIST_data' / 'sample')
    printed = load(tmp_path, [NOBODY, NOBODY], name=name)
    (line,) = (line for line in printed.splitlines() if 'no download' in line)
    assert 'Connection refused' in line
    assert 'MNIST_data/sample' in line
    assert '4,000 images' in printed
    assert sorted(path.name for path in tmp_path.rglob('*.gz')) == sorted(ARCHIVES.values())    # the sample's


def test_says_in_one_sentence_that_there_are_no_digits(tmp_path):
    with pytest.raises(CellExecutionError) as error:
        load(tmp_path, [NOBODY, NOBODY])
    assert error.value.ename == 'FileNotFoundError'
    assert error.value.evalue == ('There are no digits to train on: connect to the internet, or set data_dir to a '
                                  'folder that holds the MNIST archives.')


def test_archives_in_the_folder_are_used_and_left_as_they_are(tmp_path):
    folder = tmp_path / 'digits of mine'
    shutil.copytree(SAMPLE, folder)
    before = digests(folder)
    printed = load(tmp_path, [NOBODY, NOBODY], {'data_dir': str(folder)})
    assert f'images from {folder}' in printed
    assert 'no download' not in printed
    assert digests(folder) == before


def test_what_is_not_mnist_is_not_kept(serve, tmp_path):
    impostors = tmp_path / 'impostors'
    shutil.copytree(SAMPLE, impostors)    # archives of the right name with other images in them
    shutil.copytree(SAMPLE, tmp_path / 'MNIST_data' / 'sample')
    printed = load(tmp_path, [serve(impostors), serve(impostors)])
    assert 'sent something else than MNIST' in printed
    assert '4,000 images' in printed
    assert [path.name for path in (tmp_path / 'MNIST_data').iterdir()] == ['sample']


@pytest.mark.skipif(not FULL, reason='the environment variable MNIST_DATA does not name the folder of the archives')
@pytest.mark.parametrize('first', ['nobody', 'impostor'])
def test_second_mirror_is_asked_when_the_first_fails(serve, tmp_path, first):
    printed = load(tmp_path, [NOBODY if first == 'nobody' else serve(SAMPLE), serve(FULL)])
    assert '60,000 images' in printed
    expected = {name: digest for name, digest in digests(FULL).items() if name in ARCHIVES.values()}
    assert digests(tmp_path / 'MNIST_data') == expected
    again = load(tmp_path, [NOBODY, NOBODY])    # from now on no network is needed
    assert '60,000 images' in again


def test_an_archive_without_images_is_named(tmp_path):
    folder = tmp_path / 'digits'
    shutil.copytree(SAMPLE, folder)
    (folder / ARCHIVES['test']).write_bytes(gzip.compress(bytes([0, 0, 8, 1]) + bytes(96)))    # labels
    before = digests(folder)
    with pytest.raises(CellExecutionError) as error:
        load(tmp_path, [NOBODY, NOBODY], {'data_dir': str(folder)})
    assert error.value.evalue == f'{ARCHIVES["test"]} in {folder} does not hold images: move it away, then run all.'
    assert digests(folder) == before
