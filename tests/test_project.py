"""What stands around the notebooks: README, requirements, benchmarks with their records, and the tools."""
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import claims
import compare
import nbformat
import pytest
from helpers import NOTEBOOKS, ROOT, SAMPLE, all_of, not_produced, read_notebook
from run_notebooks import code_digest

ORIGINAL, OTHER = 'Training loss, compared with the original', 'Training loss. NOT COMPARABLE'
BUILT = ['build/BasicAE.html', 'build/BasicAE.ipynb', 'build/kept.keras']


def read(*paths):
    """Return the text of files of the project."""
    return '\n'.join((ROOT / path).read_text(encoding='utf-8') for path in paths)


def python(*arguments, folder=ROOT, status=0):
    """Run Python in a folder; return what it said, when it ended with that exit status."""
    run = subprocess.run([sys.executable, *arguments], cwd=folder, capture_output=True, text=True)
    assert run.returncode == status, run.stderr
    return run.stdout + run.stderr


@pytest.mark.parametrize('document', ['README.md', 'CONTRIBUTING.md', 'MNIST_data/README.md', 'benchmarks/README.md'])
def test_links_and_targets_of_make_exist(document):
    links = re.findall(r'\]\(([^)#:]+)\)', read(document))
    assert [link for link in links if not ((ROOT / document).parent / link).exists()] == []
    targets = re.findall('^([a-z]+):', read('Makefile'), re.MULTILINE)
    assert set(re.findall('(?:`|^)make ([a-z]+)', read(document), re.MULTILINE)) <= set(targets)


def test_no_archive_and_no_network_is_committed():
    """MNIST would make a clone large, and is under a licence of its own."""
    tracked = subprocess.run(['git', 'ls-files', '*ubyte*', '*.keras'], cwd=ROOT, capture_output=True, text=True).stdout
    assert {Path(path).parent.name for path in tracked.split()} == {'sample'}


def test_every_package_is_pinned():
    constraints = re.sub(' *(#.*|;.*)', '', read('constraints.txt')).split()
    assert [line for line in constraints if not re.fullmatch(r'[\w.-]+==[\w.]+', line)] == []
    assert set(read('requirements.txt', 'requirements-dev.txt').split()) <= set(constraints), 'run "make constraints"'


def test_numbers_in_the_readme_were_produced():
    described = read('benchmarks/README.md', 'MNIST_data/README.md', 'LICENSE')    # the tables of the records among it
    text = re.sub(r'\b3\.1[1-4]\b', '', read('README.md'))    # versions of Python
    assert not_produced(text, described, *(all_of(read_notebook(name)) for name in NOTEBOOKS)) == []


def test_tables_are_those_of_the_records():
    assert compare.table(json.loads(read('benchmarks/compare.json'))) in read('benchmarks/README.md')
    assert claims.tables(json.loads(read('benchmarks/claims.json'))) in read('benchmarks/README.md')


def test_study_is_of_todays_cells():
    recorded = {name: network['cells'] for name, network in json.loads(read('benchmarks/claims.json')).items()}
    assert recorded == {name: claims.STUDY[name].digest() for name in recorded}, 'run "benchmarks/claims.py"'


def test_study_is_older_only_after_a_change_that_matters():
    """Three hours for a comment would make nobody write one."""
    today, commented, changed = (claims.Network('EasyDAE', {}, 1, None, change).digest() for change in (
        lambda cell_id, source: source, lambda cell_id, source: f'# Train\n{source}\nprint(model)',
        lambda cell_id, source: source.replace("'relu'", "'elu'")))
    assert today == commented != changed


def test_study_trains_and_measures():
    train = f"claims.train(claims.Network('EasyDAE', {{3: 2}}, 1), 3, {str(SAMPLE)!r})"
    said = python('-c', f'import claims, json\nprint(json.dumps({train}))', folder=ROOT / 'benchmarks')
    about, run = json.loads(re.search(r'^\[.*\]$', said, re.MULTILINE)[0])
    assert about['weights'] == 2 * 784 * 32 + 32 + 784
    assert run['losses'][0] > run['losses'][1] > 0
    assert run['measures']['2']['psnr'] > run['measures']['1']['psnr'] > 9


def test_row_of_an_older_run_has_its_date():
    """Without PyTorch its rows are kept: who reads them sees that they are of another day."""
    record = json.loads(read('benchmarks/compare.json'))
    later = {name: {**run, 'date': 'later'} for name, run in record.items()}
    assert compare.table(later).count('(of 2') == sum(len(run['sides']) for run in record.values())


def test_benchmark_says_what_it_needs():
    assert f'no {compare.TEST} in {ROOT}: run a' in python('benchmarks/compare.py', f'--data={ROOT}', status=2)
    assert 'is not that of MNIST' in python('benchmarks/claims.py', f'--data={SAMPLE}', status=2)


@pytest.mark.parametrize('option, title, last, message, written', [
    ('BasicAE', OTHER, '', 'Done', BUILT),
    ('--in-place', ORIGINAL, '', 'Done', ['BasicAE.ipynb', 'build/kept.keras', 'notebooks/BasicAE.html']),
    ('--in-place', OTHER, '', 'not those of the original', BUILT),
    ('--in-place', ORIGINAL, 'os._exit(1)', 'Kernel died', BUILT)])
def test_only_a_whole_run_like_the_original_is_stored(option, title, last, message, written, tmp_path):
    """Another would take the place of the results; what ran is in build/, also the network that a notebook keeps."""
    cells = {'curve': f"display({{'image/png': 'AAAA'}}, raw=True, metadata={{'image/png': {{'alt': {title!r}}}}})",
             'parameters': "import os\nmodel_file = 'kept.keras'", 'save': f"open(model_file, 'w').close()\n{last}"}
    stale = nbformat.v4.new_output('stream', text='of another run')
    notebook = nbformat.v4.new_notebook(metadata=read_notebook('BasicAE').metadata, cells=[
        nbformat.v4.new_code_cell(source, id=cell_id, outputs=[stale]) for cell_id, source in cells.items()])
    nbformat.write(notebook, tmp_path / 'BasicAE.ipynb')
    shutil.copytree(ROOT / 'tools', tmp_path / 'tools')
    before = {path: path.read_bytes() for path in tmp_path.rglob('*.*')}
    assert message in python('tools/run_notebooks.py', option, 'BasicAE', folder=tmp_path, status=message != 'Done')
    changed = {str(path.relative_to(tmp_path)): path.read_text() for path in tmp_path.rglob('*.*')
               if path.read_bytes() != before.get(path)}
    assert sorted(changed) == written
    assert 'another run' not in ''.join(changed.values())
    (run,) = (json.loads(text) for path, text in changed.items() if path.endswith('.ipynb'))
    assert run['metadata']['executed_code_sha256'] == (None if last else code_digest(notebook))
