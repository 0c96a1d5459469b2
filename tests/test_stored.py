"""What is stored is of today's cells and agrees: runs, pages, README and records; and the tools keep it so."""
import base64
import json
import re
import shutil
import subprocess
import sys
from decimal import Decimal

import claims
import compare
import nbconvert
import nbformat
import pytest
from helpers import NOTEBOOKS, ROOT, SAMPLE, assert_clean, code_cells, pictures, printed, read_notebook
from run_notebooks import code_digest, page_of

LARGEST_LOSS = {'BasicAE': 0.075, 'EasyDAE': 0.130, 'ConvDAE': 0.103}
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


def all_of(notebook):
    """Return in one text the code of a notebook, what it printed, and the alternative texts."""
    return '\n'.join(text for cell in code_cells(notebook).values()
                     for text in (cell.source, printed(cell), *(alt for _, alt in pictures(cell))))


def not_produced(markdown, *sources):
    """Return the numbers in a text, without its code, links and years, that are no number of the sources, rounded."""
    prose = re.sub(r'```.*?```|`[^`]*`|\]\([^)]*\)|https?://\S+|\b20(?:08|1[67])\b', ' ', markdown, flags=re.DOTALL)
    written, produced = ([Decimal(number) for number in re.findall(
        r'(?<![\w.])\d+(?:\.\d+)?(?:e-?\d+)?(?!\w|\.\d)',
        re.sub(r'(?<=\d)x(?=\d)', ' x ', re.sub(r'(?<=\d)[,_](?=\d{3}(?!\d))', '', text)))]
        for text in (prose, '\n'.join(sources)))
    return [str(number) for number in written if not any(
        abs(number - each) <= Decimal((0, (5,), number.as_tuple().exponent - 1)) for each in set(produced))]


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
    assert [alt.startswith(ORIGINAL) for _, alt in pictures(cells['curve'])] == [True]    # its data and settings
    assert float(re.findall('loss ([0-9.]+)', printed(cells['train']))[-1]) <= LARGEST_LOSS[name]


def test_notebook_opens_with_the_picture_of_its_result(name):
    """The first thing to see is what it is all about, and the README shows ConvDAE's."""
    (opening,), *others = map(pictures, code_cells(read_notebook(name)).values())
    assert [opening] in others
    if name == 'ConvDAE':
        assert (ROOT / 'notebooks' / 'denoised.png').read_bytes() == base64.b64decode(opening[0]), 'make refresh'


def test_numbers_in_the_text_are_in_the_code_or_the_outputs(name):
    """A sentence that names a number which nothing produced misleads; those on seeds are in the tables of the study."""
    notebook, study = read_notebook(name), read('benchmarks/README.md')
    text = '\n'.join(cell.source for cell in notebook.cells if cell.cell_type == 'markdown')
    assert not_produced(text, all_of(notebook), *re.findall(r'^\|.*', study, re.MULTILINE)) == []


def test_page_is_that_of_the_stored_run_in_one_file_that_loads_and_runs_nothing(name):
    page = read(f'notebooks/{name}.html')
    assert hash(page) == hash(page_of(name, read_notebook(name))), 'make pages'
    assert re.findall(r'<(?:script|link|iframe|object|embed)\b|\bon\w+="|@import|url\(|src="(?!data:)', page) == []


def test_plumbing_is_folded_and_the_rest_fits_on_a_screen(name):
    cells = code_cells(read_notebook(name)).values()
    folded = [cell for cell in cells if 'hide-input' in cell.metadata.get('tags', [])]
    assert folded == [cell for cell in cells if cell.metadata.get('jupyter', {}).get('source_hidden')]
    assert [cell.id for cell in folded if not re.match('# [A-Z]', cell.source)] == []
    assert [cell.id for cell in cells if cell not in folded and cell.source.count('\n') >= 40] == []
    assert [cell.id for cell in cells if cell not in folded and re.search('.{101}', cell.source)] == []


def test_becomes_a_script_of_python(name):
    """As `jupyter nbconvert --to script` makes it, which takes the ending from the notebook's metadata."""
    assert nbconvert.ScriptExporter().from_notebook_node(read_notebook(name))[1]['output_extension'] == '.py'


def test_what_notebooks_share_is_the_same():
    """Who knows one notebook knows the others, and a fault corrected in one is corrected in all."""
    basic, easy, conv = ({cell_id: cell.source for cell_id, cell in code_cells(read_notebook(name)).items()}
                         for name in NOTEBOOKS)
    for one, other, ids in ((basic, easy, ('setup', 'load_images', 'images', 'plot', 'train', 'measure')),
                            (easy, conv, ('load_images', 'add_noise', 'batches', 'measure', 'reconstruct'))):
        assert [cell_id for cell_id in ids if one[cell_id] != other[cell_id]] == []
    assert conv['plot'].startswith(easy['plot'])
    for part in ('^for name, limit in .*?\n    globals.*?$', '^def settings.*'):
        assert len({re.search(part, each['check'], re.DOTALL | re.MULTILINE)[0] for each in (basic, easy, conv)}) == 1


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


def test_numbers_in_the_readme_were_produced():
    described = read('benchmarks/README.md', 'MNIST_data/README.md')    # the tables of the records among it
    text = re.sub(r'\b3\.1[1-4]\b', '', read('README.md'))    # versions of Python
    assert not_produced(text, described, *(all_of(read_notebook(name)) for name in NOTEBOOKS)) == []


def test_tables_are_those_of_the_records():
    assert compare.table(json.loads(read('benchmarks/compare.json'))) in read('benchmarks/README.md')
    assert claims.tables(json.loads(read('benchmarks/claims.json'))) in read('benchmarks/README.md')


def test_study_is_of_todays_cells():
    recorded = {name: (network['cells'], {int(seed): len(run['losses']) for seed, run in network['runs'].items()})
                for name, network in json.loads(read('benchmarks/claims.json')).items()}
    assert recorded == {name: (each.digest(), each.seeds) for name, each in claims.STUDY.items()}, 'claims.py'


def test_study_trains_and_measures():
    said = python('-c', f'''import claims, json
claims.STUDY['short'] = claims.Network('EasyDAE', {{3: 2}})
print(json.dumps(claims.train('short', 3, {str(SAMPLE)!r})))''', folder=ROOT / 'benchmarks')
    _, run = json.loads(re.search(r'^\[.*\]$', said, re.MULTILINE)[0])
    assert run['losses'][0] > run['losses'][1] > 0
    assert run['measures']['2']['psnr'] > run['measures']['1']['psnr'] > 9


def test_speed_is_measured():
    said = python('-c', 'import compare\ncompare.SIDES["BasicAE"] = ["notebook", compare.GRAPH]\nprint("record", '
                  f'compare.compare("BasicAE", compare.Path({str(SAMPLE)!r}), 1))', folder=ROOT / 'benchmarks')
    assert re.search(r"(?m)^record .*'images': 4000(.*'ms per step': \[){2}", said)


@pytest.mark.parametrize('options, title, last, message, written', [
    ([], OTHER, '', 'Done', BUILT),
    (['--in-place'], ORIGINAL, '', 'Done', ['BasicAE.ipynb', 'build/kept.keras', 'notebooks/BasicAE.html']),
    (['--in-place'], OTHER, '', 'not those of the original', BUILT),
    (['--in-place'], ORIGINAL, 'os._exit(1)', 'Kernel died', BUILT)])
def test_only_a_whole_run_like_the_original_is_stored(options, title, last, message, written, tmp_path):
    """Another would take the place of the results; what ran is in build/, also the network that a notebook keeps."""
    cells = {'curve': f"display({{'image/png': 'AAAA'}}, raw=True, metadata={{'image/png': {{'alt': {title!r}}}}})",
             'parameters': "import os\nmodel_file = 'kept.keras'", 'save': f"open(model_file, 'w').close()\n{last}"}
    stale = nbformat.v4.new_output('stream', text='of another run')
    nbformat.write(nbformat.v4.new_notebook(metadata=read_notebook('BasicAE').metadata, cells=[
        nbformat.v4.new_code_cell(source, id=cell_id, outputs=[stale]) for cell_id, source in cells.items()
    ]), tmp_path / 'BasicAE.ipynb')
    shutil.copytree(ROOT / 'tools', tmp_path / 'tools')
    before = {path: path.read_bytes() for path in tmp_path.rglob('*.*')}
    assert message in python('tools/run_notebooks.py', *options, 'BasicAE', folder=tmp_path, status=message != 'Done')
    changed = {str(path.relative_to(tmp_path)): path.read_text() for path in tmp_path.rglob('*.*')
               if path.read_bytes() != before.get(path)}
    assert sorted(changed) == written
    assert 'another run' not in ''.join(changed.values())
