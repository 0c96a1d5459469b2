"""What stands around the notebooks: README, records of the benchmarks, and the tool that runs and stores."""
import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import compare
import nbformat
import pytest
import run_notebooks
import seeds
from conftest import ARCHIVES, NOTEBOOKS, ROOT, SAMPLE, read_notebook
from produced import all_of, not_produced, stored_run

README = (ROOT / 'README.md').read_text(encoding='utf-8')
RECORDS = {name: json.loads((ROOT / 'benchmarks' / f'{name}.json').read_text()) for name in ('compare', 'seeds')}


def read(*paths):
    """Return the text of files of the project."""
    return '\n'.join((ROOT / path).read_text(encoding='utf-8') for path in paths)


@pytest.mark.parametrize('document', ['README.md', 'CONTRIBUTING.md', 'MNIST_data/README.md', 'benchmarks/README.md'])
def test_links_and_targets_of_make_exist(document):
    """A visitor follows a link, or types a command, and nothing is there."""
    links = re.findall(r'\]\(([^)#:]+)\)', read(document))
    assert [link for link in links if not ((ROOT / document).parent / link).exists()] == []
    targets = re.findall('^([a-z]+):', read('Makefile'), re.MULTILINE)
    assert set(re.findall('(?:`|^)make ([a-z]+)', read(document), re.MULTILINE)) <= set(targets)


def test_requirements_are_pinned():
    """Other versions give other results."""
    requirements = read('requirements.txt', 'requirements-dev.txt').split()
    assert [line for line in requirements if not re.fullmatch(r'[\w-]+==[\d.]+', line)] == []


def test_no_archive_and_no_network_is_committed():
    """MNIST would make a clone large, and is under a licence of its own."""
    if not (ROOT / '.git').exists():
        pytest.skip('this is no checkout')
    tracked = subprocess.run(['git', 'ls-files', '*.gz', '*.keras'], cwd=ROOT, capture_output=True, text=True)
    assert tracked.stdout.split() == sorted(f'MNIST_data/sample/{archive}' for archive in ARCHIVES.values())


def test_records_are_those_of_the_tables_and_hold_enough_seeds():
    """A table older than its record says what was not measured; three seeds say little of how far results vary."""
    tables = {'compare': compare.table(RECORDS['compare']), 'seeds': seeds.seed_table(RECORDS['seeds'])}
    assert [name for name, table in tables.items() if table not in read('benchmarks/README.md')] == []
    for name, fewest in {'BasicAE': 5, 'EasyDAE': 5, 'ConvDAE': 8}.items():
        assert len(RECORDS['seeds'][name]['runs']) >= fewest


def test_numbers_in_the_readme_were_produced():
    """A number that no run gave is a promise that nobody can check."""
    runs = [all_of(stored_run(name)) for name in NOTEBOOKS]
    described = read('benchmarks/README.md', 'MNIST_data/README.md', 'LICENSE')
    text = re.sub(r'Python [\d.]+ to [\d.]+', '', README)    # those with packages of TensorFlow
    assert not_produced(text, *runs, json.dumps(RECORDS), described) == []


def test_comparison_runs_without_pytorch_and_keeps_its_rows(tmp_path, monkeypatch):
    """Who measures on another machine needs neither PyTorch nor all of MNIST, and loses no row of the record."""
    output = tmp_path / 'compare.json'
    pytorch = {'date': '2020-02-02', 'ms per step': [2.5], 'times': {'notebook': 2}}
    output.write_text(json.dumps({'BasicAE': {'sides': {'PyTorch': pytorch}}}))
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: name != 'torch')
    monkeypatch.setattr(sys, 'argv', ['compare.py', 'BasicAE', '--rounds=1', f'--data={SAMPLE}', f'--output={output}'])
    compare.main()
    record = json.loads(output.read_text())
    assert list(record['BasicAE']['sides']) == ['notebook', 'the original, TensorFlow 1', 'PyTorch']
    assert min(side['ms per step'][0] for side in record['BasicAE']['sides'].values()) > 0
    assert '| PyTorch (of 2020-02-02) | 2.50 (2.50 to 2.50) | 2.00 |' in compare.table(record)


@pytest.mark.parametrize('option, source, message, written', [
    ('--in-place', 'print("4,000 training images")', 'did not run on the 60,000', []),
    ('--in-place', 'print("60,000 training images"); 1 / 0', 'division by zero', []),
    ('--in-place', 'print("60,000 training images")', 'Done', ['BasicAE.ipynb', 'notebooks/BasicAE.html']),
    ('BasicAE', 'print("4,000 training images")', 'Done', ['build/BasicAE.html', 'build/BasicAE.ipynb'])])
def test_only_a_full_run_that_succeeds_is_stored(option, source, message, written, tmp_path, monkeypatch, capsys):
    """A run on the sample, or half a run, would take the place of the results; `make` alone changes no notebook."""
    notebook = nbformat.v4.new_notebook(metadata={'kernelspec': read_notebook('BasicAE').metadata.kernelspec}, cells=[
        nbformat.v4.new_markdown_cell('# A title\n[next](EasyDAE.ipynb)'),
        nbformat.v4.new_code_cell(f'# Read MNIST\n{source}', id='images', metadata={'tags': ['hide-input']})])
    nbformat.write(notebook, tmp_path / 'BasicAE.ipynb')
    before = (tmp_path / 'BasicAE.ipynb').read_text()
    (tmp_path / 'tools').symlink_to(ROOT / 'tools')
    monkeypatch.setattr(run_notebooks, 'ROOT', tmp_path)
    monkeypatch.setattr(sys, 'argv', ['run_notebooks.py', option, 'BasicAE'])
    try:
        run_notebooks.main()
        said = capsys.readouterr().out
    except SystemExit as error:
        said = str(error)
    assert message in said
    files = {str(path.relative_to(tmp_path)): path.read_text() for path in sorted(tmp_path.rglob('BasicAE.*'))}
    assert [path for path in files if files[path] != before] == written
    for path in written:
        wanted = {'.html': ['Code: read MNIST', 'EasyDAE.html">next', 'images\n'], '.ipynb': ['"executed_code_sha256"']}
        assert [text for text in wanted[Path(path).suffix] if text not in files[path]] == []
