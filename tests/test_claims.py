"""What the texts say of their numbers is true, by the record of benchmarks/claims.py and what the stored runs printed.

A claim names the document, the sentence in it, and what has to hold. In a sentence # stands for a number, which the
claim is given; marks of emphasis, code and links are left out.
"""
import functools
import json
import re
from statistics import median

import claims
import numpy as np
import pytest
from compare import GRAPH, PLAIN, SIDES
from helpers import NOTEBOOKS, ROOT, code_cells, pictures, printed, read_notebook

DOCUMENTS = ['README.md', *(f'{name}.ipynb' for name in NOTEBOOKS)]
RECORD, SPEED = (json.loads((ROOT / 'benchmarks' / f'{name}.json').read_text()) for name in ('claims', 'compare'))
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


def after(epochs, network, measure='psnr'):
    """Return a measure of quality of a network in the record after so many epochs: a value for each seed."""
    return claims.measures_after(RECORD[network], epochs, measure)


def losses(network, epoch):
    """Return the loss of an epoch of a network of the record: a value for each seed that has it."""
    return [run['losses'][epoch - 1] for run in RECORD[network]['runs'].values() if len(run['losses']) >= epoch]


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


def speed(sides, name='ConvDAE'):
    """Return how many times longer a step takes on the fastest of sides than in the notebook, at least and at most."""
    runs = [[run[name]['sides'][side] for side in sides if side in run[name]['sides']] for run in SPEED.values()]
    times = sorted(min(run, key=lambda each: median(each['ms per step']))['times notebook'] for run in runs)
    return [each if each == 'level' else float(each) for each in (times[0], times[-1])]


def ahead_in(name, row, other):
    """Return the columns in which a row of a stored table is ahead of another."""
    return {column for column, sign in COLUMNS.items()
            if sign * table(name, column)[row] > sign * table(name, column)[other]}


@functools.cache
def said(name, cell_id, sentence):
    """Return the numbers that stand for # where a cell of a stored run says that, also in the text of a figure."""
    cell = code_cells(read_notebook(name))[cell_id]
    return numbers(sentence, printed(cell) + ''.join(alt for _, alt in pictures(cell)))


TORCH = {name: [side for side in SIDES[name] if 'PyTorch' in side and 'bfloat16' not in side] for name in SIDES}
REWRITTEN = [side for side in TORCH['ConvDAE'] if 'rewritten' in side]
COLUMNS = {'cross-entropy': -1, 'PSNR (dB)': 1, 'SSIM': 1}    # 1 where more is better
EASY, LINEAR, NARROW = 'EasyDAE, 32 numbers', 'full linear map', 'linear map, 32 numbers'    # rows of EasyDAE's table
SQUARED, CONV, DENSE = 'EasyDAE, squared error', 'convolutional', ('dense 32', 'dense 76', 'dense 512')
TRANSPOSED, BILINEAR = 'transposed convolutions', 'bilinear upsampling'
PATTERN = {each: after(10, each, 'highest frequencies') for each in (CONV, TRANSPOSED)}
AT_HIGH_RATE = [(run['dead units at 0.01'], run['losses at 0.01'][-1]) for run in RECORD['BasicAE']['runs'].values()]
CLAIMS = [
    ('BasicAE.ipynb', 'in the original (# at the end; here #); at 0.001 it ends at #', lambda original, high, low: (
        said('BasicAE', 'curve', ': # at the end') == [(original,), (low,), (high,)] and original > high > low)),
    ('BasicAE.ipynb', "# to # units died, and the loss ended between # and #, with the original's # between",
     lambda *ends: (
        sum((lowest_highest(each, 4) for each in zip(*AT_HIGH_RATE)), ()) == ends[:4] and len(AT_HIGH_RATE) == 5
        and ends[2] < ends[4] < ends[3] and ends[4:] in said('BasicAE', 'curve', ': # at the end'))),
    ('BasicAE.ipynb', 'the loss follows their number', lambda: (
        [loss for _, loss in sorted(AT_HIGH_RATE)] == sorted(loss for _, loss in AT_HIGH_RATE))),
    ('BasicAE.ipynb', 'At 0.001 it ended at # or #', lambda *ends: lowest_highest(losses('BasicAE', 20), 4) == ends),
    ('BasicAE.ipynb', 'least that is possible, #', lambda *least: said('BasicAE', 'results', 'possible: #') == [least]),
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
    ('EasyDAE.ipynb', "with five seeds the network's PSNR ends between # and # dB", lambda *ends: (
        len(after(30, 'dense 32')) == 5 and lowest_highest(after(30, 'dense 32'), 2) == ends
        and ends[1] < psnr('EasyDAE', LINEAR)[0])),
    ('EasyDAE.ipynb', 'itself, with three seeds, it ends between # and # dB', lambda *ends: (
        len(after(30, SQUARED)) == 3 and lowest_highest(after(30, SQUARED), 2) == ends
        and ends[1] < psnr('EasyDAE', LINEAR)[0])),
    ('EasyDAE.ipynb', 'the linear map falls to # dB, behind the network in all three measures', lambda *narrow: (
        psnr('EasyDAE', NARROW) == narrow and ahead_in('EasyDAE', EASY, NARROW) == {*COLUMNS})),
    ('EasyDAE.ipynb', 'the narrow place costs the linear map # dB, and the network wins back #', lambda *both: (
        tuple(np.round(np.subtract(psnr('EasyDAE', LINEAR, EASY), psnr('EasyDAE', NARROW)), 1)) == both)),
    ('EasyDAE.ipynb', 'was # on the training images; on the test images it is #', lambda train, test: (
        said('EasyDAE', 'train', 'loss #')[-1] == (train,) and table('EasyDAE', 'cross-entropy')[EASY] == test)),
    ('ConvDAE.ipynb', ' + '.join(['# x #'] * 9) + ', and the bias #, make #', lambda *numbers: (
        [float(each) for each in re.findall(r'\d+\.\d*', printed(code_cells(read_notebook('ConvDAE'))['filters']))]
        == [*numbers[:18:2], *numbers[1:18:2], *numbers[18:]]
        and abs(np.dot(numbers[:18:2], numbers[1:18:2]) + numbers[18] - numbers[19]) < 0.02)),
    ('ConvDAE.ipynb', "ends at #, that of the original's one run at #", lambda ours, original: (
        said('ConvDAE', 'curve', ': # at the end') == [(original,), (ours,)])),
    ('ConvDAE.ipynb', 'with five seeds ours ended between # and #', lambda *ends: (
        lowest_highest(losses(CONV, 10), 4) == ends and len(losses(CONV, 10)) == 5 and ends[0] < 0.0996 < ends[1])),
    ('ConvDAE.ipynb', 'clean test images # per mille changes from one pixel to the next, as a checkerboard does, in '
     'images that this network has denoised # to #, '
     'and with transposed convolutions in its decoder # to #: a little more, but far less than', lambda clean, *ends: (
        lowest_highest(PATTERN[CONV], 2) + lowest_highest(PATTERN[TRANSPOSED], 2) == ends
        and round(RECORD[CONV]['highest frequencies of clean images'], 2) == clean > 2 * ends[-1]
        and ahead(PATTERN[TRANSPOSED], PATTERN[CONV]) and [*map(len, PATTERN.values())] == [5, 3])),
    ('ConvDAE.ipynb', 'In PSNR the two are level', lambda: (
        not ahead(after(10, CONV), after(10, TRANSPOSED)) and not ahead(after(10, TRANSPOSED), after(10, CONV)))),
    ('ConvDAE.ipynb', 'with five seeds it reaches # to # dB after 10 epochs, with bilinear interpolation in its place, '
     'and three seeds, # to #', lambda *ends: (
        lowest_highest(after(10, CONV), 2) + lowest_highest(after(10, BILINEAR), 2) == ends
        and ahead(after(10, CONV), after(10, BILINEAR)) and len(after(10, BILINEAR)) == 3)),
    ('ConvDAE.ipynb', 'the convolutional network is ahead of all dense ones in all three measures', lambda: all(
        ahead_in('ConvDAE', CONV, dense) == {*COLUMNS} for dense in DENSE)),
    ('ConvDAE.ipynb', 'After two epochs the large dense network is ahead with every seed, after five the two are level',
     lambda: (ahead(after(2, 'dense 512'), after(2, CONV)) and not ahead(after(5, 'dense 512'), after(5, CONV))
              and not ahead(after(5, CONV), after(5, 'dense 512')))),
    ('ConvDAE.ipynb', 'of the one with as many hidden numbers, # against # dB. That is not chance: with five seeds the '
     'one ends between # and # dB, the other between # and #.', lambda ours, dense, *ends: (
        psnr('ConvDAE', CONV, 'dense 512') == (ours, dense) and len(after(10, CONV)) == len(after(10, 'dense 512')) == 5
        and lowest_highest(after(10, CONV), 2) + lowest_highest(after(10, 'dense 512'), 2) == ends
        and ahead(after(10, CONV), after(10, 'dense 512')))),
    ('ConvDAE.ipynb', 'After 30 epochs it is # to # against # to # dB', lambda *ends: (
        lowest_highest(after(30, CONV), 2) + lowest_highest(after(30, 'dense 512'), 2) == ends
        and ahead(after(30, CONV), after(30, 'dense 512')))),
    ('ConvDAE.ipynb', 'the dense network has # dB, with five seeds # to #', lambda one, *ends: (
        psnr('ConvDAE', 'dense 76') == (one,) and lowest_highest(after(10, 'dense 76'), 2) == ends
        and len(after(10, 'dense 76')) == 5 and ahead(after(10, CONV), after(10, 'dense 76')))),
    ('ConvDAE.ipynb', 'an epoch takes # s, with the large dense network # s. That one trains for 150 epochs in less '
     'time than the convolutional network for 10, and is then at # to # dB', lambda slow, quick, *ends: (
        tuple(round(claims.pace(RECORD[each]), 1) for each in (CONV, 'dense 512')) == (slow, quick)
        and 150 * quick < 10 * slow
        and lowest_highest(after(150, 'dense 512'), 2) == ends
        and ahead(after(150, 'dense 512'), after(10, CONV)))),
    ('ConvDAE.ipynb', 'comes to the same after some 20 epochs (# to # dB), and is ahead at 30', lambda *ends: (
        lowest_highest(after(20, CONV), 2) == ends and max(after(20, CONV)) > min(after(150, 'dense 512'))
        and ahead(after(30, CONV), after(150, 'dense 512')))),
    ('ConvDAE.ipynb', 'it is far worse, # against # dB', lambda *both: (
        [both] == said('ConvDAE', 'page', ': # dB in one piece, # dB in tiles') and both[0] < both[1])),
    ('ConvDAE.ipynb', 'from # to # dB the 6 and the 4 become whole; between # and # only some grain', lambda *four: (
        four == tuple(np.round(psnr('ConvDAE', 'dense 32', CONV, 'dense 512', CONV), 1)))),
    ('README.md', "takes # to # times as long in the original's loop (in the graph API of today's TensorFlow) and # to "
     '# times in plain Keras', lambda *times: [*times] == speed([GRAPH]) + speed(['notebook, `fast = False`'])),
    ('README.md', "takes # to # times as long with the article's layers as they are, # to # times when they are "
     'rewritten as in the notebook; as they are, with the default Adam and malloc, # to # times', lambda *times: (
        [*times] == speed({*TORCH['ConvDAE']} - {*REWRITTEN}) + speed(REWRITTEN) + speed([PLAIN]))),
    ('README.md', 'BasicAE is level with PyTorch at the fastest measured; in EasyDAE the ranges overlap', lambda: (
        {*speed(TORCH['BasicAE'], 'BasicAE'), *speed(TORCH['EasyDAE'], 'EasyDAE')} == {'level'})),
    ('README.md', 'its convolutional network is at # to # dB, a dense network with as many hidden numbers (512) at # '
     'to #, one with as many weights (76 hidden numbers) at # to #', lambda *ends: (
        sum((lowest_highest(after(10, each), 2) for each in (CONV, 'dense 512', 'dense 76')), ()) == ends
        and all(ahead(after(each, CONV), after(each, 'dense 512')) for each in (10, 15, 20, 25, 30))
        and ahead(after(10, 'dense 512'), after(10, 'dense 76')))),
    ('README.md', 'the dense network with 512 hidden numbers is at # to # dB', lambda *ends: (
        lowest_highest(after(150, 'dense 512'), 2) == ends
        and 150 * claims.pace(RECORD['dense 512']) < 10 * claims.pace(RECORD[CONV]))),
    ('README.md', "has a higher PSNR than the article's dense network: # against # dB. It has twelve times "
     'the weights, and is behind in the two other measures of quality', lambda linear, network: (
        psnr('EasyDAE', LINEAR, EASY) == (linear, network) and ahead_in('EasyDAE', LINEAR, EASY) == {'PSNR (dB)'}
        and round(table('EasyDAE', 'weights')[LINEAR] / table('EasyDAE', 'weights')[EASY]) == 12)),
]


@pytest.mark.parametrize('document, sentence, holds', CLAIMS, ids=[f'{claim[0]}: {claim[1]}' for claim in CLAIMS])
def test_claim_stands_in_the_text_and_holds(document, sentence, holds):
    places = numbers(sentence, prose(document))
    assert len(places) == 1, 'this is said no longer, or twice: change the claim with the sentence'
    assert holds(*places[0]), places[0]


def test_table_of_the_readme_is_of_the_stored_runs():
    rows = re.findall(r'^\| \[(\w+)\].*\| ([^|]*) \| (\d+) s \|$', (ROOT / 'README.md').read_text(), re.MULTILINE)
    results = [*said('BasicAE', 'results', 'PSNR #'), psnr('EasyDAE', 'noisy', EASY), psnr('ConvDAE', 'noisy', CONV)]
    assert [tuple(map(float, re.findall(r'\d+\.\d+', result))) for _, result, _ in rows] == results
    assert [float(seconds) for *_, seconds in rows] == [said(name, 'train', ', # s')[-1][0] for name in NOTEBOOKS]


@pytest.mark.parametrize('document', DOCUMENTS)
def test_sentence_with_two_results_is_a_claim(document):
    """Each number was produced, and still the wrong one may be called the higher."""
    text = prose(document)
    for each, sentence, _ in CLAIMS:
        text = re.sub(pattern(sentence), '', text) if each == document else text
    assert [each for each in re.split(r'(?<=[.?!]) ', text) if len(re.findall(r'\d\.\d', each)) > 1] == [], 'CLAIMS'
