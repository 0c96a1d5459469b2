"""Where the digits come from: the files in data_dir, a mirror, or the sample; else one sentence says what is wrong."""
import contextlib
import gzip
import hashlib
import http.server
import re
import shutil
import socket
import threading
import time

import numpy as np
import pytest
from compare import TEST, TRAIN, read_pixels
from helpers import NOBODY, SAMPLE, cells_up_to, code_cells, displayed, idx, read_notebook

GENUINE = (SAMPLE / TEST).read_bytes()


def contents(folder):
    """Return by their paths what is in the files in a folder, and None for folders."""
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob('*')}


@pytest.fixture
def load(tmp_path, monkeypatch):
    """Return a function that reads the digits as BasicAE does; the sample, which mirrors send, passes for MNIST."""
    shutil.copytree(SAMPLE, tmp_path / 'MNIST_data' / 'sample')
    monkeypatch.chdir(tmp_path)
    known = re.findall(r'\b[0-9a-f]{64}\b', code_cells(read_notebook('BasicAE'))['load_images'].source)
    digests = [hashlib.sha256(gzip.decompress((SAMPLE / name).read_bytes())).hexdigest() for name in (TRAIN, TEST)]
    changes = {**dict(zip(known, digests)), 'setdefaulttimeout(10)': 'setdefaulttimeout(2)'}    # a test is in haste
    yield lambda data_dir, *mirrors: cells_up_to(
        'BasicAE', 'images', {**changes, str(NOBODY): str([*mirrors] or NOBODY)}, data_dir=data_dir)
    socket.setdefaulttimeout(None)


@pytest.mark.parametrize(('unpacked', 'packed'), [(False, True), (True, False), (True, True)])
def test_files_of_your_own_are_used_known_by_content_and_never_changed(unpacked, packed, tmp_path, load, capsys):
    """Packed by another program, unpacked, or both, as torchvision leaves them."""
    folder = shutil.copytree(SAMPLE, tmp_path / 'own')
    for path in (folder / TRAIN, folder / TEST):
        content = gzip.decompress(path.read_bytes())
        path.write_bytes(gzip.compress(content, 1)) if packed else path.unlink()
        path.with_suffix('').write_bytes(content) if unpacked else None
    before, space = contents(folder), load(str(folder))
    assert capsys.readouterr().out.endswith(f'\n4,000 training images and 1,000 test images from {folder}\n')
    np.testing.assert_array_equal(space['train_images'], read_pixels(SAMPLE / TRAIN))
    np.testing.assert_allclose(space['test_images'] * 255, read_pixels(SAMPLE / TEST), atol=1e-4)
    assert (list(space['is_mnist'].values()), contents(folder)) == ([True, True], before)


@pytest.mark.parametrize(('data_dir', 'other'), [
    ('own', 't10k-images.idx3-ubyte.gz'), ('own', 't10k-images-idx3-ubyte (1).gz'), ('own', 'emnist-images-ubyte.gz'),
    ('own', 'holiday.jpg'), ('MNIST_data', 't10k-labels-idx1-ubyte.gz')])
def test_a_folder_without_both_files_is_named_and_not_filled(data_dir, other, tmp_path, load):
    folder = shutil.copytree(SAMPLE, tmp_path / data_dir, dirs_exist_ok=True)
    (folder / TEST).rename(folder / other)
    before = contents(tmp_path)
    with pytest.raises(FileNotFoundError, match=rf"^data_dir is '{data_dir}', which holds [^\n]*: take a folder with "
                       r'[^\n]*train-images-idx3-ubyte[^\n]*, then run all cells\.$'):
        load(data_dir, serve(), serve())
    assert contents(tmp_path) == before


@pytest.mark.parametrize('value', ['mistyped', '', None, ['a', 'b']])
def test_a_data_dir_that_is_no_folder_is_named_and_not_made(value, load, tmp_path):
    before = contents(tmp_path)
    with pytest.raises(FileNotFoundError, match=r'^data_dir is .*, which is no folder: .*, then run all cells\.$'):
        load(value, serve(), serve())
    assert contents(tmp_path) == before


def test_without_files_and_network_the_sample_is_used(load, tmp_path, capsys):
    """Both parts of it: its digits are training images of MNIST, which no other training may have seen."""
    load('MNIST_data')
    assert re.search(r'\nNo MNIST in MNIST_data and no download \(.+\): on to the sample in MNIST_data/sample\.\n'
                     '4,000 training images and 1,000 test images from MNIST_data/sample\n$', capsys.readouterr().out)
    assert [path.name for path in (tmp_path / 'MNIST_data').iterdir()] == ['sample']


@pytest.mark.parametrize(('content', 'reason'), [
    (GENUINE[:len(GENUINE) // 2], 'Compressed file ended'), (b'<!DOCTYPE html>', 'Not a gzipped file'),
    (GENUINE[:90000] + bytes([GENUINE[90000] ^ 1]) + GENUINE[90001:], 'Error -3|CRC check failed'),
    (idx(80, 2049, 80), r'header is \[2049, 80'), (idx(2 * 784, 2051, 3, 28, 28), r'2051, 3, .* 1568 pixels'),
    (idx(2 * 1024, 2051, 2, 32, 32), r'2051, 2, 32, 32\], and 2048 pixels')],
    ids=['cut short', 'web page', 'flipped bit', 'labels', 'fewer images than its header says', 'larger images'])
def test_a_damaged_archive_is_named_and_left_as_it_is(content, reason, tmp_path, load):
    folder = shutil.copytree(SAMPLE, tmp_path / 'own')
    (folder / TEST).write_bytes(content)
    with pytest.raises(ValueError, match=rf'^{TEST} in {folder} cannot be read as images of 28 x 28 pixels '
                       rf'\([^\n]*({reason})[^\n]*\): replace it or move it away, [^\n]*then run all cells\.$'):
        load(str(folder))
    assert (folder / TEST).read_bytes() == content


def test_only_mnist_is_compared_with_the_original(tmp_path):
    """Though a collection has as many images as MNIST, and all else is as in the original."""
    for name, count in ((TRAIN, 60_000), (TEST, 10_000)):
        header, pixels = np.array([2051, count, 28, 28], '>i4'), np.resize(read_pixels(SAMPLE / name), (count, 784))
        (tmp_path / name[:-3]).write_bytes(header.tobytes() + pixels.tobytes())
    cells_up_to('EasyDAE', 'curve', data_dir=str(tmp_path), epochs=1)
    title = 'Training loss. NOT COMPARABLE with the original: other data, not MNIST'
    assert any(text.startswith(title) for text in displayed())


def serve(answer=lambda content: content):
    """Start a mirror of the sample that sends what answer makes of each file, cut short or not; return its address."""
    class Handler(http.server.BaseHTTPRequestHandler):
        """Answers to requests, in silence."""

        log_message = log_request = lambda *arguments: None

        def do_GET(self):
            body = answer(content := (SAMPLE / self.path.rsplit('/', 1)[-1]).read_bytes())
            with contextlib.suppress(ConnectionError):
                self.send_response(200 if body else 404)
                self.send_header('Content-Length', len(content if content.startswith(body) else body))
                self.end_headers()
                self.wfile.write(body)

    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f'http://127.0.0.1:{server.server_port}/'


@pytest.mark.parametrize('answer', [
    lambda content: time.sleep(5) or content, lambda content: b'<!DOCTYPE html>',
    lambda content: content[:len(content) // 2], lambda content: content if content == GENUINE else b''],
    ids=['hangs', 'sends a page', 'stops in the middle', 'sends one archive alone'])
def test_an_unfit_mirror_is_left_for_the_next_and_nothing_of_it_is_kept(answer, load, tmp_path, capsys):
    (tmp_path / 'MNIST_data' / 't10k-labels-idx1-ubyte.gz').write_bytes(b'')    # labels do not matter
    unfit, fit, before = serve(answer), serve(), contents(tmp_path / 'MNIST_data')
    load('MNIST_data', unfit, fit)
    assert capsys.readouterr().out.endswith(f'\ndownloading MNIST from {unfit}\ndownloading MNIST from {fit}\n'
                                            '4,000 training images and 1,000 test images from MNIST_data\n')
    assert contents(tmp_path / 'MNIST_data') == {**before, **contents(SAMPLE)}
