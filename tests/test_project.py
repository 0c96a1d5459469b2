"""What stands around the notebooks: README, requirements, benchmarks with their records, and the tools."""
import gzip
import importlib.util
import json
import re
import shutil
import subprocess
import sys

import claims
import compare
import nbformat
import pytest
import run_notebooks
from helpers import NOTEBOOKS, ROOT, SAMPLE, all_of, not_produced, read_notebook

PINNED = r'([\w.-]+)==([\w.]+)'


def read(*paths):
    """Return the text of files of the project."""
    return '\n'.join((ROOT / path).read_text(encoding='utf-8') for path in paths)


def python(*arguments, folder=ROOT):
    """Run Python in a folder; return its exit status and what it said."""
    run = subprocess.run([sys.executable, *arguments], cwd=folder, capture_output=True, text=True)
    return run.returncode, run.stdout + run.stderr


@pytest.mark.parametrize('document', ['README.md', 'CONTRIBUTING.md', 'MNIST_data/README.md', 'benchmarks/README.md'])
def test_links_and_targets_of_make_exist(document):
    """A visitor follows a link, or types a command, and nothing is there."""
    links = re.findall(r'\]\(([^)#:]+)\)', read(document))
    assert [link for link in links if not ((ROOT / document).parent / link).exists()] == []
    targets = re.findall('^([a-z]+):', read('Makefile'), re.MULTILINE)
    assert set(re.findall('(?:`|^)make ([a-z]+)', read(document), re.MULTILINE)) <= set(targets)


def test_every_package_is_pinned():
    """Other versions give other results."""
    constraints = re.sub(' *(#.*|;.*)', '', read('constraints.txt')).split()
    requirements = read('requirements.txt', 'requirements-dev.txt').split()
    assert [line for line in constraints + requirements if not re.fullmatch(PINNED, line)] == []
    assert set(requirements) <= set(constraints), 'run "make constraints"'


def test_no_archive_and_no_network_is_committed():
    """MNIST would make a clone large, and is under a licence of its own."""
    tracked = subprocess.run(['git', 'ls-files', '*.gz', '*ubyte', '*.keras'], cwd=ROOT, capture_output=True, text=True)
    assert [file for file in tracked.stdout.split() if (ROOT / file).parent != SAMPLE] == []


def test_tables_are_those_of_the_records():
    """A table older than its record says what was not measured."""
    assert compare.table(json.loads(read('benchmarks/compare.json'))) in read('benchmarks/README.md')
    assert claims.tables(json.loads(read('benchmarks/claims.json'))) in read('benchmarks/README.md')


def test_study_is_whole_and_of_todays_cells():
    """Else the texts speak of other networks than those in the notebooks."""
    record = json.loads(read('benchmarks/claims.json'))
    assert {name: (each['cells'], {seed: len(run['losses']) for seed, run in each['runs'].items()})
            for name, each in record.items()} == {
        name: (network.digest(), {str(seed): epochs for seed, epochs in network.seeds.items()})
        for name, network in claims.STUDY.items()}, 'run "benchmarks/claims.py"'


def test_numbers_in_the_readme_were_produced():
    """A number that no run gave is a promise that nobody can check."""
    runs = [all_of(read_notebook(name)) for name in NOTEBOOKS]
    described = read('benchmarks/README.md', 'MNIST_data/README.md', 'LICENSE')    # the tables of the records among it
    text = re.sub(r'\b3\.1[1-4]\b', '', read('README.md'))    # versions of Python
    assert not_produced(text, *runs, described) == []


def test_study_is_older_only_after_a_change_that_matters():
    """Three hours for a comment would make nobody write one."""
    today, commented, changed = (claims.Network('EasyDAE', {}, 1, None, change).digest() for change in (
        lambda cell_id, source: source, lambda cell_id, source: f'# Train\n{source}\nprint(model)',
        lambda cell_id, source: source.replace("'relu'", "'elu'")))
    assert today == commented != changed


@pytest.fixture(scope='module')
def trained():
    """Return what the study records of a network, and of a run of 2 epochs on the sample."""
    train = f"claims.train(claims.Network('EasyDAE', {{3: 2}}, 1), 3, {str(SAMPLE)!r})"
    status, said = python('-c', f'import claims, json\nprint(json.dumps({train}))', folder=ROOT / 'benchmarks')
    assert status == 0, said
    return json.loads(re.search(r'^\[.*\]$', said, re.MULTILINE)[0])


def test_study_trains_and_measures(trained):
    about, run = trained
    assert about['weights'] == 2 * 784 * 32 + 32 + 784
    assert run['losses'][0] > run['losses'][1] > 0
    assert run['measures']['2']['psnr'] > run['measures']['1']['psnr'] > 9


def test_study_goes_on_where_it_stopped(trained, tmp_path):
    """Hours of training are not done twice."""
    name, (about, run) = 'EasyDAE, squared error', trained
    seeds = {str(seed): {**run, 'measures': {'30': run['measures']['2']}} for seed in claims.STUDY[name].seeds}
    record = {name: {'cells': claims.STUDY[name].digest(), 'runs': seeds, **about}}
    (tmp_path / 'claims.json').write_text(json.dumps(record))
    for file, count in {compare.TRAIN: claims.FULL_SIZE, compare.TEST: 1}.items():
        (tmp_path / file).write_bytes(gzip.compress(bytes(16 + 784 * count), compresslevel=1))
    status, said = python('benchmarks/claims.py', name, f'--data={tmp_path}', f'--output={tmp_path / "claims.json"}')
    assert (status, said.count('recorded')) == (0, len(seeds)), said
    assert json.loads((tmp_path / 'claims.json').read_text()) == record


def test_comparison_runs_without_pytorch_and_keeps_its_rows(tmp_path, monkeypatch):
    """Who measures on another machine needs neither PyTorch nor all of MNIST, and loses no row of the record."""
    output, side = tmp_path / 'compare.json', 'PyTorch, as it comes'
    pytorch = json.loads(read('benchmarks/compare.json'))['BasicAE']['sides'][side] | {'date': '2020-02-02'}
    output.write_text(json.dumps({'BasicAE': {'sides': {side: pytorch}}}))
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: name != 'torch')
    monkeypatch.setattr(sys, 'argv', ['compare.py', 'BasicAE', '--rounds=1', f'--data={SAMPLE}', f'--output={output}'])
    compare.main()
    record = json.loads(output.read_text())
    assert [*record['BasicAE']['sides']] == [each for each in compare.SIDES['BasicAE'] if 'Torch' not in each] + [side]
    assert min(each['ms per step'][0] for each in record['BasicAE']['sides'].values()) > 0
    assert f'| {side} (of 2020-02-02) |' in compare.table(record)


@pytest.mark.parametrize('script', ['compare', 'claims'])
def test_benchmark_says_what_it_needs(script, tmp_path):
    status, said = python(f'benchmarks/{script}.py', f'--data={tmp_path}')
    assert status != 0
    assert f'{compare.TEST} in {tmp_path}: run a notebook or name a folder' in said


def write_project(folder, title, last=''):
    """Write a project into a folder: the tools, and notebooks that draw a curve, do something and keep a network."""
    shutil.copytree(ROOT / 'tools', folder / 'tools')
    curve = f"display({{'image/png': 'AAAA'}}, raw=True, metadata={{'image/png': {{'alt': {title!r}}}}})"
    cells = {'parameters': "import os\nmodel_file = 'network.keras'", 'images': "# Read MNIST\nprint('so', 'far')",
             'curve': curve, 'save': f"{last}\nopen(model_file, 'w').close()", 'late': '2 + 2'}
    notebook = nbformat.v4.new_notebook(metadata=read_notebook('BasicAE').metadata, cells=[
        nbformat.v4.new_markdown_cell('# A title\n[next](EasyDAE.ipynb)'), *(
            nbformat.v4.new_code_cell(source, id=cell_id, metadata={'tags': ['hide-input'] * (cell_id == 'images')},
                                      outputs=[nbformat.v4.new_output('stream', text='of another run')])
            for cell_id, source in cells.items())])
    for name in NOTEBOOKS:
        nbformat.write(notebook, folder / f'{name}.ipynb')
    return run_notebooks.code_digest(notebook)


ORIGINAL, OTHER = (f'Training loss{more}' for more in (', compared with the original', '. NOT COMPARABLE'))
PART = ['build/BasicAE.html', 'build/BasicAE.ipynb']
BUILT, STORED = [*PART, 'build/network.keras'], ['BasicAE.ipynb', 'build/network.keras', 'notebooks/BasicAE.html']


@pytest.mark.parametrize('option, title, last, message, written', [
    ('BasicAE', OTHER, '', 'Done', BUILT),
    ('BasicAE', ORIGINAL, '1 / 0', 'division by zero', PART),
    ('--in-place', ORIGINAL, '', 'Done', STORED),
    ('--in-place', OTHER, '', 'not those of the original', BUILT),
    ('--in-place', ORIGINAL, 'os._exit(1)', 'Kernel died', PART)])
def test_only_a_whole_run_like_the_original_is_stored(option, title, last, message, written, tmp_path):
    """Another would take the place of the results; what ran is in build/, also the network that a notebook keeps."""
    digest = write_project(tmp_path, title, last)
    before = {path: path.read_bytes() for path in tmp_path.rglob('*.*')}
    status, said = python('tools/run_notebooks.py', option, 'BasicAE', folder=tmp_path)
    changed = [path for path in sorted(tmp_path.rglob('*.*')) if path.read_bytes() != before.get(path)]
    assert [str(path.relative_to(tmp_path)) for path in changed] == written
    assert (message in said, status == 0) == (True, message == 'Done'), said
    text = {path.suffix: path.read_text() for path in changed}
    for part in ('Code: read MNIST', 'EasyDAE.html">next', 'so far\n', title):
        assert part in text['.html']
    assert 'another run' not in text['.html'] + text['.ipynb']
    notebook = nbformat.reads(text['.ipynb'], as_version=4)
    assert run_notebooks.code_digest(notebook) == digest
    assert notebook.metadata.executed_code_sha256 == (None if written is PART else digest)


def test_check_before_a_commit_names_notebooks_that_are_older_than_their_cells(tmp_path):
    write_project(tmp_path, ORIGINAL)
    python('tools/run_notebooks.py', '--in-place', 'EasyDAE', folder=tmp_path)
    assert python('tools/check_stored.py', folder=tmp_path)[1].count('older than the cells in BasicAE, ConvDAE:') == 1
