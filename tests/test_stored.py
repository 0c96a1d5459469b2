"""The stored runs are of today's cells, clean and on the full MNIST; texts, pages and shared cells agree."""
import base64
import html
import json
import re

import pytest
from conftest import NOTEBOOKS, ROOT, code_cells, read_notebook
from produced import all_of, assert_clean, not_produced, pictures, printed, stored_run

LARGEST_LOSS = {'BasicAE': 0.075, 'EasyDAE': 0.130, 'ConvDAE': 0.103}
RESULT = {'BasicAE': 'rows', 'EasyDAE': 'denoise', 'ConvDAE': 'compare'}    # cells that draw the opening picture
LOSSES = ROOT.parent / 'shared' / 'reference' / 'original_losses.json'


def test_outputs_are_of_todays_cells(name):
    """Else a reader sees results that the code beside them did not give; other tests of outputs are skipped then."""
    stored_run(name, older=lambda message: pytest.fail(message, pytrace=False))


def test_stored_run_is_one_clean_run(name):
    cells = code_cells(stored_run(name))
    assert [cell.execution_count for cell in cells.values()] == list(range(1, len(cells) + 1))
    assert_clean(stored_run(name))


def test_stored_run_is_full_and_good(name):
    """Results of a part of the data, of fewer epochs or of a bad run would pass for what the network can do."""
    cells, parameters = code_cells(stored_run(name)), {}
    exec(cells['parameters'].source, parameters)
    assert '60,000 training images and 10,000 test images' in printed(cells['images'])
    epoch, loss = re.findall(r'epoch +(\d+)/.*loss ([0-9.]+)', printed(cells['train']))[-1]
    assert int(epoch) == parameters['epochs']
    assert float(loss) <= LARGEST_LOSS[name]
    ((_, description),) = pictures(cells['curve'])
    assert description.startswith('Training loss, compared with the original')


def test_notebook_opens_with_the_picture_of_its_result(name):
    """The first thing to see is what it is all about, and the README shows ConvDAE's."""
    cells = code_cells(stored_run(name))
    (opening,) = pictures(cells['setup'])
    assert [opening] == pictures(cells[RESULT[name]])
    if name == 'ConvDAE':
        assert (ROOT / 'notebooks' / 'denoised.png').read_bytes() == base64.b64decode(opening[0]), 'make refresh'


def test_summary_of_the_network_is_shown(name):
    """The layers, their outputs and numbers of weights at a glance."""
    cells = code_cells(stored_run(name))
    assert 'Total params' in printed(cells['decoder' if name == 'ConvDAE' else 'model'])


def test_numbers_in_the_text_are_in_the_code_or_the_outputs(name):
    """A sentence that names a number which nothing produced misleads; those on seeds come from their record."""
    notebook, seeds = stored_run(name), (ROOT / 'benchmarks' / 'seeds.json').read_text()
    missing = {cell.id: not_produced(cell.source, all_of(notebook), seeds)
               for cell in notebook.cells if cell.cell_type == 'markdown'}
    assert {cell_id: numbers for cell_id, numbers in missing.items() if numbers} == {}


def test_page_shows_the_stored_run(name):
    """Most readers read the page: it says what the notebook says, in one file that loads and runs nothing."""
    notebook = stored_run(name)
    page = (ROOT / 'notebooks' / f'{name}.html').read_text(encoding='utf-8')
    assert len(page.encode()) <= 1_000_000
    assert re.findall(r'<(?:script|link|iframe|object|embed)\b|\bon\w+="|@import|url\(|src="(?!data:)', page) == []
    shown, text = html.unescape(page), html.unescape(re.sub('<[^>]*>', '', page))
    words, signs = re.sub(r'\W', '', text), ''.join(text.split())
    for cell in notebook.cells:
        if cell.cell_type == 'markdown':
            same = re.sub(r'\]\([^)]*\)|\W', '', cell.source) in words
        else:
            same = all(''.join(each.split()) in signs for each in (cell.source, printed(cell)))
            same &= all(f'alt="{alt}" src="data:image/png;base64,{data}"' in shown for data, alt in pictures(cell))
        assert same, f'the page shows another {cell.id}: run "make pages"'


def test_plumbing_is_folded_and_the_rest_fits_on_a_screen(name):
    """Folded in JupyterLab alone, or on the page alone, or without a label, it buries the article.

    Papermill needs the tag `parameters`; hosts of code show an empty frame in place of an attachment.
    """
    cells = read_notebook(name).cells
    folded = [cell for cell in cells if 'hide-input' in cell.metadata.get('tags', [])]
    assert folded == [cell for cell in cells if cell.metadata.get('jupyter', {}).get('source_hidden')]
    assert 1 <= len(folded) <= 5
    assert [cell.id for cell in folded if not re.match('# [A-Z]', cell.source)] == []
    assert [cell.id for cell in cells if 'parameters' in cell.metadata.get('tags', [])] == ['parameters']
    assert [cell.id for cell in cells if cell.get('attachments')] == []
    for cell in code_cells(read_notebook(name)).values():
        lines = cell.source.splitlines()
        assert cell in folded or len(lines) <= 40, f'{cell.id} has {len(lines)} lines'
        assert max(map(len, lines)) <= (120 if cell in folded else 100), f'{cell.id} has a line that is too long'


def test_what_notebooks_share_is_the_same():
    """Who knows one notebook knows the others, and a fault corrected in one is corrected in all."""
    basic, easy, conv = ({cell_id: cell.source for cell_id, cell in code_cells(read_notebook(name)).items()}
                         for name in NOTEBOOKS)
    for cell_id in ('setup', 'load_images', 'images', 'plot', 'look', 'network', 'train', 'measure'):
        assert basic[cell_id] == easy[cell_id], f'{cell_id} has drifted apart'
    for cell_id in ('load_images', 'look', 'add_noise', 'noise', 'network', 'batches', 'measure', 'linear'):
        assert easy[cell_id] == conv[cell_id], f'{cell_id} has drifted apart'
    assert re.sub('\n.*set_intra_op.*', '', easy['setup']) == conv['setup']
    assert conv['plot'].startswith(easy['plot']), 'plot has drifted apart'    # ConvDAE draws progress too
    for cell_id in ('train', 'table'):    # what they begin with
        assert easy[cell_id].split('\n\n')[0] == conv[cell_id].split('\n\n')[0], f'{cell_id} has drifted apart'
    assert len({re.search('    kind = .*?cells\\.', each['check'], re.DOTALL)[0] for each in (basic, easy, conv)}) == 1


@pytest.mark.skipif(not LOSSES.exists(), reason='the record of the original losses is not beside this checkout')
def test_curve_of_the_original_is_the_recorded_one(name):
    """Training is compared with what the notebook of 2017 printed, not with a slip of typing."""
    losses = re.match(r'original_losses = (\[.*?\])', code_cells(read_notebook(name))['curve'].source, re.DOTALL)[1]
    assert json.loads(losses) == json.loads(LOSSES.read_text())[name]['mean_loss_per_epoch']
