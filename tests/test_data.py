"""Where the digits come from: the files in data_dir, a mirror, or the sample; else one sentence says what is wrong."""
import gzip
import hashlib
import re
import shutil
import socket

import numpy as np
import pytest
from compare import TEST, TRAIN, read_pixels
from helpers import NOBODY, SAMPLE, cells_up_to, code_cells, idx, read_notebook

GENUINE = (SAMPLE / TEST).read_bytes()
FIT = f'{SAMPLE.as_uri()}/'    # a mirror may be any address that Python can open


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
def test_files_of_your_own_are_used_known_by_content_and_never_changed(unpacked, packed, tmp_path, load):
    """Packed by another program, unpacked, or both, as torchvision leaves them."""
    folder = shutil.copytree(SAMPLE, tmp_path / 'own')
    for path in (folder / TRAIN, folder / TEST):
        content = gzip.decompress(path.read_bytes())
        path.write_bytes(gzip.compress(content, 1)) if packed else path.unlink()
        path.with_suffix('').write_bytes(content) if unpacked else None
    before, space = contents(folder), load(str(folder))
    np.testing.assert_array_equal(space['train_images'], read_pixels(SAMPLE / TRAIN))
    np.testing.assert_allclose(space['test_images'] * 255, read_pixels(SAMPLE / TEST), atol=1e-4)
    assert (list(space['is_mnist'].values()), contents(folder)) == ([True, True], before)


@pytest.mark.parametrize('data_dir', ['own', 'MNIST_data', 'mistyped', '', None, ['a', 'b']])
def test_a_data_dir_without_both_files_is_named_and_neither_filled_nor_made(data_dir, tmp_path, load):
    for folder in ('own', 'MNIST_data'):
        shutil.copytree(SAMPLE, tmp_path / folder, dirs_exist_ok=True)
        (tmp_path / folder / TEST).rename(tmp_path / folder / 't10k-images-idx3-ubyte (1).gz')
    before, holds = contents(tmp_path), r'holds t10k-images-idx3-ubyte \(1\)\.gz|is no folder'
    with pytest.raises(FileNotFoundError, match=rf'^data_dir is .*, which ({holds}).*, then run all cells\.$'):
        load(data_dir, FIT)
    assert contents(tmp_path) == before


def test_without_files_and_network_the_sample_is_used(load, capsys):
    load('MNIST_data')
    assert re.search(r'No MNIST in .* and no download \(.+\): on to the sample .*\n4,000 ', capsys.readouterr().out)


@pytest.mark.parametrize(('content', 'reason'), [
    (GENUINE[:len(GENUINE) // 2], 'Compressed file ended'), (b'<!DOCTYPE html>', 'Not a gzipped file'),
    (GENUINE[:90000] + bytes([GENUINE[90000] ^ 1]) + GENUINE[90001:], 'Error -3|CRC check failed'),
    (idx(80, 2049, 80), r'header is \[2049, 80'), (idx(2 * 784, 2051, 3, 28, 28), r'2051, 3, .* 1568 pixels'),
    (idx(2 * 1024, 2051, 2, 32, 32), r'2051, 2, 32, 32\], and 2048 pixels')],
    ids=['cut short', 'web page', 'flipped bit', 'labels', 'fewer images than its header says', 'larger images'])
def test_a_damaged_archive_is_named_and_left_as_it_is(content, reason, tmp_path, load):
    folder = shutil.copytree(SAMPLE, tmp_path / 'own')
    (folder / TEST).write_bytes(content)
    with pytest.raises(ValueError, match=rf'^{TEST} in {folder} cannot be read .*({reason}).*, then run all cells\.$'):
        load(str(folder))
    assert (folder / TEST).read_bytes() == content


@pytest.mark.parametrize('files', [
    {}, {TEST: GENUINE}, {TEST: GENUINE, TRAIN: GENUINE[:9000]}, {TEST: GENUINE, TRAIN: b'<!DOCTYPE html>'}])
def test_what_is_no_mirror_of_both_is_left_for_the_next_and_nothing_of_it_is_kept(files, load, tmp_path):
    (tmp_path / 'MNIST_data' / 't10k-labels-idx1-ubyte.gz').write_bytes(b'')    # labels do not matter
    (mirror := tmp_path / 'mirror').mkdir()
    for name, content in files.items():
        (mirror / name).write_bytes(content)
    before = contents(tmp_path / 'MNIST_data')
    load('MNIST_data', mirror.as_uri() + '/', FIT)
    assert contents(tmp_path / 'MNIST_data') == {**before, **contents(SAMPLE)}


def test_a_mirror_that_hangs_is_left_for_the_next(load, tmp_path):
    with socket.create_server(('127.0.0.1', 0)) as silent:
        load('MNIST_data', f'http://127.0.0.1:{silent.getsockname()[1]}/', FIT)
    assert (tmp_path / 'MNIST_data' / TRAIN).exists()
