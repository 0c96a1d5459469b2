"""The stored runs are of today's cells, clean and on the full MNIST; texts, pages and shared cells agree."""
import base64
import html
import json
import re

import pytest
from helpers import NOTEBOOKS, ROOT, all_of, assert_clean, code_cells, not_produced, pictures, printed, read_notebook
from run_notebooks import code_digest

LARGEST_LOSS = {'BasicAE': 0.075, 'EasyDAE': 0.130, 'ConvDAE': 0.103}
RESULT = {'BasicAE': 'rows', 'EasyDAE': 'denoise', 'ConvDAE': 'compare'}    # cells that draw the opening picture


@pytest.fixture(params=NOTEBOOKS)
def name(request):
    """Return the name of a notebook, one after the other."""
    return request.param


def test_outputs_are_of_todays_cells(name):
    """Else a reader sees results that the code beside them did not give."""
    notebook = read_notebook(name)
    assert notebook.metadata.get('executed_code_sha256') == code_digest(notebook), 'make refresh'


def test_stored_run_is_one_clean_run(name):
    cells = code_cells(read_notebook(name))
    assert [cell.execution_count for cell in cells.values()] == list(range(1, len(cells) + 1))
    assert_clean(read_notebook(name))


def test_stored_run_is_full_and_good(name):
    """Results of other data, of fewer epochs or of a bad run would pass for what the network can do."""
    cells, parameters = code_cells(read_notebook(name)), {}
    exec(cells['parameters'].source, parameters)
    ((_, description),) = pictures(cells['curve'])
    assert description.startswith('Training loss, compared with the original')    # on MNIST, by its content
    epoch, loss = re.findall(r'epoch +(\d+)/.*loss ([0-9.]+)', printed(cells['train']))[-1]
    assert int(epoch) == parameters['epochs']
    assert float(loss) <= LARGEST_LOSS[name]


def test_notebook_opens_with_the_picture_of_its_result(name):
    """The first thing to see is what it is all about, and the README shows ConvDAE's."""
    cells = code_cells(read_notebook(name))
    (opening,) = pictures(cells['setup'])
    assert [opening] == pictures(cells[RESULT[name]])
    if name == 'ConvDAE':
        assert (ROOT / 'notebooks' / 'denoised.png').read_bytes() == base64.b64decode(opening[0]), 'make refresh'


def test_summary_of_the_network_is_shown(name):
    """The layers, their outputs and numbers of weights at a glance."""
    cells = code_cells(read_notebook(name))
    assert 'Total params' in printed(cells['decoder' if name == 'ConvDAE' else 'model'])


def test_numbers_in_the_text_are_in_the_code_or_the_outputs(name):
    """A sentence that names a number which nothing produced misleads; those on seeds are in the tables of the study."""
    notebook, study = read_notebook(name), (ROOT / 'benchmarks' / 'README.md').read_text(encoding='utf-8')
    produced = all_of(notebook), *re.findall(r'^\|.*', study, re.MULTILINE)
    missing = {cell.id: not_produced(cell.source, *produced) for cell in notebook.cells if cell.cell_type == 'markdown'}
    assert {cell_id: numbers for cell_id, numbers in missing.items() if numbers} == {}


def test_page_is_one_file_that_loads_and_runs_nothing(name):
    page = (ROOT / 'notebooks' / f'{name}.html').read_text(encoding='utf-8')
    assert len(page) <= 1_200_000
    assert re.findall(r'<(?:script|link|iframe|object|embed)\b|\bon\w+="|@import|url\(|src="(?!data:)', page) == []


def test_page_shows_the_stored_run(name):
    """Most readers read the page: it says what the notebook says."""
    page = (ROOT / 'notebooks' / f'{name}.html').read_text(encoding='utf-8')
    shown, text = html.unescape(page), html.unescape(re.sub('<[^>]*>', '', page))
    words, signs = re.sub(r'\W', '', text), ''.join(text.split())
    for cell in read_notebook(name).cells:
        if cell.cell_type == 'markdown':
            same = re.sub(r'\]\([^)]*\)|\W', '', cell.source) in words
        else:
            same = all(''.join(each.split()) in signs for each in (cell.source, printed(cell)))
            same &= all(f'alt="{alt}" src="data:image/png;base64,{data}"' in shown for data, alt in pictures(cell))
        assert same, f'the page shows another {cell.id}: run "make pages"'


def test_plumbing_is_folded_and_the_rest_fits_on_a_screen(name):
    """Folded in JupyterLab alone, or on the page alone, or without a label, it buries the article."""
    cells = code_cells(read_notebook(name)).values()
    folded = [cell for cell in cells if 'hide-input' in cell.metadata.get('tags', [])]
    assert folded == [cell for cell in cells if cell.metadata.get('jupyter', {}).get('source_hidden')]
    assert 1 <= len(folded) <= 6
    assert [cell.id for cell in folded if not re.match('# [A-Z]', cell.source)] == []
    assert [cell.id for cell in cells if cell not in folded and cell.source.count('\n') >= 40] == []
    assert [(cell.id, line) for cell in cells for line in cell.source.splitlines()
            if len(line) > (120 if cell in folded else 100)] == []


def test_other_tools_find_what_they_need(name):
    """Papermill needs the tag, `nbconvert --to script` the extension; hosts of code do not show attachments."""
    notebook = read_notebook(name)
    assert [cell.id for cell in notebook.cells if 'parameters' in cell.metadata.get('tags', [])] == ['parameters']
    assert [cell.id for cell in notebook.cells if cell.get('attachments')] == []
    assert notebook.metadata.language_info.get('file_extension') == '.py', 'make refresh'


def test_what_notebooks_share_is_the_same():
    """Who knows one notebook knows the others, and a fault corrected in one is corrected in all."""
    basic, easy, conv = ({cell_id: cell.source for cell_id, cell in code_cells(read_notebook(name)).items()}
                         for name in NOTEBOOKS)
    for cell_id in ('setup', 'load_images', 'images', 'plot', 'look', 'train', 'measure'):
        assert basic[cell_id] == easy[cell_id], f'{cell_id} has drifted apart'
    for cell_id in ('load_images', 'add_noise', 'batches', 'measure'):
        assert easy[cell_id] == conv[cell_id], f'{cell_id} has drifted apart'
    assert conv['plot'].startswith(easy['plot']), 'plot has drifted apart'    # ConvDAE draws progress too
    lines = iter(easy['setup'].splitlines())    # of which some are for dense networks alone
    assert [line for line in conv['setup'].splitlines() if not any(each.startswith(line) for each in lines)] == []
    for part in ('^for name, limit in .*?\n    globals.*?$', '^def settings.*'):
        assert len({re.search(part, each['check'], re.DOTALL | re.MULTILINE)[0] for each in (basic, easy, conv)}) == 1


def test_curve_of_the_original_is_the_recorded_one(name):
    """Training is compared with what the notebook of 2017 printed, not with a slip of typing."""
    recorded = json.loads((ROOT / 'tests' / 'original_losses.json').read_text())[name]['mean_loss_per_epoch']
    losses = re.match(r'original_losses = (\[.*?\])', code_cells(read_notebook(name))['curve'].source, re.DOTALL)[1]
    assert json.loads(losses) == recorded
