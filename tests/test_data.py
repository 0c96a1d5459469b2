"""Where the digits come from: the archives in data_dir, a mirror, or the sample that ships with the project.

Whatever a reader has there: the notebook uses it, goes on with the sample, or says in one sentence what is wrong.
"""
import contextlib
import gzip
import hashlib
import http.server
import os
import re
import shutil
import socket
import struct
import sys
import threading
import time
import types
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from conftest import ARCHIVES, FULL, NOBODY, NOTEBOOKS, ROOT, SAMPLE, Cells, read_images

TRAIN, TEST = ARCHIVES['train'], ARCHIVES['test']
MIRRORS = ('https://storage.googleapis.com/cvdf-datasets/mnist/', 'https://ossci-datasets.s3.amazonaws.com/mnist/')
PAGE = b'<!DOCTYPE html><title>Welcome to our hotel</title><p>Please log in.' + b' ' * 20000


def digests(folder):
    """Return the SHA-256 of all files in a folder, by their names."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir() if path.is_file()}


def refuse(*arguments, **options):
    """Stand in for keras.utils.get_file() where there is no network."""
    raise ConnectionRefusedError('Connection refused')


def load(folder, get_file=refuse, mirrors=MIRRORS):
    """Read the digits as BasicAE does, without TensorFlow; return its variables.

    With other mirrors than MNIST's, the archives whose SHA-256 is demanded are those of the sample.
    """
    cells = Cells('BasicAE', data_dir=str(folder))
    cells.import_packages()
    cells.space['keras'] = types.SimpleNamespace(utils=types.SimpleNamespace(get_file=get_file))
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


def idx(magic, count, height, width, pixels):
    """Return an IDX archive with a header that may not fit the number of its pixels."""
    return gzip.compress(struct.pack('>4i', magic, count, height, width) + bytes(pixels))


GENUINE = (SAMPLE / TEST).read_bytes()
DAMAGED = {    # what lies in the folder under the name of the test archive, and what the reader is told of it
    'cut short': (GENUINE[:len(GENUINE) // 2], 'Compressed file ended'),
    'empty': (b'', 'buffer is smaller'),
    'flipped bit': (GENUINE[:90000] + bytes([GENUINE[90000] ^ 1]) + GENUINE[90001:], 'Error -3|CRC check failed'),
    'labels': (gzip.compress(struct.pack('>2i', 2049, 80) + bytes(80)), r'header is \[2049, 80'),
    'other magic number': (idx(1234, 2, 28, 28, 2 * 784), r'\[1234, 2, 28, 28\], and 1568 pixels'),
    'fewer images than its header says': (idx(2051, 3, 28, 28, 2 * 784), r'2051, 3, .* 1568 pixels'),
    'more images than its header says': (idx(2051, 1, 28, 28, 2 * 784), r'2051, 1, .* 1568 pixels'),
    'part of an image': (idx(2051, 1, 28, 28, 785), 'cannot reshape array of size 785'),
    'no image': (idx(2051, 0, 28, 28, 0), r'2051, 0, .* 0 pixels'),
    'fewer than none': (idx(2051, -1, 28, 28, 784), r'2051, -1, .* 784 pixels'),
    'larger images': (idx(2051, 2, 32, 32, 2 * 1024), r'2051, 2, 32, 32\], and 2048 pixels'),
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
    if isinstance(content, bytes):
        (folder / TEST).write_bytes(content)
    else:
        content(folder / TEST)
    before = digests(folder)
    sentence = (rf'^{TEST} in {re.escape(str(folder))} is not a whole archive of images of 28 x 28 pixels '
                rf'\([^\n]*({reason})[^\n]*\): replace it or move it away, then run all cells\.$')
    with pytest.raises(ValueError, match=sentence):
        load(folder)
    assert digests(folder) == before
    assert os.path.lexists(folder / TEST)


def test_archives_of_your_own_are_used_and_never_changed(folder, capsys):
    """Such as those of Fashion-MNIST, or MNIST's digits compressed by another program."""
    (folder / TRAIN).write_bytes(gzip.compress(gzip.decompress((folder / TRAIN).read_bytes()), compresslevel=1))
    pixels = np.arange(5 * 784) % 256
    (folder / TEST).write_bytes(gzip.compress(struct.pack('>4i', 2051, 5, 28, 28) + pixels.astype('uint8').tobytes()))
    before = digests(folder)
    assert before.items().isdisjoint(digests(SAMPLE).items())
    space = load(folder)
    np.testing.assert_array_equal(space['train_images'], read_images(SAMPLE / TRAIN).reshape(-1, 784))
    np.testing.assert_allclose(space['test_images'], pixels.reshape(5, 784) / 255, atol=1e-7)
    assert capsys.readouterr().out == f'4,000 training images and 5 test images from {folder}\n'
    assert digests(folder) == before


FOLDERS = {    # what is done to a folder of digits so that the sample has to be used
    'missing': shutil.rmtree,
    'empty': lambda folder: [(folder / TRAIN).unlink(), (folder / TEST).unlink()],
    'only training images': lambda folder: (folder / TEST).unlink(),
    'only test images': lambda folder: (folder / TRAIN).unlink(),
    'a file': lambda folder: [shutil.rmtree(folder), folder.write_text('not a folder')],
    'read-only': None,    # /proc: nobody can write there, not even root
}


@pytest.mark.parametrize('kind', FOLDERS)
def test_without_archives_and_network_the_sample_is_used(kind, folder, capsys):
    """Both parts of it: its digits are training images of MNIST, which no other training may have seen."""
    if FOLDERS[kind]:
        FOLDERS[kind](folder)
    before = digests(folder) if folder.is_dir() else None
    place = folder if FOLDERS[kind] else '/proc'
    load(place)
    *_, reason, last = capsys.readouterr().out.splitlines()
    assert re.fullmatch(rf'No MNIST in {place} and no download \(.+\): using the sample in MNIST_data/sample\.', reason)
    assert last == '4,000 training images and 1,000 test images from MNIST_data/sample'
    assert before is None or digests(folder) == before
    assert kind != 'a file' or folder.read_text() == 'not a folder'


def test_without_archives_network_and_sample_one_sentence_says_what_to_do(tmp_path, monkeypatch):
    """So it is when the notebook is started in another folder, without a network."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=(
            rf'^No MNIST in MNIST_data, no download \(Connection refused\), no sample in {tmp_path}/MNIST_data/sample: '
            r'connect to the internet, or set data_dir to the folder of your archives\.$')):
        load('MNIST_data')


def test_sample_is_what_its_readme_says():
    train, test = (read_images(SAMPLE / name) for name in (TRAIN, TEST))
    assert (train.shape, test.shape) == ((4000, 28, 28), (1000, 28, 28))
    digits = {image.tobytes() for image in [*train, *test]}
    assert len(digits) == 5000
    assert not FULL or digits <= {image.tobytes() for image in read_images(FULL / TRAIN)}


def send(handler, content, length=True):
    """Answer with a content."""
    handler.send_response(200)
    if length:
        handler.send_header('Content-Length', str(len(content)))
    handler.end_headers()
    handler.wfile.write(content)


def redirect(handler, content):
    """Answer with the address of a page."""
    handler.send_response(302)
    handler.send_header('Location', '/login')
    handler.end_headers()


def send_half(handler, content):
    """Break off in the middle."""
    handler.send_response(200)
    handler.send_header('Content-Length', str(len(content)))
    handler.end_headers()
    handler.wfile.write(content[:len(content) // 2])


UNFIT = {    # what a mirror does with a request for an archive of that content
    'hangs': lambda handler, content: time.sleep(3),
    'refuses': None,
    'redirects to a page': redirect,
    'answers with a page': lambda handler, content: send(handler, PAGE),
    'stops in the middle': send_half,
    'sends other images': lambda handler, content: send(handler, idx(2051, 300, 28, 28, 300 * 784)),
}


@pytest.fixture
def serve():
    """Return a function that starts a mirror of the sample that answers in some way; it returns the address."""
    servers = []

    def start(answer=send):
        class Handler(http.server.BaseHTTPRequestHandler):
            """Answers to requests."""

            def do_GET(self):
                name = self.path.rsplit('/', 1)[-1]
                with contextlib.suppress(ConnectionError):
                    answer(self, (SAMPLE / name).read_bytes()) if name in ARCHIVES.values() else send(self, PAGE)

            def log_message(self, *arguments):
                """Say nothing."""

        servers.append(http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler))
        threading.Thread(target=servers[-1].serve_forever, args=(0.05,), daemon=True).start()
        return f'http://127.0.0.1:{servers[-1].server_port}/'

    yield start
    for server in servers:
        server.shutdown()


@pytest.fixture
def get_file(monkeypatch):
    """Return the function of Keras that downloads, after the first cell of a notebook has set the time-out."""
    monkeypatch.chdir(ROOT)
    space = Cells('BasicAE').run('setup')
    assert 1 <= socket.getdefaulttimeout() <= 10
    socket.setdefaulttimeout(0.5)    # a test should not take longer than needed
    return space['keras'].utils.get_file


@pytest.mark.parametrize('manner', UNFIT)
def test_an_unfit_mirror_is_left_for_the_next_and_nothing_of_it_is_kept(manner, serve, get_file, tmp_path, capsys):
    data, unfit = tmp_path / 'data', serve(UNFIT[manner]) if UNFIT[manner] else NOBODY
    load(data, get_file, [unfit, unfit])
    assert 'using the sample in' in capsys.readouterr().out
    assert not any(data.iterdir())
    fit = serve()
    load(data, get_file, [unfit, fit])
    assert capsys.readouterr().out == (f'downloading MNIST from {unfit}\ndownloading MNIST from {fit}\n'
                                       f'4,000 training images and 1,000 test images from {data}\n')
    assert digests(data) == digests(SAMPLE)
    load(data)    # from now on no network is needed
    assert len(list(data.iterdir())) == 2


def test_mirror_that_sends_no_length_is_as_good(serve, get_file, tmp_path):
    load(tmp_path / 'data', get_file, [serve(lambda handler, content: send(handler, content, length=False)), NOBODY])
    assert digests(tmp_path / 'data') == digests(SAMPLE)


@pytest.mark.skipif(sys.platform != 'linux', reason='limits the size of a file as only Unix can')
def test_a_full_disk_leaves_nothing_half_written(serve, get_file, tmp_path, capsys):
    import resource
    address, limits = serve(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        load(tmp_path / 'data', get_file, [address, address])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert 'File too large): using the sample in' in capsys.readouterr().out
    assert not any((tmp_path / 'data').iterdir())


def test_three_at_once_in_an_empty_folder(serve, get_file, tmp_path):
    data, all_have_asked = tmp_path / 'data', threading.Barrier(3)
    socket.setdefaulttimeout(10)

    def wait_and_send(handler, content):
        with contextlib.suppress(threading.BrokenBarrierError):
            all_have_asked.wait(5)
        send(handler, content)

    mirror = serve(wait_and_send)
    with ThreadPoolExecutor(3) as pool:
        loaded = [*pool.map(lambda _: load(data, get_file, [mirror, NOBODY]), range(3))]
    assert [len(space['train_images']) for space in loaded] == [4000] * 3
    assert digests(data) == digests(SAMPLE)
    assert len(list(data.iterdir())) == 2


@pytest.mark.skipif(not FULL, reason='the environment variable MNIST_DATA does not name the folder of the archives')
def test_downloads_are_verified_against_mnist_itself():
    space = load(FULL)
    assert space['archives'] == {name: digests(FULL)[name] for name in ARCHIVES.values()}
    assert (len(space['train_images']), len(space['test_images'])) == (60000, 10000)


def test_mirrors_are_safe_and_nothing_is_unpickled_or_run_from_the_data_folder():
    sources = [Cells(name).sources for name in NOTEBOOKS]
    assert len({cells['load_images'] for cells in sources}) == 1    # what is tried above holds for all
    for cells in sources:
        code = '\n'.join(cells.values())
        assert not re.search(r'pickle|np\.load\(|exec\(|eval\(|import_module|sys\.path|safe_mode', code)
        assert re.findall(r"'(\w+://[^']*)'", code) == list(MIRRORS)
    assert all(mirror.startswith('https://') for mirror in MIRRORS)
