"""What the texts say of their numbers is true, by the record of benchmarks/claims.py and what the stored runs printed.

A claim names the document, the sentence in it, and what has to hold. In a sentence # stands for a number, which the
claim is given; marks of emphasis, code and links are left out.
"""
import functools
import json
import re

import pytest
from helpers import NOTEBOOKS, ROOT, code_cells, pictures, printed, read_notebook

DOCUMENTS = ['README.md', *(f'{name}.ipynb' for name in NOTEBOOKS)]
NOT_PROSE = re.compile(r'```.*?```|^[|#].*?$|\]\([^)]*\)|[*[]|\b3\.1[1-4]\b', re.DOTALL | re.MULTILINE)    # or Pythons


@functools.cache
def prose(document):
    """Return the text of a document as a reader sees it, on one line, without headings, tables, settings."""
    text = (ROOT / document).read_text(encoding='utf-8')
    if document.endswith('.ipynb'):
        cells = json.loads(text)['cells']
        text = '\n\n'.join(''.join(cell['source']) for cell in cells if cell['cell_type'] == 'markdown')
    text = re.sub(r'`([^`\n]*)`', lambda code: '' if ' = ' in code[1] else code[1], NOT_PROSE.sub('', text))
    return ' '.join(text.split())


def pattern(sentence):
    """Return what finds a sentence, with a group for each #; for one space there may be several."""
    return re.escape(sentence).replace(r'\#', r'(\d[\d,]*(?:\.\d+)?)').replace(r'\ ', ' +')


def numbers(sentence, text):
    """Return the numbers that stand for # wherever the sentence is in a text: a tuple for each place."""
    return [tuple(float(number.replace(',', '')) for number in place.groups())
            for place in re.finditer(pattern(sentence), text)]


@functools.cache
def record():
    """Return what benchmarks/claims.py has recorded."""
    return json.loads((ROOT / 'benchmarks' / 'claims.json').read_text())


def after(epochs, network, measure='psnr'):
    """Return a figure of merit of a network of the record after so many epochs: a value for each seed that has it."""
    runs = record()[network]['runs'].values()
    return [run['measures'][str(epochs)][measure] for run in runs if str(epochs) in run['measures']]


def losses(network, epoch):
    """Return the loss of an epoch of a network of the record: a value for each seed that has it."""
    return [run['losses'][epoch - 1] for run in record()[network]['runs'].values() if len(run['losses']) >= epoch]


def lowest_highest(values, digits):
    """Return the range of values as a text would write it."""
    return round(min(values), digits), round(max(values), digits)


def ahead(values, others):
    """Return whether each value is above all of the others, so that no choice of seeds turns it round."""
    return min(values) > max(others)


@functools.cache
def table(name, column, cell_id='table'):
    """Return a column of a table that a stored run printed: from the name of a row to the number in it."""
    head, *rows = (re.split(' {2,}', line) for line in printed(code_cells(read_notebook(name))[cell_id]).splitlines())
    return {row[0]: float(row[head.index(column) - len(head)].replace(',', ''))
            for row in rows if len(row) > len(head) - head.index(column)}


def psnr(name, *rows):
    """Return the PSNR in rows of a stored table."""
    return tuple(table(name, 'PSNR (dB)')[row] for row in rows)


def ahead_in(name, row, other):
    """Return the columns in which a row of a stored table is ahead of another."""
    return {column for column, sign in COLUMNS.items()
            if sign * table(name, column)[row] > sign * table(name, column)[other]}


@functools.cache
def said(name, cell_id, sentence):
    """Return the numbers that stand for # where a cell of a stored run says that, also in the text of a figure."""
    cell = code_cells(read_notebook(name))[cell_id]
    return numbers(sentence, printed(cell) + ''.join(alt for _, alt in pictures(cell)))


COLUMNS = {'cross-entropy': -1, 'PSNR (dB)': 1, 'SSIM': 1}    # 1 where more is better
EASY, LINEAR, NARROW = 'EasyDAE, 32 numbers', 'linear map', 'linear map, 32 numbers'    # rows of EasyDAE's table
CLAIMS = [
    ('BasicAE.ipynb', 'in the original (# at the end; here #); at 0.001 it ends at #', lambda original, high, low: (
        said('BasicAE', 'curve', ': # at the end') == [(original,), (low,), (high,)] and original > high > low)),
    ('BasicAE.ipynb', 'the autoencoder is ahead of PCA from # to #', lambda least, most: all(
        (ours > pca) == (least <= size <= most)
        for size, ours, pca in said('BasicAE', 'size_curve', '# numbers: autoencoder # dB, PCA # dB'))),
    ('BasicAE.ipynb', 'was # on the training images, and it is # on the test images', lambda train, test: (
        said('BasicAE', 'train', 'loss #')[-1] == (train,) and said('BasicAE', 'results', 'entropy #') == [(test,)])),
    ('EasyDAE.ipynb', '# at the end in 2017, # here', lambda original, ours: (
        said('EasyDAE', 'curve', ': # at the end') == [(original,), (ours,)])),
    ('EasyDAE.ipynb', 'with five seeds ours ended between # and #', lambda *ends: (
        len(losses('dense 32', 30)) == 5 and lowest_highest(losses('dense 32', 30), 4) == ends)),
    ('EasyDAE.ipynb', "its PSNR is higher than the network's, # against # dB; in cross-entropy and SSIM the network is "
     'ahead', lambda *both: (
        psnr('EasyDAE', LINEAR, EASY) == both and ahead_in('EasyDAE', LINEAR, EASY) == {'PSNR (dB)'})),
    ('EasyDAE.ipynb', 'the linear map falls to # dB, below the network in every column', lambda *narrow: (
        psnr('EasyDAE', NARROW) == narrow and ahead_in('EasyDAE', EASY, NARROW) == {*COLUMNS})),
    ('EasyDAE.ipynb', 'was # on the training images; on the test images it is #', lambda train, test: (
        said('EasyDAE', 'train', 'loss #')[-1] == (train,) and table('EasyDAE', 'cross-entropy')[EASY] == test)),
    ('README.md', "has a higher PSNR than the article's dense network: # against # dB", lambda linear, network: (
        psnr('EasyDAE', LINEAR, EASY) == (linear, network) and linear > network)),
]


@pytest.mark.parametrize('document, sentence, holds', CLAIMS, ids=[f'{claim[0]}: {claim[1]}' for claim in CLAIMS])
def test_claim_stands_in_the_text_and_holds(document, sentence, holds):
    """A reader believes it."""
    places = numbers(sentence, prose(document))
    assert len(places) == 1, 'this is said no longer, or twice: change the claim with the sentence'
    assert holds(*places[0]), places[0]


@pytest.mark.parametrize('document', DOCUMENTS)
def test_sentence_with_two_results_is_a_claim(document):
    """Each number was produced, and still the wrong one may be called the higher."""
    text = prose(document)
    for _, sentence, _ in CLAIMS:
        text = re.sub(pattern(sentence), '', text)
    sentences = re.split(r'(?<=[.?!]) ', text)
    assert [each for each in sentences if len(re.findall(r'\d\.\d', each)) > 1] == []
