"""What is stored is of today's cells and agrees: runs, pages, README and records; and the tools keep it so."""
import base64
import json
import re
import shutil
import subprocess
import sys
from unittest import mock

import claims
import compare
import nbformat
import pytest
from helpers import NOTEBOOKS, ROOT, SAMPLE, assert_clean, code_cells, pictures, printed, read_notebook
from run_notebooks import code_digest, page_of

LARGEST_LOSS = {'BasicAE': 0.075, 'EasyDAE': 0.130, 'ConvDAE': 0.103}
FOLDED = {'_kg_hide-input': True, 'cellView': 'form', 'jupyter': {'source_hidden': True}}    # Kaggle, Colab, JupyterLab
BUILT = ['build/BasicAE.html', 'build/BasicAE.ipynb', 'build/BasicAE.keras']


def read(*paths):
    """Return the text of files of the project."""
    return '\n'.join((ROOT / path).read_text(encoding='utf-8') for path in paths)


def python(*arguments, folder=ROOT, status=0):
    """Run Python in a folder; return what it said, when it ended with that exit status."""
    run = subprocess.run([sys.executable, *arguments], cwd=folder, capture_output=True, text=True)
    assert run.returncode == status, run.stderr
    return run.stdout + run.stderr


@pytest.fixture(params=NOTEBOOKS)
def name(request):
    return request.param


def test_stored_run_is_of_todays_cells_and_clean(name):
    """Else a reader sees results that the code beside them did not give, or disturbing lines."""
    notebook = read_notebook(name)
    assert notebook.metadata.get('executed_code_sha256') == code_digest(notebook), 'make refresh'
    assert_clean(notebook)


def test_stored_run_is_full_and_good(name):
    """Results of other data, other settings or a bad run would pass for what the network can do."""
    cells = code_cells(read_notebook(name))
    assert [output.metadata.get('as_original') for output in cells['curve'].outputs] == [True]
    assert float(re.findall('loss ([0-9.]+)', printed(cells['train']))[-1]) <= LARGEST_LOSS[name]


def test_notebook_opens_with_the_picture_of_its_result(name):
    """The first thing to see is what it is all about, and the README shows ConvDAE's."""
    (opening,), *others = map(pictures, code_cells(read_notebook(name)).values())
    assert [opening] in others
    if name == 'ConvDAE':
        assert (ROOT / 'notebooks' / 'denoised.png').read_bytes() == base64.b64decode(opening[0]), 'make refresh'


def test_page_is_that_of_the_stored_run(name):
    same = read(f'notebooks/{name}.html') == page_of(name, read_notebook(name))
    assert same, '"make refresh" after a change of code, "make pages" after one of text'


def test_plumbing_is_folded_wherever_notebooks_are_read_and_the_rest_fits_on_a_screen(name):
    cells = code_cells(read_notebook(name))
    folded = {key: cell for key, cell in cells.items() if 'hide-input' in cell.metadata.tags}
    assert [key for key, cell in cells.items() if (FOLDED.items() <= cell.metadata.items()) != (key in folded)] == []
    assert [key for key, cell in folded.items() if not re.match('# @title [A-Z]', cell.source)] == []
    shown = {key: cell.source for key, cell in cells.items() if key not in folded}
    assert [key for key, source in shown.items() if source.count('\n') >= 40 or re.search('.{101}', source)] == [], (
        'more than 40 lines, or than 100 characters in a line: shorten the cell, or fold it')


def test_what_notebooks_share_is_the_same():
    """Who knows one notebook knows the others, and a fault corrected in one is corrected in all."""
    basic, easy, conv = map(compare.read_cells, NOTEBOOKS)
    for one, other, keys in ((basic, easy, ('setup', 'load_images', 'images', 'plot', 'reconstruct')),
                             (easy, conv, ('load_images', 'plot', 'reconstruct'))):
        assert [key for key in keys if one[key] != other[key]] == []
    following = easy['progress'].replace(basic['measure'], '').replace(', measure images', '')
    assert following.split() == basic['progress'].split()
    assert easy['add_noise'].replace('normal(', 'tf.random.stateless_normal(') == conv['add_noise']
    for part, *cells in (('(?ms)^for .name, bounds.*?run all cells', *(each['check'] for each in (basic, easy, conv))),
                         (r'(?s)^.*def measure.*?\n\n', easy['progress'], conv['progress'])):
        assert len({re.search(part, cell)[0] for cell in cells}) == 1


@pytest.mark.parametrize('document', ['README.md', 'CONTRIBUTING.md', 'MNIST_data/README.md', 'benchmarks/README.md'])
def test_links_and_targets_of_make_exist(document):
    links = re.findall(r'\]\(([^)#:]+)\)', read(document))
    assert [link for link in links if not ((ROOT / document).parent / link).exists()] == []
    targets = re.findall('^([a-z]+):', read('Makefile'), re.MULTILINE)
    assert set(re.findall('(?:`|^)make ([a-z]+)', read(document), re.MULTILINE)) <= set(targets)


def test_requirements_are_pinned():
    constraints = re.sub(' *(#.*|;.*)', '', read('constraints.txt')).split()
    assert [line for line in constraints if not re.fullmatch(r'[\w.-]+==[\w.]+', line)] == []
    assert set(read('requirements.txt', 'requirements-dev.txt').split()) <= set(constraints), 'run "make constraints"'


def test_tables_are_those_of_the_records():
    for tool, tables in ((compare, compare.table), (claims, claims.tables)):
        there = tables(json.loads(read(f'benchmarks/{tool.__name__}.json'))) in read('benchmarks/README.md')
        assert there, f'run benchmarks/{tool.__name__}.py --tables'


def test_study_is_of_todays_cells():
    old = {name: (network['cells'], {int(seed): len(run['losses']) for seed, run in network['runs'].items()})
           for name, network in json.loads(read('benchmarks/claims.json')).items()}
    now = {name: (each.digest(), each.seeds) for name, each in claims.STUDY.items()}
    assert [name for name in old | now if old.get(name) != now.get(name)] == [], 'claims.py trains these, or drop them'


@pytest.mark.parametrize('there, kept', [(('old', 1), True), (('old', 2), False), (('other', 1), False)])
def test_runs_are_kept_only_where_cells_train_as_those_of_the_runs(there, kept):
    record = {'BasicAE': {'cells': 'old'}}
    with mock.patch.object(claims, 'train_short', side_effect=[there, ('new', 1)]):
        claims.keep_alike(record, ['BasicAE', 'plain chain'], ROOT)
    assert (record['BasicAE']['cells'] == 'new') == kept


def test_benchmarks_train_and_measure():
    for network in ('convolutional', 'EasyDAE, squared error'):
        _, run = claims.train_short(network, ROOT)
        assert run['losses'][0] > run['losses'][1] and run['measures']['2']['psnr'] > run['measures']['1']['psnr'] > 9
    said = python('-c', f'''import compare
compare.SIDES["BasicAE"], compare.EPOCHS["BasicAE"] = ["notebook", compare.GRAPH], 1
compare.QUIET = 1    # whatever else is at work
print("record", compare.compare("BasicAE", compare.Path({str(SAMPLE)!r}), 1))''', folder=ROOT / 'benchmarks')
    assert re.search(r"(?m)^record .*'images': 4000(.*'ms per step': \[){2}", said)


CURVE = """picture = {'image/png': 'BBBB'}
handle.update(picture, raw=True, metadata={'image/png': {'alt': 'Result'}})
display(picture, raw=True, metadata={'image/png': {'alt': 'Loss'}, 'as_original': %s})"""
SMALL = {'setup': """import os, sys, numpy as np, keras
print('log', file=sys.stderr, flush=True)
handle = display({'image/png': 'AAAA'}, raw=True, metadata={'image/png': {'alt': 'Loss'}}, display_id='result')
print('versions')""",
         'parameters': 'shown = [0]', 'curve': '', 'end': """test_images = np.zeros((1, 784))
model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])"""}


def small(folder, cells, head=''):
    """Write a notebook of small cells, with outputs of another run, and the tools beside it; return what runs them.

    It is as Colab leaves one: without the ids of cells and the language, and with the name of another kernel.
    """
    stale = nbformat.v4.new_output('stream', text='of another run')
    cells = [nbformat.v4.new_code_cell(source, metadata={'tags': [key]}, outputs=[stale])
             for key, source in cells.items()]
    for cell in cells:
        del cell['id']
    notebook = nbformat.v4.new_notebook(cells=cells, nbformat_minor=4, metadata={
        'digits': '', 'kernelspec': {'name': 'mine', 'display_name': 'mine'}})
    (folder / 'BasicAE.ipynb').write_text(head + nbformat.writes(notebook))
    shutil.copytree(ROOT / 'tools', folder / 'tools')
    before = {path: path.read_bytes() for path in folder.rglob('*.*')}

    def run(*options, status=0):
        said = python('tools/run_notebooks.py', *options, 'BasicAE', folder=folder, status=status)
        return said, sorted(str(path.relative_to(folder)) for path in folder.rglob('*.*')
                            if path.read_bytes() != before.get(path))
    return run


@pytest.mark.parametrize('options, as_original, last, message, written', [
    ([], False, '', 'Done', BUILT),
    (['--in-place'], True, '', 'Done', [
        'BasicAE.ipynb', 'build/BasicAE.keras', 'notebooks/BasicAE.html', 'notebooks/BasicAE.keras']),
    (['--in-place'], False, '', 'not those of the original', BUILT),
    (['--in-place'], True, 'os._exit(1)', 'Kernel died', BUILT[:2])])
def test_only_a_whole_run_like_the_original_is_stored(options, as_original, last, message, written, tmp_path):
    """Another would take the place of the results; what ran is in build/. No log line of the first cell is stored."""
    run = small(tmp_path, {**SMALL, 'curve': CURVE % as_original, 'last': last})
    said, changed = run(*options, status=int(message != 'Done'))
    assert message in said and changed == written
    stored = nbformat.read(tmp_path / next(each for each in changed if each.endswith('.ipynb')), as_version=4)
    assert 'another run' not in str(stored)
    if message == 'Done':
        display, versions = code_cells(stored)['setup'].outputs
        assert (display.data['image/png'], versions.text) == ('BBBB', 'versions\n')
    if not options:    # who takes it for a stored run is stopped
        (tmp_path / 'build' / 'BasicAE.ipynb').replace(tmp_path / 'BasicAE.ipynb')
        assert 'of the original, of which a page is made' in run('--pages', status=1)[0]


@pytest.mark.parametrize('cells, head, message', [
    ({'setup': ''}, '', 'lost the tags'), ({**SMALL, 'curve': CURVE % True}, '', 'holds no run of its code'),
    (SMALL, '<<<<<<< HEAD\n', 'cannot be read')])
def test_a_notebook_that_another_program_has_saved_is_refused_and_nothing_written(cells, head, message, tmp_path):
    said, changed = small(tmp_path, cells, head)('--pages', status=1)
    assert message in said and changed == []
