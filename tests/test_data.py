"""Where the digits come from: the archives in data_dir, a mirror, or the sample that ships with the project.

Whatever a reader has there: the notebook uses it, goes on with the sample, or says in one sentence what is wrong.
"""
import contextlib
import gzip
import hashlib
import http.server
import re
import shutil
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from unittest import mock

import numpy as np
import pytest
from compare import TEST, TRAIN, read_pixels
from conftest import FULL, NOBODY, ROOT, SAMPLE, Cells, idx

MIRRORS = ('https://storage.googleapis.com/cvdf-datasets/mnist/', 'https://ossci-datasets.s3.amazonaws.com/mnist/')
PAGE = b'<!DOCTYPE html><title>Welcome to our hotel</title><p>Please log in.' + b' ' * 20000
NO_NETWORK = mock.Mock(**{'utils.get_file.side_effect': ConnectionRefusedError('Connection refused')})


def digests(folder):
    """Return by their paths the SHA-256 of all files in a folder, and False for all else that is there."""
    return {str(path.relative_to(folder)): path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest()
            for path in folder.rglob('*')}


def load(folder, keras=NO_NETWORK, mirrors=MIRRORS):
    """Read the digits as BasicAE does, without TensorFlow; return its variables.

    With other mirrors than MNIST's, the archives whose SHA-256 is demanded are those of the sample.
    """
    cells = Cells('BasicAE', data_dir=str(folder))
    cells.space['keras'] = keras
    if mirrors != MIRRORS:
        for before, after in zip(MIRRORS, mirrors):
            cells.change(before, after)
        for name, digest in digests(SAMPLE).items():
            cells.change(re.search(f"'{name}': '(.*)'", cells.sources['load_images'])[1], digest)
    return cells.run('parameters', 'load_images', 'images')


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Return a folder with the digits of the sample, and work where MNIST_data/sample is."""
    monkeypatch.chdir(ROOT)
    return shutil.copytree(SAMPLE, tmp_path / 'digits')


GENUINE = (SAMPLE / TEST).read_bytes()
DAMAGED = {    # what lies in the folder under the name of the test archive, and what the reader is told of it
    'cut short': (GENUINE[:len(GENUINE) // 2], 'Compressed file ended'),
    'empty': (b'', 'buffer is smaller'),
    'flipped bit': (GENUINE[:90000] + bytes([GENUINE[90000] ^ 1]) + GENUINE[90001:], 'Error -3|CRC check failed'),
    'labels': (idx(80, 2049, 80), r'header is \[2049, 80'),
    'other magic number': (idx(2 * 784, 1234, 2, 28, 28), r'\[1234, 2, 28, 28\], and 1568 pixels'),
    'fewer images than its header says': (idx(2 * 784, 2051, 3, 28, 28), r'2051, 3, .* 1568 pixels'),
    'more images than its header says': (idx(2 * 784, 2051, 1, 28, 28), r'2051, 1, .* 1568 pixels'),
    'part of an image': (idx(785, 2051, 1, 28, 28), 'cannot reshape array of size 785'),
    'no image': (idx(0, 2051, 0, 28, 28), r'2051, 0, .* 0 pixels'),
    'fewer than none': (idx(784, 2051, -1, 28, 28), r'2051, -1, .* 784 pixels'),
    'larger images': (idx(2 * 1024, 2051, 2, 32, 32), r'2051, 2, 32, 32\], and 2048 pixels'),
    'a few bytes': (gzip.compress(b'MNIST'), 'buffer is smaller'),
    'web page': (PAGE, 'Not a gzipped file'),
    'something behind it': (GENUINE + b'something', 'Not a gzipped file'),
    'folder': (lambda path: path.mkdir(), 'Is a directory'),
    'dangling link': (lambda path: path.symlink_to(path.parent / 'unmounted'), 'No such file'),
}


@pytest.mark.parametrize('fault', DAMAGED)
def test_a_damaged_archive_is_named_and_left_as_it_is(fault, folder):
    content, reason = DAMAGED[fault]
    (folder / TEST).unlink()
    content(folder / TEST) if callable(content) else (folder / TEST).write_bytes(content)
    before = digests(folder)
    sentence = (rf'^{TEST} in {re.escape(str(folder))} is not a whole archive of images of 28 x 28 pixels '
                rf'\([^\n]*({reason})[^\n]*\): replace it or move it away, then run all cells\.$')
    with pytest.raises(ValueError, match=sentence):
        load(folder)
    assert digests(folder) == before


def test_archives_of_your_own_are_used_and_never_changed(folder, capsys):
    """Such as those of Fashion-MNIST, or MNIST's digits compressed by another program."""
    (folder / TRAIN).write_bytes(gzip.compress(gzip.decompress((folder / TRAIN).read_bytes()), compresslevel=1))
    pixels = (np.arange(5 * 784) % 256).astype('uint8').reshape(5, 784)
    (folder / TEST).write_bytes(idx(pixels, 2051, 5, 28, 28))
    before = digests(folder)
    assert before.items().isdisjoint(digests(SAMPLE).items())
    space = load(folder)
    np.testing.assert_array_equal(space['train_images'], read_pixels(SAMPLE / TRAIN))
    np.testing.assert_allclose(space['test_images'], pixels / 255, atol=1e-7)
    assert capsys.readouterr().out == f'4,000 training images and 5 test images from {folder}\n'
    assert digests(folder) == before


FOLDERS = {    # what is done to a folder of digits so that the sample has to be used
    'missing': shutil.rmtree,
    'empty': lambda folder: [(folder / TRAIN).unlink(), (folder / TEST).unlink()],
    'only training images': lambda folder: (folder / TEST).unlink(),
    'only test images': lambda folder: (folder / TRAIN).unlink(),
    'a file': lambda folder: [shutil.rmtree(folder), folder.write_text('not a folder')],
    'read-only': lambda folder: None,    # /proc: nobody can write there, not even root
}


@pytest.mark.parametrize('kind', FOLDERS)
def test_without_archives_and_network_the_sample_is_used(kind, folder, capsys):
    """Both parts of it: its digits are training images of MNIST, which no other training may have seen."""
    FOLDERS[kind](folder)
    before, place = digests(folder.parent), '/proc' if kind == 'read-only' else folder
    load(place)
    *_, reason, last = capsys.readouterr().out.splitlines()
    assert re.fullmatch(rf'No MNIST in {place} and no download \(.+\): using the sample in MNIST_data/sample\.', reason)
    assert last == '4,000 training images and 1,000 test images from MNIST_data/sample'
    assert digests(folder.parent) == {folder.name: False} | before    # a missing folder is made


def test_without_archives_network_and_sample_one_sentence_says_what_to_do(tmp_path, monkeypatch):
    """So it is when the notebook is started in another folder, without a network."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=(
            rf'^No MNIST in MNIST_data, no download \(Connection refused\), no sample in {tmp_path}/MNIST_data/sample: '
            r'connect to the internet, or set data_dir to the folder of your archives\.$')):
        load('MNIST_data')


def test_sample_is_what_its_readme_says():
    train, test = read_pixels(SAMPLE / TRAIN), read_pixels(SAMPLE / TEST)
    assert (len(train), len(test)) == (4000, 1000)
    digits = {image.tobytes() for image in [*train, *test]}
    assert len(digits) == 5000
    assert not FULL or digits <= {image.tobytes() for image in read_pixels(FULL / TRAIN)}


def send(content):
    """Return the answer of a good mirror: status, headers and body."""
    return 200, {'Content-Length': len(content)}, content


UNFIT = {    # how a mirror answers a request for an archive of that content
    'hangs': lambda content: time.sleep(3) or send(content),
    'refuses': None,
    'redirects to a page': lambda content: (302, {'Location': '/login'}, b''),
    'answers with a page': lambda content: send(PAGE),
    'stops in the middle': lambda content: (200, {'Content-Length': len(content)}, content[:len(content) // 2]),
    'sends other images': lambda content: send(idx(300 * 784, 2051, 300, 28, 28)),
}


def serve(answer=send):
    """Start a mirror of the sample that answers in some way; return its address."""
    class Handler(http.server.BaseHTTPRequestHandler):
        """Answers to requests."""

        def do_GET(self):
            name = self.path.rsplit('/', 1)[-1]
            status, headers, body = answer((SAMPLE / name).read_bytes()) if name in (TRAIN, TEST) else send(PAGE)
            with contextlib.suppress(ConnectionError):
                self.send_response(status)
                for header in headers.items():
                    self.send_header(*header)
                self.end_headers()
                self.wfile.write(body)

        def log_message(self, *arguments):
            """Say nothing."""

    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f'http://127.0.0.1:{server.server_port}/'


@pytest.fixture
def keras(monkeypatch):
    """Return Keras, which downloads, after the first cell of a notebook has set the time-out."""
    monkeypatch.chdir(ROOT)
    space = Cells('BasicAE').run('setup')
    assert 1 <= socket.getdefaulttimeout() <= 10
    socket.setdefaulttimeout(0.5)    # a test should not take longer than needed
    yield space['keras']
    socket.setdefaulttimeout(None)


@pytest.mark.parametrize('manner', UNFIT)
def test_an_unfit_mirror_is_left_for_the_next_and_nothing_of_it_is_kept(manner, keras, tmp_path, capsys):
    data, unfit = tmp_path / 'data', serve(UNFIT[manner]) if UNFIT[manner] else NOBODY
    load(data, keras, [unfit, unfit])
    assert 'using the sample in' in capsys.readouterr().out
    assert not any(data.iterdir())
    fit = serve(lambda content: (200, {}, content))    # a length need not be sent
    load(data, keras, [unfit, fit])
    assert capsys.readouterr().out == (f'downloading MNIST from {unfit}\ndownloading MNIST from {fit}\n'
                                       f'4,000 training images and 1,000 test images from {data}\n')
    assert digests(data) == digests(SAMPLE)
    load(data)    # from now on no network is needed


def test_a_full_disk_leaves_nothing_half_written(keras, tmp_path, capsys):
    resource = pytest.importorskip('resource')    # only Unix limits the size of a file
    address, limits = serve(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        load(tmp_path / 'data', keras, [address, address])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert 'File too large): using the sample in' in capsys.readouterr().out
    assert not any((tmp_path / 'data').iterdir())


def test_three_at_once_in_an_empty_folder(keras, tmp_path):
    mirror = serve(lambda content: time.sleep(0.3) or send(content))    # all have asked before one has an answer
    with ThreadPoolExecutor(3) as pool:
        loaded = [*pool.map(lambda _: load(tmp_path, keras, [mirror, NOBODY]), range(3))]
    assert [len(space['train_images']) for space in loaded] == [4000] * 3
    assert digests(tmp_path) == digests(SAMPLE)


@pytest.mark.skipif(not FULL, reason='the environment variable MNIST_DATA does not name the folder of the archives')
def test_downloads_are_verified_against_mnist_itself():
    space = load(FULL)
    assert space['archives'] == {name: digests(FULL)[name] for name in (TRAIN, TEST)}
    assert (len(space['train_images']), len(space['test_images'])) == (60000, 10000)
