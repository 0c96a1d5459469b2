"""Where the digits come from: the files in data_dir, a mirror, or the sample that ships with the project.

Whatever a reader has there: the notebook uses it, goes on with the sample, or says in one sentence what is wrong.
"""
import contextlib
import gzip
import hashlib
import http.server
import os
import re
import shutil
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from compare import TEST, TRAIN, read_pixels
from helpers import FULL, MIRRORS, NOBODY, SAMPLE, cells_up_to, code_cells, displayed, idx, read_notebook, run_sources

PAGE = b'<!DOCTYPE html><title>Welcome to our hotel</title><p>Please log in.' + b' ' * 20000
GENUINE = (SAMPLE / TEST).read_bytes()


def digests(folder):
    """Return by their paths the SHA-256 of all files in a folder, and False for all else that is there."""
    return {str(path.relative_to(folder)): path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest()
            for path in folder.rglob('*')}


@pytest.fixture(scope='module')
def setup():
    """Return what BasicAE's first cell defines."""
    space = run_sources([code_cells(read_notebook('BasicAE'))['setup'].source])
    assert 1 <= socket.getdefaulttimeout() <= 10    # a silent mirror is not waited for
    yield space
    socket.setdefaulttimeout(None)


@pytest.fixture
def load(setup, tmp_path, monkeypatch):
    """Return a function that reads the digits as BasicAE does, in a folder with nothing but the sample.

    No mirror answers, unless others are named; these send the sample, which then takes the place of MNIST.
    """
    shutil.copytree(SAMPLE, tmp_path / 'MNIST_data' / 'sample')
    monkeypatch.chdir(tmp_path)
    socket.setdefaulttimeout(0.5)    # a test should not take longer than needed

    def load(data_dir, mirrors=(NOBODY, NOBODY), sample_is_mnist=False):
        space, cells = {**setup, 'data_dir': str(data_dir)}, code_cells(read_notebook('BasicAE'))
        source = cells['load_images'].source
        for before, after in zip(MIRRORS, mirrors):
            assert before in source
            source = source.replace(before, after)
        for name in (TRAIN, TEST) if sample_is_mnist or mirrors[1] != NOBODY else ():
            digest = hashlib.sha256(gzip.decompress((SAMPLE / name).read_bytes())).hexdigest()
            source = re.sub(f"'{name[:-3]}': '[^']*'", f"'{name[:-3]}': '{digest}'", source)
        exec(source, space)
        exec(cells['images'].source, space)
        return space

    return load


@pytest.fixture
def folder(tmp_path):
    """Return a reader's folder with the digits of the sample."""
    return shutil.copytree(SAMPLE, tmp_path / 'digits')


def unpack(path):
    """Put what is in an archive beside it."""
    path.with_suffix('').write_bytes(gzip.decompress(path.read_bytes()))


def recompress(path):
    """Pack an archive anew, as another program would."""
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()), compresslevel=1))


USED = {    # how the files of the sample lie in a reader's folder
    'packed': lambda path: None,
    'packed by another program': recompress,
    'unpacked': lambda path: [unpack(path), path.unlink()],
    'unpacked beside packed, as torchvision leaves them': unpack,
}


@pytest.mark.parametrize('kind', USED)
def test_files_of_your_own_are_used_known_by_content_and_never_changed(kind, folder, load, capsys):
    for name in (TRAIN, TEST):
        USED[kind](folder / name)
    before = digests(folder)
    space = load(folder, sample_is_mnist=True)
    assert capsys.readouterr().out == f'4,000 training images and 1,000 test images from {folder}\n'
    np.testing.assert_array_equal(space['train_images'], read_pixels(SAMPLE / TRAIN))
    np.testing.assert_allclose(space['test_images'] * 255, read_pixels(SAMPLE / TEST), atol=1e-4)
    assert (list(space['is_mnist'].values()), digests(folder)) == ([True, True], before)


def rename(folder, before, after):
    """Give the training archive, or the test archive, another name."""
    for name in (TRAIN, TEST):
        (folder / name).rename(folder / name.replace(before, after))


NOT_ENOUGH = {    # what a reader's folder holds in place of the two files
    'only training images': lambda folder: (folder / TEST).unlink(),
    'only test images': lambda folder: (folder / TRAIN).unlink(),
    'dots in the names': lambda folder: rename(folder, '-idx', '.idx'),
    'downloaded twice': lambda folder: rename(folder, '.gz', ' (1).gz'),
    'other images of this kind': lambda folder: rename(folder, 't', 'emnist-letters-t'),
    'photos': lambda folder: [(folder / TEST).unlink(), (folder / TRAIN).rename(folder / 'holiday.jpg')],
    'nothing, as its name is mistyped': shutil.rmtree,
}


@pytest.mark.parametrize('kind', NOT_ENOUGH)
def test_a_folder_without_both_files_is_named_and_not_filled(kind, folder, load, capsys):
    NOT_ENOUGH[kind](folder)
    before = digests(folder.parent)
    sentence = (rf"^data_dir is '{folder}', which (holds [^\n]*|is no folder): take a folder with [^\n]*"
                r'train-images-idx3-ubyte[^\n]*, then run all cells\.$')
    with pytest.raises(FileNotFoundError, match=sentence):
        load(folder, [serve(), serve()])
    assert (capsys.readouterr().out, digests(folder.parent)) == ('', before)


def test_the_default_folder_with_one_archive_is_not_filled_either(tmp_path, load):
    shutil.copy(SAMPLE / TRAIN, tmp_path / 'MNIST_data')
    with pytest.raises(FileNotFoundError, match=f'^data_dir is .*, which holds {TRAIN}:'):
        load('MNIST_data', [serve(), serve()])


FILLED = {    # folders into which MNIST is downloaded
    'the default, missing': lambda tmp_path: 'MNIST_data',
    'empty': lambda tmp_path: (tmp_path / 'own').mkdir() or 'own',
    'labels alone': lambda tmp_path: [(tmp_path / 'own').mkdir(), (
        tmp_path / 'own' / 't10k-labels-idx1-ubyte.gz').write_bytes(b'')] and 'own',
}


@pytest.mark.parametrize('kind', FILLED)
def test_both_files_are_downloaded(kind, load, tmp_path, capsys):
    data_dir = FILLED[kind](tmp_path)
    space = load(data_dir, [serve(), serve()])
    assert 'sample' not in capsys.readouterr().out
    assert all((tmp_path / data_dir / name).read_bytes() == (SAMPLE / name).read_bytes() for name in (TRAIN, TEST))
    assert (len(space['train_images']), len(space['test_images'])) == (4000, 1000)


@pytest.mark.parametrize('kind', FILLED)
def test_without_files_and_network_the_sample_is_used(kind, load, tmp_path, capsys):
    """Both parts of it: its digits are training images of MNIST, which no other training may have seen."""
    data_dir = FILLED[kind](tmp_path)
    before = digests(tmp_path)
    assert not any(load(data_dir)['is_mnist'].values())
    *_, reason, last = capsys.readouterr().out.splitlines()
    said = rf'No MNIST in {data_dir} and no download \(.+\): on to the sample in MNIST_data/sample\.'
    assert re.fullmatch(said, reason)
    assert last == '4,000 training images and 1,000 test images from MNIST_data/sample'
    assert digests(tmp_path) == before


def test_without_files_network_and_sample_one_sentence_says_what_to_do(load, tmp_path):
    """So it is when one notebook was downloaded on its own and is started without a network."""
    shutil.rmtree(tmp_path / 'MNIST_data')
    with pytest.raises(ValueError, match=r'^train-.* in MNIST_data/sample cannot be .*connect to the internet, .*\.$'):
        load('MNIST_data')


DAMAGED = {    # what lies in the folder under the name of the test archive, and what the reader is told of it
    'cut short': (GENUINE[:len(GENUINE) // 2], 'Compressed file ended'),
    'flipped bit': (GENUINE[:90000] + bytes([GENUINE[90000] ^ 1]) + GENUINE[90001:], 'Error -3|CRC check failed'),
    'labels': (idx(80, 2049, 80), r'header is \[2049, 80'),
    'fewer images than its header says': (idx(2 * 784, 2051, 3, 28, 28), r'2051, 3, .* 1568 pixels'),
    'part of an image': (idx(785, 2051, 1, 28, 28), 'cannot reshape array of size 785'),
    'no image': (idx(0, 2051, 0, 28, 28), r'2051, 0, .* 0 pixels|offset'),
    'larger images': (idx(2 * 1024, 2051, 2, 32, 32), r'2051, 2, 32, 32\], and 2048 pixels'),
    'a few bytes': (gzip.compress(b'MNIST'), 'buffer is smaller'),
    'web page': (PAGE, 'Not a gzipped file'),
}


@pytest.mark.parametrize('fault', DAMAGED)
def test_a_damaged_archive_is_named_and_left_as_it_is(fault, folder, load):
    content, reason = DAMAGED[fault]
    (folder / TEST).write_bytes(content)
    before = digests(folder)
    with pytest.raises(ValueError, match=rf'^{TEST} in {folder} cannot be read as images of 28 x 28 pixels '
                       rf'\([^\n]*({reason})[^\n]*\): replace it or move it away, [^\n]*then run all cells\.$'):
        load(folder)
    assert digests(folder) == before


@pytest.mark.parametrize(('files', 'title'), [
    ('images of clothes', 'Training loss. NOT COMPARABLE with the original: other data, not MNIST'),
    ('MNIST', 'Training loss, compared with the original')])
def test_only_mnist_is_compared_with_the_original(files, title, tmp_path):
    """Though a collection has as many images as MNIST; all else is as in the original."""
    if files == 'MNIST' and not FULL:
        pytest.skip('the environment variable MNIST_DATA does not name the folder of the archives')
    data = FULL if files == 'MNIST' else tmp_path
    for name, count in ((TRAIN, 60_000), (TEST, 10_000)) if files != 'MNIST' else ():
        header, pixels = np.array([2051, count, 28, 28], '>i4'), np.resize(read_pixels(SAMPLE / name), (count, 784))
        (data / name[:-3]).write_bytes(header.tobytes() + pixels.tobytes())
    cells_up_to('EasyDAE', 'curve', data_dir=str(data), epochs=1)
    assert any(text.startswith(title) for text in displayed())


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
    'sends one archive alone': lambda content: send(content) if content == GENUINE else (404, {}, b''),
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
def empty(tmp_path):
    """Return an empty folder."""
    (tmp_path / 'own').mkdir()
    return tmp_path / 'own'


@pytest.mark.parametrize('manner', UNFIT)
def test_an_unfit_mirror_is_left_for_the_next_and_nothing_of_it_is_kept(manner, load, empty, capsys):
    unfit = serve(UNFIT[manner]) if UNFIT[manner] else NOBODY
    load(empty, [unfit, unfit])
    assert 'on to the sample in' in capsys.readouterr().out
    assert not any(empty.iterdir())
    fit = serve(lambda content: (200, {}, content))    # a length need not be sent
    load(empty, [unfit, fit])
    assert capsys.readouterr().out == (f'downloading MNIST from {unfit}\ndownloading MNIST from {fit}\n'
                                       f'4,000 training images and 1,000 test images from {empty}\n')
    assert digests(empty) == digests(SAMPLE)


def test_a_full_disk_leaves_nothing_half_written(load, empty, capsys):
    resource = pytest.importorskip('resource')    # only Unix limits the size of a file
    address, limits = serve(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        load(empty, [address, address])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert 'File too large): on to the sample in' in capsys.readouterr().out
    assert not any(empty.iterdir())


def test_three_at_once_in_an_empty_folder(load, empty):
    mirror = serve(lambda content: time.sleep(0.3) or send(content))    # all have asked before one has an answer
    with ThreadPoolExecutor(3) as pool:
        loaded = [*pool.map(lambda _: load(empty, [mirror, mirror]), range(3))]
    assert [len(space['train_images']) for space in loaded] == [4000] * 3
    assert digests(empty) == digests(SAMPLE)


def test_a_download_that_you_interrupt_leaves_nothing(load, empty):
    mirror = serve(lambda content: os.kill(os.getpid(), signal.SIGINT) or time.sleep(0.4) or send(content))
    with pytest.raises(KeyboardInterrupt):
        load(empty, [mirror, mirror])
    assert not any(empty.iterdir())
