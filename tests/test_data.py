"""Where the digits come from: files in data_dir, the mirror, or the sample; else one sentence says what is wrong."""
import gzip
import hashlib
import itertools
import re
import shutil
import socket
from unittest import mock

import numpy as np
import pytest
from compare import TEST, TRAIN, read_pixels
from helpers import NOBODY, SAMPLE, code_cells, idx, prepared, printed, read_notebook, run_cells

GENUINE = (SAMPLE / TEST).read_bytes()


def contents(folder):
    """Return by their paths what is in the files in a folder, and None for folders."""
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob('*')}


@pytest.fixture
def load(tmp_path, monkeypatch):
    """Return a function that reads the digits as BasicAE does; the sample, which a mirror sends, passes for MNIST."""
    shutil.copytree(SAMPLE, tmp_path / 'MNIST_data' / 'sample')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('HOME', str(tmp_path.parent))    # where programs keep settings
    known = re.findall(r'\b[0-9a-f]{32}\b', code_cells(read_notebook('BasicAE'))['load_images'].source)
    digests = [hashlib.md5((SAMPLE / name).read_bytes()).hexdigest() for name in (TRAIN, TEST)]
    changes = {**dict(zip(known, digests)), 'setdefaulttimeout(10)': 'setdefaulttimeout(2)'}    # a test is in haste

    def load_from(data_dir, mirror=NOBODY):
        cells = code_cells(prepared('BasicAE', {**changes, NOBODY: mirror}, data_dir=data_dir))
        wanted = [cells[name] for name in ('setup', 'parameters', 'injected', 'load_images', 'images')]
        space = run_cells(wanted)
        np.testing.assert_array_equal(space.train_images, read_pixels(SAMPLE / TRAIN))
        np.testing.assert_allclose(space.test_images * 255, read_pixels(SAMPLE / TEST), atol=1e-4)
        return ''.join(map(printed, wanted[3:]))

    yield load_from
    socket.setdefaulttimeout(None)


@pytest.mark.parametrize('layout', ['{0}.gz', '{0}', '{0}.gz {0}', '{0}/{0}', '{0}.gz {0}/{0}'])
def test_files_of_your_own_are_read_and_never_changed(layout, tmp_path, load):
    """As other programs leave them: torchvision keeps both, Kaggle unpacks each into a folder of its name."""
    for place, name in itertools.product(layout.split(), (TRAIN, TEST)):
        path, content = tmp_path / 'own' / place.format(name[:-3]), gzip.decompress((SAMPLE / name).read_bytes())
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress(content, 1) if path.suffix else content)
    before = contents(tmp_path)
    assert load(f'~/{tmp_path.name}/own') == f'4,000 training images and 1,000 test images from {tmp_path / "own"}\n'
    assert contents(tmp_path) == before


@pytest.mark.parametrize('data_dir, missing', [('own', TEST), ('MNIST_data', TEST), ('mistyped', TRAIN), ('', TRAIN)])
def test_a_data_dir_without_both_files_is_named_and_neither_filled_nor_made(data_dir, missing, tmp_path, load):
    for folder in ('own', 'MNIST_data'):
        shutil.copytree(SAMPLE, tmp_path / folder, dirs_exist_ok=True)
        (tmp_path / folder / TEST).rename(tmp_path / folder / 't10k-images-idx3-ubyte (1).gz')
    before = contents(tmp_path)
    with pytest.raises(ValueError, match=(
            rf'^[^\n]*{missing[:-3]} cannot be read [^\n]*No such file or directory[^\n]*: mend it or data_dir\.$')):
        load(data_dir, SAMPLE.as_uri() + '/')
    assert contents(tmp_path) == before


@pytest.mark.parametrize('content', [
    GENUINE[:9000], b'<!DOCTYPE html>', b'', GENUINE[:90000] + bytes([GENUINE[90000] ^ 1]) + GENUINE[90001:],
    idx(80, 2049, 80), idx(2 * 784, 2051, 3, 28, 28), idx(2 * 1024, 2051, 2, 32, 32)],
    ids=['cut short', 'web page', 'empty', 'flipped bit', 'labels', 'fewer images than it says', 'larger images'])
def test_a_damaged_archive_is_named_and_left_as_it_is(content, tmp_path, load):
    folder = shutil.copytree(SAMPLE, tmp_path / 'own')
    (folder / TEST).write_bytes(content)
    with pytest.raises(ValueError, match=rf'^{folder / TEST} cannot be read .+: mend it or data_dir\.$'):
        load(str(folder))
    assert (folder / TEST).read_bytes() == content


def test_mnist_is_fetched_whole_into_the_usual_folder_and_read_there_ever_after(load, tmp_path):
    (tmp_path / 'MNIST_data' / 't10k-labels-idx1-ubyte.gz').write_bytes(b'')    # labels do not matter
    before = contents(tmp_path / 'MNIST_data')
    said = load('MNIST_data', SAMPLE.as_uri() + '/')
    assert re.search(r'(?s)^Downloading data from file:.*\n4,000 .* from MNIST_data\n$', said)
    assert contents(tmp_path / 'MNIST_data') == {**before, **contents(SAMPLE)}
    assert load('MNIST_data') == said.splitlines(keepends=True)[-1]


@pytest.mark.parametrize('kind', ['half', 'web page', 'silent', 'stopped'])
def test_where_a_download_fails_or_is_stopped_nothing_is_kept_but_the_sample_used(kind, load, tmp_path, monkeypatch):
    mirror = shutil.copytree(SAMPLE, tmp_path / 'mirror')
    (mirror / TEST).write_bytes(b'<!DOCTYPE html>') if kind == 'web page' else (mirror / TEST).unlink()
    if kind == 'stopped':    # as by the button of Jupyter
        monkeypatch.setattr('keras.utils.get_file', mock.Mock(side_effect=KeyboardInterrupt))
    before = contents(tmp_path / 'MNIST_data')
    with socket.create_server(('127.0.0.1', 0)) as silent:
        address = f'http://127.0.0.1:{silent.getsockname()[1]}/' if kind == 'silent' else mirror.as_uri() + '/'
        said = load('MNIST_data', address)
    assert re.search(r'(?s)No download \(.+\): on to the sample in MNIST_data/sample\.\n4,000 .*/sample\n$', said)
    assert contents(tmp_path / 'MNIST_data') == before
