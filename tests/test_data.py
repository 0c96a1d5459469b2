"""Where the digits come from: the archives in data_dir, a mirror, or the sample that ships with the project.

CASES.md lists what a reader meets and sees; every test below that is about a case checks its line there.
"""
import gzip
import hashlib
import http.server
import json
import os
import re
import shutil
import signal
import socketserver
import struct
import subprocess
import sys
import threading
import time
from functools import partial

import nbformat
import pytest
from cases import check_case
from conftest import (
    ARCHIVES,
    FULL,
    NOTEBOOKS,
    ROOT,
    SAMPLE,
    code_cell,
    execute,
    read_images,
    read_notebook,
    stream_text,
)

MIRRORS = ('https://storage.googleapis.com/cvdf-datasets/mnist/',
           'https://ossci-datasets.s3.amazonaws.com/mnist/')
NOBODY = 'http://127.0.0.1:9/'    # the discard port: nothing answers there
TRAIN, TEST = ARCHIVES['train'], ARCHIVES['test']
LOADING = ('download', 'folder', 'load_images', 'images')
needs_mnist = pytest.mark.skipif(not FULL, reason='the environment variable MNIST_DATA does not name the archives')
PAGE = b'<!DOCTYPE html><title>Welcome to our hotel</title><p>Please log in.' + b' ' * 20000

# Loads the images once for each folder, in one kernel, and keeps what a reader would see.
ATTEMPTS = """
import contextlib
import io
import json

seen = {}
for case, (data_dir, sample_dir, limit) in json.loads(CASES).items():
    printed, stopped_by = io.StringIO(), None
    if limit:
        import resource
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    try:
        with contextlib.redirect_stdout(printed):
            for source in json.loads(SOURCES):
                exec(source, globals())
    except Exception as problem:
        stopped_by = [type(problem).__name__, str(problem)]
    finally:
        if limit:
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.getrlimit(resource.RLIMIT_FSIZE)[1],) * 2)
    seen[case] = [printed.getvalue(), stopped_by]
print('SEEN ' + json.dumps(seen))
"""


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    """Serves a folder and keeps quiet about it."""

    def log_message(self, *arguments):
        """Say nothing."""


class Handler(http.server.BaseHTTPRequestHandler):
    """A mirror that misbehaves in the way its class attribute says."""

    manner = ''

    def log_message(self, *arguments):
        """Say nothing."""

    def do_GET(self):
        """Answer, or not."""
        archive = (FULL or SAMPLE) / self.path.rsplit('/', 1)[-1]
        if self.manner == 'redirects to a page' and not self.path.endswith('.html'):
            self.send_response(302)
            self.send_header('Location', '/login.html')
            self.end_headers()
            return
        if self.manner == 'hangs':
            time.sleep(30)
            return
        self.send_response(200)
        if self.manner == 'sends no length':
            self.end_headers()
            self.wfile.write(archive.read_bytes())
            return
        if 'page' in self.manner:
            self.end_headers()
            self.wfile.write(PAGE)
            return
        if self.manner == 'sends without end':
            self.end_headers()
            while True:
                self.wfile.write(bytes(2**20))
        self.send_header('Content-Length', str(archive.stat().st_size))
        self.end_headers()
        content = archive.read_bytes()
        if self.manner == 'stops in the middle':
            self.wfile.write(content[:len(content) // 2])
        elif self.manner == 'drips':
            for start in range(0, len(content), 100):
                self.wfile.write(content[start:start + 100])
                self.wfile.flush()
                time.sleep(0.1)


class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    """Answers many at once, and keeps quiet when one hangs up."""

    daemon_threads = True

    def handle_error(self, request, client_address):
        """Say nothing."""


@pytest.fixture
def serve():
    """Return a function that starts a mirror on the loopback, of a folder or of a manner; it returns the address."""
    servers = []

    def start(what):
        handler = type('Misbehaving', (Handler,), {'manner': what}) if isinstance(what, str) else \
            partial(QuietHandler, directory=str(what))
        servers.append(Server(('127.0.0.1', 0), handler))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return f'http://127.0.0.1:{servers[-1].server_port}/'

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def with_mirrors(notebook, mirrors):
    """Have a notebook download from other mirrors."""
    cell = code_cell(notebook, 'download')
    for mirror, other in zip(MIRRORS, mirrors):
        assert cell.source.count(mirror) == 1
        cell.source = cell.source.replace(mirror, other)
    return notebook


def load(folder, mirrors, parameters=None, name='BasicAE'):
    """Run a notebook until the images are loaded, with other mirrors; return what it printed."""
    notebook, _ = execute(with_mirrors(read_notebook(name), mirrors), folder, parameters, after='images')
    assert stream_text(notebook.cells, 'stderr') == ''
    return stream_text(notebook.cells)


def attempts(folder, mirrors, cases):
    """Load the images once for each case, in one kernel; return case -> what was printed, error or None.

    cases: name of the case -> data_dir, sample_dir and the largest file that may be written in bytes (0: any).
    """
    notebook = with_mirrors(read_notebook('BasicAE'), mirrors)
    sources = [code_cell(notebook, cell_id).source for cell_id in LOADING]
    values = {case: [str(value) if number < 2 else value for number, value in enumerate(values)]
              for case, values in cases.items()}
    driver = f'CASES, SOURCES = {json.dumps(values)!r}, {json.dumps(sources)!r}\n{ATTEMPTS}'
    notebook.cells = [code_cell(notebook, 'setup'), nbformat.v4.new_code_cell(driver)]
    notebook, _ = execute(notebook, folder)
    return json.loads(stream_text(notebook.cells).split('SEEN ')[1])


def digests(folder):
    """Return name and SHA-256 of all files in a folder."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir() if path.is_file()}


def idx(magic, count, height, width, pixels):
    """Return an IDX archive with a header that may not fit the number of its pixels."""
    return gzip.compress(struct.pack('>4i', magic, count, height, width) + bytes(pixels))


def flipped(content):
    """Return the content with one bit flipped in the middle."""
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1:]


DAMAGED = {    # what lies in the folder under the name of the test archive, made from the genuine one
    'archive cut short': lambda archive: archive[:len(archive) // 2],
    'archive empty': lambda archive: b'',
    'archive with a flipped bit': flipped,
    'archive of labels': lambda archive: gzip.compress(struct.pack('>2i', 2049, 80) + bytes(80)),
    'archive with another magic number': lambda archive: idx(1234, 2, 28, 28, 2 * 784),
    'archive with fewer images than its header says': lambda archive: idx(2051, 3, 28, 28, 2 * 784),
    'archive with more images than its header says': lambda archive: idx(2051, 1, 28, 28, 2 * 784),
    'archive without any image': lambda archive: idx(2051, 0, 28, 28, 0),
    'archive that says it has fewer than none': lambda archive: idx(2051, -1, 28, 28, 784),
    'archive of larger images': lambda archive: idx(2051, 2, 32, 32, 2 * 1024),
    'archive of a few bytes': lambda archive: gzip.compress(b'MNIST'),
    'web page in place of an archive': lambda archive: PAGE,
    'archive with something behind it': lambda archive: archive + b'something',
}


def test_damaged_archives_are_named_and_left_as_they_are(tmp_path):
    cases = {}
    for number, (case, damage) in enumerate(DAMAGED.items()):
        folder = tmp_path / f'digits {number}'
        shutil.copytree(SAMPLE, folder)
        (folder / TEST).write_bytes(damage((SAMPLE / TEST).read_bytes()))
        cases[case] = folder, SAMPLE, 0
    named_folder, dangling = tmp_path / 'folder', tmp_path / 'dangling'
    for folder in (named_folder, dangling):
        shutil.copytree(SAMPLE, folder)
        (folder / TEST).unlink()
    (named_folder / TEST).mkdir()
    (dangling / TEST).symlink_to(tmp_path / 'unmounted' / TEST)
    cases |= {'folder of the name of an archive': (named_folder, SAMPLE, 0),
              'link to an archive that is gone': (dangling, SAMPLE, 0)}
    before = {case: digests(cases[case][0]) for case in cases if not case.startswith('link')}
    for case, (printed, error) in attempts(tmp_path, [NOBODY, NOBODY], cases).items():
        folder = cases[case][0]
        assert error is not None, f'{case}: loaded'
        assert error[0] == 'ValueError'
        assert error[1].startswith(f'{TEST} in {folder} is not a whole archive of images of 28 x 28 pixels (')
        assert error[1].endswith('): replace it or move it away, then run all.')
        assert 'images from' not in printed
        check_case(case, 'stops; the file stays as it is', error[1], folder)
        if case in before:
            assert digests(folder) == before[case]
    assert (dangling / TEST).is_symlink()
    assert (named_folder / TEST).is_dir()


def test_folders_of_all_kinds(tmp_path):
    folders = {name: tmp_path / name for name in ('missing', 'empty', 'file', 'compressed anew', 'of mine')}
    folders['empty'].mkdir()
    folders['file'].write_text('not a folder')
    for name in ('compressed anew', 'of mine'):
        shutil.copytree(SAMPLE, folders[name])
    anew = folders['compressed anew'] / TRAIN
    anew.write_bytes(gzip.compress(gzip.decompress(anew.read_bytes()), compresslevel=1, mtime=1))
    assert anew.read_bytes() != (SAMPLE / TRAIN).read_bytes()
    cases = {'data_dir missing, no network': (folders['missing'], SAMPLE, 0),
             'data_dir empty, no network': (folders['empty'], SAMPLE, 0),
             'data_dir is a file': (folders['file'], SAMPLE, 0),
             'same pixels compressed anew': (folders['compressed anew'], SAMPLE, 0),
             'archives of your own': (folders['of mine'], SAMPLE, 0),
             'no network and no sample': (folders['missing'], tmp_path / 'no sample', 0)}
    before = {name: digests(folders[name]) for name in ('compressed anew', 'of mine')}
    for case, (printed, error) in attempts(tmp_path, [NOBODY, NOBODY], cases).items():
        folder = cases[case][0]
        if case == 'no network and no sample':
            assert error[0] == 'FileNotFoundError'
            assert str(tmp_path) in error[1]    # where it looked
            check_case(case, 'stops', error[1], tmp_path)
            continue
        assert error is None, f'{case}: {error}'
        if case in ('same pixels compressed anew', 'archives of your own'):
            assert f'images from {folder}\n' in printed
            check_case(case, 'used as they are', 'images from ...', folder)
        else:
            (line,) = (line for line in printed.splitlines() if 'no download' in line)
            assert f'images from {SAMPLE}\n' in printed
            check_case(case, 'goes on with the sample', line, folder)
    assert {name: digests(folders[name]) for name in before} == before
    assert folders['file'].read_text() == 'not a folder'
    assert not any(folders['empty'].iterdir())


def test_sample_is_what_its_readme_says():
    train, test = (read_images(SAMPLE / ARCHIVES[part]) for part in ('train', 'test'))
    assert train.shape == (4000, 28, 28)
    assert test.shape == (1000, 28, 28)
    assert len({image.tobytes() for image in [*train, *test]}) == 5000
    assert sum(path.stat().st_size for path in SAMPLE.iterdir()) < 1e6
    if FULL:
        genuine = {image.tobytes() for image in read_images(FULL / TRAIN)}
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


@needs_mnist
@pytest.mark.parametrize('manner', ['hangs', 'refuses', 'redirects to a page', 'answers with a page', 'drips',
                                    'stops in the middle', 'sends other images', 'sends without end'])
def test_second_mirror_is_asked_when_the_first_fails(serve, tmp_path, manner):
    first = {'refuses': NOBODY}.get(manner) or serve(SAMPLE if manner == 'sends other images' else manner)
    start = time.monotonic()
    printed = load(tmp_path, [first, serve(FULL)])
    assert time.monotonic() - start < 60    # starting the kernel and importing included, for two archives
    assert '60,000 images' in printed
    expected = {name: digest for name, digest in digests(FULL).items() if name in ARCHIVES.values()}
    assert digests(tmp_path / 'MNIST_data') == expected
    assert sorted(path.name for path in (tmp_path / 'MNIST_data').iterdir()) == sorted(ARCHIVES.values())
    check_case(f'first mirror {manner}', 'the second is asked', 'images from ...', tmp_path)


@needs_mnist
def test_mirror_that_sends_no_length_is_as_good(serve, tmp_path):
    printed = load(tmp_path, [serve('sends no length'), NOBODY])
    assert '60,000 images' in printed
    again = load(tmp_path, [NOBODY, NOBODY])    # from now on no network is needed
    assert '60,000 images' in again


def test_what_is_not_mnist_is_not_kept(serve, tmp_path):
    impostors = tmp_path / 'impostors'
    shutil.copytree(SAMPLE, impostors)    # archives of the right name with other images in them
    cases = {'both mirrors send something else': (tmp_path / 'data', SAMPLE, 0)}
    ((case, (printed, error)),) = attempts(tmp_path, [serve(impostors)] * 2, cases).items()
    assert error is None
    line = printed.splitlines()[0]
    assert f'images from {SAMPLE}' in printed
    assert not any((tmp_path / 'data').iterdir())
    check_case(case, 'goes on with the sample', re.sub(r'http\S+', '(mirror)', line), tmp_path / 'data')


@needs_mnist
@pytest.mark.skipif(sys.platform != 'linux', reason='uses what Linux offers to fail a write')
def test_what_cannot_be_written_is_not_half_there(serve, tmp_path):
    cases = {'disk full': (tmp_path / 'full', SAMPLE, 100_000),
             'data_dir read-only': ('/proc', SAMPLE, 0)}
    for case, (printed, error) in attempts(tmp_path, [serve(FULL)] * 2, cases).items():
        assert error is None, f'{case}: {error}'
        line = next(line for line in printed.splitlines() if 'no download' in line)
        assert f'images from {SAMPLE}\n' in printed
        line = re.sub(r"'/proc/.*?'", "'...'", line)
        check_case(case, 'goes on with the sample', line, cases[case][0])
    assert not any((tmp_path / 'full').iterdir())


def start_loading(folder, mirrors):
    """Start a process that loads the images in a folder, without a kernel and without TensorFlow."""
    notebook = with_mirrors(read_notebook('BasicAE'), mirrors)
    sources = [code_cell(notebook, cell_id).source for cell_id in ('parameters', *LOADING)]
    imports = [line for line in code_cell(notebook, 'setup').source.splitlines()
               if line.startswith(('import ', 'from ')) and 'matplotlib' not in line]
    return subprocess.Popen([sys.executable, '-m', 'IPython', '-c', '\n'.join([*imports, *sources])], cwd=folder,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_nothing_is_there_after_a_kill_in_the_middle(serve, tmp_path):
    process = start_loading(tmp_path, [serve('drips'), NOBODY])
    deadline = time.monotonic() + 30
    while not (tmp_path / 'MNIST_data').exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(2)
    assert process.poll() is None, 'the download was over before it could be killed'
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert not any((tmp_path / 'MNIST_data').iterdir())
    check_case('kill -9 during the download', 'nothing is left behind', 'nothing', tmp_path)


@needs_mnist
def test_three_at_once_in_an_empty_folder(serve, tmp_path):
    mirror = serve(FULL)
    processes = [start_loading(tmp_path, [mirror, NOBODY]) for _ in range(3)]
    for process in processes:
        printed, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
        assert 'images from MNIST_data\ntrain_images: 60,000 images' in printed
    expected = {name: digest for name, digest in digests(FULL).items() if name in ARCHIVES.values()}
    assert digests(tmp_path / 'MNIST_data') == expected
    assert len(list((tmp_path / 'MNIST_data').iterdir())) == 2
    check_case('three notebooks at once in an empty folder', 'each downloads; the archives are whole',
               'images from ...', tmp_path)


@needs_mnist
def test_what_the_user_puts_there_meanwhile_stays(tmp_path):
    answer = threading.Event()

    class Slow(QuietHandler):
        def do_GET(self):
            answer.wait(60)
            super().do_GET()

    server = Server(('127.0.0.1', 0), partial(Slow, directory=str(FULL)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    process = start_loading(tmp_path, [f'http://127.0.0.1:{server.server_port}/', NOBODY])
    while not (tmp_path / 'MNIST_data').exists():
        time.sleep(0.1)
    shutil.copy(SAMPLE / TRAIN, tmp_path / 'MNIST_data')
    shutil.copy(SAMPLE / TEST, tmp_path / 'MNIST_data')
    answer.set()
    printed, errors = process.communicate(timeout=120)
    server.shutdown()
    server.server_close()
    assert process.returncode == 0, errors
    assert 'train_images: 4,000 images' in printed
    assert digests(tmp_path / 'MNIST_data') == digests(SAMPLE)
    check_case('archives put there during the download', 'used; the download is dropped', 'images from ...', tmp_path)


def test_nothing_is_unpickled_or_run_from_the_data_folder_and_downloads_are_verified():
    for name in NOTEBOOKS:
        code = '\n'.join(cell.source for cell in read_notebook(name).cells if cell.cell_type == 'code')
        assert not re.search(r'pickle|allow_pickle|np\.load\(|exec\(|eval\(|import_module|sys\.path', code)
        assert re.findall(r"'(https?://[^']*)'", code) == list(MIRRORS)
        assert all(mirror.startswith('https://') for mirror in MIRRORS)
    if FULL:
        namespace = {}
        exec(code_cell(read_notebook('BasicAE'), 'download').source.split('\n\n')[0], namespace)
        for name, (size, checksum) in namespace['archives'].items():
            content = (FULL / name).read_bytes()
            assert (len(content), hashlib.sha256(content).hexdigest()) == (size, checksum)
    for requirements in ('requirements.txt', 'requirements-dev.txt'):
        lines = (ROOT / requirements).read_text().split()
        assert all('==' in line for line in lines)
