"""What is committed: the stored runs are of today's cells, clean and on the full MNIST; texts and tables agree."""
import base64
import html
import itertools
import json
import re
import subprocess
from statistics import median

import pytest
from compare import table, waiting
from conftest import ARCHIVES, NOTEBOOKS, ROOT, code_cell, read_notebook, stream_text
from run_notebooks import PICTURE, RESULT, code_digest

LIMITS = {'BasicAE': 0.075, 'EasyDAE': 0.130, 'ConvDAE': 0.103}
EPOCHS = {'BasicAE': 20, 'EasyDAE': 30, 'ConvDAE': 10}
ORIGINAL = {'BasicAE': 0.0950, 'EasyDAE': 0.1269, 'ConvDAE': 0.0996}
ANSI = re.compile(r'\x1b\[[0-9;]*m')


def code_cells(notebook):
    """Return the code cells."""
    return [cell for cell in notebook.cells if cell.cell_type == 'code']


def outputs(notebook):
    """Return the outputs of all cells."""
    return [output for cell in code_cells(notebook) for output in cell.outputs]


def final_loss(notebook):
    """Return the loss of the last epoch that the stored run printed under the cell 'train'."""
    return float(re.findall(r'loss ([0-9.]+)', stream_text([code_cell(notebook, 'train')]))[-1])


@pytest.mark.parametrize('name', NOTEBOOKS)
def test_outputs_are_of_one_run_of_todays_cells(name):
    notebook = read_notebook(name)
    counts = [cell.execution_count for cell in code_cells(notebook)]
    assert counts == list(range(1, len(counts) + 1))
    assert notebook.metadata.executed_code_sha256 == code_digest(notebook), \
        'a code cell has changed since the outputs were stored: run "make refresh"'


@pytest.mark.parametrize('name', NOTEBOOKS)
def test_outputs_are_clean(name):
    notebook = read_notebook(name)
    assert not [output for output in outputs(notebook) if output.output_type == 'error']
    assert stream_text(notebook.cells, 'stderr') == ''
    printed = stream_text(notebook.cells)
    assert not re.search(r'[\r\b]|warning', printed, re.IGNORECASE)
    assert not re.search(r'(^|\s)/\w', printed), 'a path of the machine that ran it'
    for output in outputs(notebook):
        if 'image/png' in output.get('data', {}):
            assert len(output.metadata['image/png']['alt']) > 40


@pytest.mark.parametrize('name', NOTEBOOKS)
def test_stored_run_is_full_and_good(name):
    notebook = read_notebook(name)
    printed = stream_text(notebook.cells)
    assert 'train_images: 60,000 images' in printed
    assert 'test_images: 10,000 images' in printed
    assert f'epoch {EPOCHS[name]:2}/{EPOCHS[name]}  ' in printed
    assert final_loss(notebook) <= LIMITS[name]
    curve = code_cell(notebook, 'curve')
    assert f'epoch {EPOCHS[name]}: loss {ORIGINAL[name]:.4f}, the original, 2017\n' in stream_text([curve])
    (figure,) = (output for output in curve.outputs if output.output_type == 'display_data')
    assert 'NOT COMPARABLE' not in figure.metadata['image/png']['alt']


@pytest.mark.parametrize('name', ['EasyDAE', 'ConvDAE'])
def test_each_row_of_the_table_is_better_than_the_one_above(name):
    table = stream_text([code_cell(read_notebook(name), 'table')]).splitlines()[1:]
    results = [[float(number) for number in line.split()[-3:]] for line in table]
    assert len(results) == (3 if name == 'EasyDAE' else 4)    # the last are the originals
    for before, after in itertools.pairwise(results):
        assert after[0] < before[0]    # cross-entropy
        assert after[1] > before[1]    # PSNR
        assert after[2] > before[2]    # SSIM


@pytest.mark.parametrize('name', NOTEBOOKS)
def test_page_shows_the_stored_run(name):
    notebook = read_notebook(name)
    page = (ROOT / 'notebooks' / f'{name}.html').read_text(encoding='utf-8')
    text = html.unescape(re.sub(r'<[^>]*>', '', page))
    words = re.sub(r'\W', '', text)
    for cell in notebook.cells:
        if cell.cell_type == 'markdown':
            for description in re.findall(r'!\[([^]]*)\]', cell.source):
                assert f'alt="{description}"' in page
            written = re.sub(r'!\[[^]]*\]\([^)]*\)|\]\([^)]*\)', '', cell.source)
            assert re.sub(r'\W', '', written) in words, \
                f'the page has another text {cell.id}: run "make pages"'
    for cell in code_cells(notebook):
        assert ''.join(cell.source.split()) in ''.join(text.split()), f'the page has another cell {cell.id}'
        for output in cell.outputs:
            if output.output_type == 'stream':
                assert output.text in text
            elif 'image/png' in output.data:
                assert ''.join(output.data['image/png'].split()) in ''.join(page.split())
                assert f'alt="{output.metadata["image/png"]["alt"]}"' in html.unescape(page)


@pytest.mark.parametrize('name', NOTEBOOKS)
def test_notebook_opens_with_the_picture_of_its_result(name):
    notebook = read_notebook(name)
    (drawn,) = (output.data['image/png'] for output in code_cell(notebook, RESULT[name]).outputs
                if 'image/png' in output.get('data', {}))
    picture = notebook.cells[0].attachments['result.png']['image/png']
    assert base64.b64decode(picture) == base64.b64decode(drawn)
    assert '](attachment:result.png)' in notebook.cells[0].source
    if name == 'ConvDAE':
        assert PICTURE.read_bytes() == base64.b64decode(picture)


@pytest.mark.parametrize('name', NOTEBOOKS)
def test_cells_are_readable(name):
    notebook = read_notebook(name)
    for cell in code_cells(notebook):
        assert len(cell.source.splitlines()) <= 40, f'{cell.id} is long'
        # A page of 1,100 pixels shows 120 characters of code.
        assert max(map(len, cell.source.splitlines())) <= 115, f'{cell.id} is wider than a page'
    tagged = [cell.id for cell in notebook.cells if 'parameters' in cell.metadata.get('tags', [])]
    assert tagged == ['parameters']
    prose = ' '.join(cell.source for cell in notebook.cells if cell.cell_type == 'markdown')
    assert not re.search(r'\b(just|simply|easily|obviously)\b', prose, re.IGNORECASE)


def test_cells_that_notebooks_share_are_the_same():
    first, *others = ({cell.id: cell.source for cell in code_cells(read_notebook(name))} for name in NOTEBOOKS)
    for cell_id in ('setup', 'hardware', 'download', 'folder', 'load_images', 'plot_rows', 'progress', 'train',
                    'plot_losses'):
        for other in others:
            assert other[cell_id] == first[cell_id], f'{cell_id} has drifted apart'
    easy, conv = others
    for cell_id in ('add_noise', 'denoise', 'measure', 'table'):
        assert easy[cell_id] == conv[cell_id], f'{cell_id} has drifted apart'
    for cell_id in ('plot_network', 'threads', 'images', 'model', 'compile'):
        same = first[cell_id].replace('BasicAE', 'EasyDAE').replace("name='image'", "name='noisy_image'")
        assert easy[cell_id] == same, f'{cell_id} has drifted apart'


def test_numbers_of_the_original_are_the_recorded_ones():
    reference = ROOT.parent / 'shared' / 'reference' / 'original_losses.json'
    if not reference.exists():
        pytest.skip('the record of the original losses is not beside this checkout')
    recorded = json.loads(reference.read_text())
    for name in NOTEBOOKS:
        namespace = {}
        source = code_cell(read_notebook(name), 'curve').source
        exec(source.split('\n\n')[0], namespace)
        assert namespace['original_losses'] == recorded[name]['mean_loss_per_epoch']


def test_archives_of_mnist_are_not_committed():
    if not (ROOT / '.git').exists():
        pytest.skip('this is not a checkout of git')
    tracked = subprocess.run(['git', 'ls-files'], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    archives = sorted(path for path in tracked.splitlines() if path.endswith('.gz'))
    assert archives == sorted(f'MNIST_data/sample/{name}' for name in ARCHIVES.values())


def seed_rows():
    """Return the README's rows on the spread over seeds, as the recorded runs have them."""
    recorded = json.loads((ROOT / 'benchmarks' / 'seeds.json').read_text())
    rows = []
    for name in NOTEBOOKS:
        runs = {name: recorded[name]['final losses']}
        if name == 'BasicAE':
            runs[f"{name}, the original's learning rate"] = recorded[name]['final losses at the original learning rate']
        for label, losses in runs.items():
            spread = f'{median(losses):.4f} ({min(losses):.4f} to {max(losses):.4f})'
            inside = 'yes' if min(losses) <= ORIGINAL[name] <= max(losses) else 'no'
            rows.append(f'| {label} | {ORIGINAL[name]:.4f} | {spread} | {len(losses)} | {inside} |')
    return rows


def result_rows():
    """Return the README's rows of figures of merit, as the stored run of ConvDAE printed them."""
    printed = stream_text([code_cell(read_notebook('ConvDAE'), 'table')]).splitlines()[1:]
    return ['| ' + ' | '.join(re.split(r'  +', line.strip())) + ' |' for line in printed]


def notebook_rows():
    """Return the README's rows on the notebooks: what they build, PSNR and time of training of the stored runs."""
    texts = {'BasicAE': ('dense, 784 - 64 - 784', 'what 64 numbers can hold; how 2 to 256 compare with PCA'),
             'EasyDAE': ('dense, 784 - 32 - 784', 'noise in, clean digits out'),
             'ConvDAE': ('convolutional, 28x28x1 - 4x4x32 - 28x28x1', 'why convolutions do it better, '
                                                                      'and why to upsample first')}
    rows = []
    for name, (network, shows) in texts.items():
        notebook = read_notebook(name)
        if name == 'BasicAE':
            printed = stream_text([code_cell(notebook, 'measure')])
            quality = re.search(r'PSNR ([0-9.]+) dB', printed)[1] + ' dB, rebuilt'
        else:
            lines = stream_text([code_cell(notebook, 'table')]).splitlines()[1:]
            before, after = (re.findall(r'[0-9.]+', line)[1] for line in (lines[0], lines[-2]))
            quality = f'{before} dB noisy, {after} dB denoised'
        (line,) = (output.data['text/plain'] for output in code_cell(notebook, 'train').outputs
                   if output.output_type == 'display_data')
        seconds = re.fullmatch(r'468 steps in each epoch, (\d+) s in all', line)[1]
        rows.append(f'| [{name}]({name}.ipynb) | {network} | {shows} | {quality} | {seconds} s |')
    return rows


@pytest.mark.parametrize('rows', [notebook_rows, seed_rows, result_rows])
def test_readme_holds_the_recorded_results(rows):
    readme = (ROOT / 'README.md').read_text(encoding='utf-8').splitlines()
    for row in rows():
        assert row in readme


def test_seeds_are_those_of_full_runs():
    recorded = json.loads((ROOT / 'benchmarks' / 'seeds.json').read_text())
    for name in NOTEBOOKS:
        assert recorded[name]['epochs'] == EPOCHS[name]
        assert len(recorded[name]['final losses']) == len(recorded[name]['seeds']) >= 3
        assert max(recorded[name]['final losses']) <= LIMITS[name]
        # The stored run is the one of seed 0.
        assert recorded[name]['final losses'][0] == final_loss(read_notebook(name))


def test_the_more_units_die_the_higher_the_loss():
    recorded = json.loads((ROOT / 'benchmarks' / 'seeds.json').read_text())['BasicAE']
    runs = sorted(zip(recorded['dead units at the original learning rate'],
                      recorded['final losses at the original learning rate']))
    losses = [loss for _, loss in runs]
    assert losses == sorted(losses)
    readme = (ROOT / 'README.md').read_text(encoding='utf-8')
    assert f'{runs[0][0]} to {runs[-1][0]} of the 64 hidden units die' in readme


NUMBER = re.compile(r'(?<![\w.,])\d+(?:,\d{3})*(?:\.\d+)?(?:e-?\d+)?(?![\w]|\.\d)')


def numbers(text):
    """Return the numbers in a text, as they are written but for the thousands separators."""
    return {number.replace(',', '') for number in NUMBER.findall(ANSI.sub('', text))}


def produced(notebook):
    """Return the numbers in the code and in the outputs of a notebook."""
    texts = [cell.source for cell in code_cells(notebook)]
    for output in outputs(notebook):
        texts.append(output.get('text', '') + str(output.get('data', {}).get('text/plain', '')))
        texts.append(str(output.get('metadata', {}).get('image/png', {})))
    return numbers(re.sub(r'[()\[\]x=*,:]', ' ', '\n'.join(texts).replace(',', ' '))) | numbers('\n'.join(texts))


def prose(markdown):
    """Return a text without code, addresses and the numbers of years and suggestions in them."""
    return re.sub(r'SHA-256|```.*?```|`[^`]*`|\]\([^)]*\)|https?://\S+|\b201[67]\b', ' ', markdown, flags=re.DOTALL)


@pytest.mark.parametrize('name', NOTEBOOKS)
def test_numbers_in_the_text_are_in_code_or_outputs(name):
    notebook = read_notebook(name)
    text = '\n'.join(prose(cell.source) for cell in notebook.cells if cell.cell_type == 'markdown')
    assert numbers(text.replace(' x ', ' ')) - produced(notebook) == set()


def test_numbers_in_the_readme_are_recorded():
    readme = (ROOT / 'README.md').read_text(encoding='utf-8')
    recorded = numbers((ROOT / 'benchmarks' / 'seeds.json').read_text())
    for name in NOTEBOOKS:
        recorded |= produced(read_notebook(name))
    recorded |= numbers('\n'.join([*seed_rows(), *notebook_rows()]))
    comparison = json.loads((ROOT / 'benchmarks' / 'compare.json').read_text())
    recorded |= numbers('\n'.join([*table(comparison), *waiting(comparison)]))
    elsewhere = {'5000',             # digits in the sample: test_data.py counts them
                 '20585',            # an issue of Keras
                 '3.11', '3.13',     # versions of Python
                 '3.0'}              # of a licence
    assert numbers(prose(readme)) - recorded - elsewhere == set()
