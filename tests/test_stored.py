"""The stored runs are of today's cells, clean and on the full MNIST; texts, pages and shared cells agree."""
import base64
import json
import re

import pytest
from helpers import NOTEBOOKS, ROOT, all_of, assert_clean, code_cells, not_produced, pictures, printed, read_notebook
from run_notebooks import code_digest, page_of

LARGEST_LOSS = {'BasicAE': 0.075, 'EasyDAE': 0.130, 'ConvDAE': 0.103}
RESULT = {'BasicAE': 'rows', 'EasyDAE': 'denoise', 'ConvDAE': 'compare'}    # cells that draw the opening picture


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
    ((_, description),) = pictures(cells['curve'])
    assert description.startswith('Training loss, compared with the original')    # its data and settings
    assert float(re.findall('loss ([0-9.]+)', printed(cells['train']))[-1]) <= LARGEST_LOSS[name]


def test_notebook_opens_with_the_picture_of_its_result(name):
    """The first thing to see is what it is all about, and the README shows ConvDAE's."""
    cells = code_cells(read_notebook(name))
    (opening,) = pictures(cells['setup'])
    assert [opening] == pictures(cells[RESULT[name]])
    if name == 'ConvDAE':
        assert (ROOT / 'notebooks' / 'denoised.png').read_bytes() == base64.b64decode(opening[0]), 'make refresh'


def test_numbers_in_the_text_are_in_the_code_or_the_outputs(name):
    """A sentence that names a number which nothing produced misleads; those on seeds are in the tables of the study."""
    notebook, study = read_notebook(name), (ROOT / 'benchmarks' / 'README.md').read_text(encoding='utf-8')
    text = '\n'.join(cell.source for cell in notebook.cells if cell.cell_type == 'markdown')
    assert not_produced(text, all_of(notebook), *re.findall(r'^\|.*', study, re.MULTILINE)) == []


def test_page_is_that_of_the_stored_run_in_one_file_that_loads_and_runs_nothing(name):
    page = (ROOT / 'notebooks' / f'{name}.html').read_text(encoding='utf-8')
    same = page == page_of(name, read_notebook(name))
    assert same, 'make pages'
    assert re.findall(r'<(?:script|link|iframe|object|embed)\b|\bon\w+="|@import|url\(|src="(?!data:)', page) == []


def test_plumbing_is_folded_and_the_rest_fits_on_a_screen(name):
    cells = code_cells(read_notebook(name)).values()
    folded = [cell for cell in cells if 'hide-input' in cell.metadata.get('tags', [])]
    assert folded == [cell for cell in cells if cell.metadata.get('jupyter', {}).get('source_hidden')]
    assert [cell.id for cell in folded if not re.match('# [A-Z]', cell.source)] == []
    assert [cell.id for cell in cells if cell not in folded and cell.source.count('\n') >= 40] == []
    assert [(cell.id, line) for cell in cells for line in cell.source.splitlines()
            if len(line) > (120 if cell in folded else 100)] == []


def test_papermill_finds_the_parameters(name):
    tagged = [cell.id for cell in read_notebook(name).cells if 'parameters' in cell.metadata.get('tags', [])]
    assert tagged == ['parameters']


def test_what_notebooks_share_is_the_same():
    """Who knows one notebook knows the others, and a fault corrected in one is corrected in all."""
    basic, easy, conv = ({cell_id: cell.source for cell_id, cell in code_cells(read_notebook(name)).items()}
                         for name in NOTEBOOKS)
    for one, other, ids in ((basic, easy, ('setup', 'load_images', 'images', 'plot', 'look', 'train', 'measure')),
                            (easy, conv, ('load_images', 'add_noise', 'batches', 'measure'))):
        assert [cell_id for cell_id in ids if one[cell_id] != other[cell_id]] == []
    assert conv['plot'].startswith(easy['plot'])    # ConvDAE draws progress too
    lines = iter(easy['setup'].splitlines())    # of which some are for dense networks alone
    assert [line for line in conv['setup'].splitlines() if not any(each.startswith(line) for each in lines)] == []
    for part in ('^for name, limit in .*?\n    globals.*?$', '^def settings.*'):
        assert len({re.search(part, each['check'], re.DOTALL | re.MULTILINE)[0] for each in (basic, easy, conv)}) == 1


def test_curve_of_the_original_is_the_recorded_one(name):
    recorded = json.loads((ROOT / 'tests' / 'original_losses.json').read_text())[name]['mean_loss_per_epoch']
    losses = re.match(r'original_losses = (\[.*?\])', code_cells(read_notebook(name))['curve'].source, re.DOTALL)[1]
    assert json.loads(losses) == recorded
