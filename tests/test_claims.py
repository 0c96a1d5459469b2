"""Every number in the texts is what its source holds, and comparisons that the texts make hold in the sources.

A source is what a cell of a stored run showed, a part of the record of benchmarks/claims.py or of compare.py. A
reworded sentence needs no change here; another number does, in SOURCES, and a new comparison an entry in COMPARISONS.
Sentences are not understood: that one says what COMPARISONS holds, and no more, is for you to read.
"""
import json
import re

import claims
import pytest
from compare import BEST, FUSED, GRAPH, PLAIN, SINGLE, digest, read_cells
from helpers import ROOT, code_cells, pictures, printed, read_notebook, table

RECORD, SPEED = (json.loads((ROOT / 'benchmarks' / f'{name}.json').read_text()) for name in ('claims', 'compare'))
NUMBER = re.compile(r'(?<![\w.,])\d[\d,]*(?:\.\d+)?(?!\w)')
NOT_PROSE = re.compile(r'```.*?```|`[^`]*`|\]\([^)]*\)|https?://\S+', re.DOTALL)
CONV, SKIP = 'convolutional', 'skip connections'


def numbers(text):
    """Return the numbers in a text, as they are written; in 28x28x1 there are three, and in 13th there is one."""
    return {number.rstrip(',') for number in NUMBER.findall(re.sub(r'(?<=\d)(x(?=\d)|(st|nd|rd|th)\b)', ' ', text))}


def prose(document):
    """Return the text of a document as a reader sees it, without code and links."""
    text = (ROOT / document).read_text(encoding='utf-8')
    if document.endswith('.ipynb'):
        text = '\n\n'.join(cell.source for cell in read_notebook(document[:-6]).cells if cell.cell_type == 'markdown')
    return NOT_PROSE.sub(' ', text)


def shown(name, cell):
    """Return all text that a cell of a stored run showed, also in its figures' descriptions."""
    cell = code_cells(read_notebook(name))[cell]
    return printed(cell) + ''.join(alt for _, alt in pictures(cell))


def rows(name, cell='table'):
    """Return the table that a cell of a stored run showed: from the name of a row to its numbers by their headings."""
    return table(code_cells(read_notebook(name))[cell])


def after(epochs, network, measure='psnr'):
    """Return a measure of quality of a network of the study after so many epochs: a value for each seed."""
    return claims.measures_after(RECORD[network], epochs, measure)


def losses(network, epoch, key='losses'):
    """Return the loss of an epoch of a network of the study: a value for each seed that has it."""
    return [run[key][epoch - 1] for run in RECORD[network]['runs'].values() if len(run[key]) >= epoch]


def ends(values, digits):
    """Return the lowest and the highest of some values as a text would write them."""
    return f'{min(values):.{digits}f} {max(values):.{digits}f}'


def ahead(values, others):
    """Return whether each value is above all of the others, so that no choice of seeds turns it round."""
    return min(values) > max(others)


def speed(name, side):
    """Return how many times longer than in a notebook a step takes there, in each run of today's cells."""
    runs = [run[name]['sides'] for run in SPEED.values() if run.get(name, {}).get('cells') == digest(name)]
    return ' '.join(sides[side]['times notebook'] for sides in runs if side in sides)


# From a document to its sources, and from each to the numbers that it gives, as they are written. `given`: sizes,
# settings, years, and numbers that count what is there to see.
SOURCES = {
    'BasicAE.ipynb': {
        'given': '0 1 2 4 6 8 9 10 14 28 32 64 128 255 256 784 2017 50,240 0.01', 'train': '0.0733',
        'holds': '10 14 26 41 43', 'results': '0.0728 0.0581 0.2625', 'original': '0.0950',
        'dead units': '26 33 0.0886 0.0958'},
    'EasyDAE.ipynb': {
        'given': '0 1 2 3 4 5 8 16 32 64 2017 0.001 0.999 0.5 1.0 1.5', 'train': '0.1278', 'original': '0.1269',
        'dense 32 after 30': '0.1239 0.1289 17.12 17.47', 'EasyDAE, squared error after 30': '17.12 17.42',
        'average_table': '1.8 148.4', 'table': '16.72 17.19 17.73'},
    'ConvDAE.ipynb': {
        'given': '0 0.5 1 2 3 4 5 6 7 8 16 20 28 30 32 64 76 100 150 512 2008 2016 2017', 'train': '0.1015',
        'original': '0.0996', 'convolutional after 10': '0.0989 0.1015 19.49 19.80', 'table': '121,281',
        'convolutional after 30': '20.14 20.19', 'dense 76 after 10': '18.24 18.37', 'clipped noise': '0.195 0.805',
        'dense 512 after 10': '19.30 19.34', 'dense 512 after 30': '19.76 19.82',
        'dense 512 after 150': '20.09 20.11', 'dense 512 with a bypass after 10': '19.43 19.45',
        'skip connections after 3': '19.89 20.06', 'skip connections after 5': '20.27 20.39',
        'skip connections after 10': '20.61 20.74', 'compare': '17.0 18.4 19.3', 'plain chain after 3': '19.85 19.96',
        'noisy targets, undone after 10': '19.26 19.32', 'page': '15.56 19.32'},
    'README.md': {
        'given': '0 0.5 1 2.16 3.0 3.3 3.11 3.12 3.13 3.14 4 10 19 28 32 64 76 100 150 512 784 2017 5,000',
        'BasicAE results': '24.96', 'BasicAE train': '7.62', 'EasyDAE train': '9.9', 'speed as it comes': '2.41',
        'ConvDAE table': '9.38 19.49 297', 'speed plain': '1.81', 'speed original': '1.46', 'speed rewritten': '1.18',
        'speed EasyDAE': '1.17 1.34', 'EasyDAE table': '9.38 17.19 17.73', 'EasyDAE average_table': '17.14 17.23',
        'skip connections after 3': '19.89 20.06', 'skip connections after 5': '20.27 20.39',
        'skip connections after 10': '20.61 20.74', 'convolutional after 10': '19.49 19.80',
        'dense 512 after 10': '19.30 19.34', 'dense 76 after 10': '18.24 18.37', 'dense 512 after 150': '20.09 20.11'}}


COMPARISONS = {    # what the texts say of two numbers, or of all seeds
    'BasicAE: 0.01 stalls, 0.001 does not': lambda: (
        min(losses('BasicAE', 20, 'losses at 0.01')) > max(losses('BasicAE', 20)) and len(losses('BasicAE', 20)) == 5),
    'BasicAE: the more units are dead, the higher the loss': lambda: (
        [run['losses at 0.01'][-1] for run in sorted(RECORD['BasicAE']['runs'].values(), key=lambda run: (
            run['dead units at 0.01'], run['losses at 0.01'][-1]))] == sorted(losses('BasicAE', 20, 'losses at 0.01'))),
    'EasyDAE: the full linear map is ahead in PSNR and cross-entropy, the network in SSIM': lambda: (
        better('EasyDAE', 'full linear map', 'EasyDAE, 32 numbers') == {'PSNR (dB)', 'cross-entropy'}),
    'EasyDAE: limited to 32 numbers, the linear map is behind in all three': lambda: (
        better('EasyDAE', 'EasyDAE, 32 numbers', 'linear map, 32 numbers') == {*BETTER}),
    'EasyDAE: the likeliest digit has a lower PSNR than the average': lambda: all(
        row['likeliest (dB)'] < row['average (dB)'] for row in rows('EasyDAE', 'average_table').values()),
    'EasyDAE: ConvDAE shows its averages': lambda: (
        f'{[row["average (dB)"] for row in rows("EasyDAE", "average_table").values()]})    # EasyDAE'
        in read_cells('ConvDAE')['noise_curve']),
    'README: PyTorch at its best is level with BasicAE, and with EasyDAE on one of three processors': lambda: (
        speed('BasicAE', FUSED) == 'level' and speed('EasyDAE', f'{SINGLE}, batches ahead').startswith('level ')),
    'ConvDAE: dense 512 has the lower loss until the third to sixth epoch': lambda: (
        [sum(loss > other for loss, other in zip(*(RECORD[name]['runs'][seed]['losses'][:10]
                                                   for name in (CONV, 'dense 512')))) for seed in '01234']
        == [6, 3, 5, 3, 3]),
    'ConvDAE: dense 512 trains 150 epochs in less time than ten of the convolutional network, and is ahead': lambda: (
        150 * claims.pace(RECORD['dense 512']) < 10 * claims.pace(RECORD[CONV])
        and ahead(after(150, 'dense 512'), after(10, CONV))),
    'ConvDAE: skip connections are ahead of all others, after fewer epochs, in all three': lambda: all(
        better('ConvDAE', SKIP, other) == {*BETTER} for other in (CONV, 'dense 32', 'dense 76', 'dense 512'))
        and [rows('ConvDAE')[network]['epochs'] for network in (SKIP, CONV)] == [3, 10],
    'ConvDAE: five epochs of skip connections take less time than 150 of dense 512, and pass it': lambda: (
        5 * claims.stored_paces()[SKIP] < 150 * claims.stored_paces()['dense 512']
        and ahead(after(5, SKIP), after(150, 'dense 512'))),
    'ConvDAE: transposed convolutions are not told apart': lambda: (
        not ahead(after(10, CONV), after(10, 'transposed convolutions'))),
}
BETTER = {'cross-entropy': -1, 'PSNR (dB)': 1, 'SSIM': 1}    # 1 where more is better


def better(name, one, other):
    """Return the columns in which a row of a stored table is ahead of another."""
    one, other = rows(name)[one], rows(name)[other]
    return {column for column, sign in BETTER.items() if sign * one[column] > sign * other[column]}


def source(document, spec):
    """Return the text of a source: a cell of a stored run, or a network of the study after so many epochs."""
    if spec == 'original':
        return read_cells(document.removesuffix('.ipynb'))['curve']
    if spec == 'dead units':
        runs = RECORD['BasicAE']['runs'].values()
        return ' '.join([ends([run['dead units at 0.01'] for run in runs], 0), ends(losses('BasicAE', 20), 4),
                         ends(losses('BasicAE', 20, 'losses at 0.01'), 4)])
    if spec == 'clipped noise':
        return ' '.join(f'{claims.mean_of_clipped(pixel):.3f}' for pixel in (0, 1))
    if spec.startswith('speed'):
        sides = {'plain': 'notebook, `fast = False`', 'original': GRAPH, 'as it comes': PLAIN,
                 'rewritten': f'{BEST}, rewritten', 'EasyDAE': f'{SINGLE}, batches ahead'}
        return speed('EasyDAE' if 'EasyDAE' in spec else 'ConvDAE', sides[spec.removeprefix('speed ')])
    network, _, epochs = spec.partition(' after ')
    if network in RECORD:
        return ' '.join([*(ends(after(int(epochs), network, measure), digits) for measure, digits in (
            ('psnr', 2), ('ssim', 3), ('cross-entropy', 4))), ends(losses(network, int(epochs)), 4)])
    name, _, cell = spec.rpartition(' ')
    return shown(name or document.removesuffix('.ipynb'), cell)


@pytest.mark.parametrize('document', SOURCES)
def test_every_number_in_a_text_is_what_its_source_holds(document):
    """Or is listed as given: a size, a setting, a year.

    If not, change text and SOURCES; of speed, nothing holds until compare.py has measured today's cells.
    """
    said = {spec: {*listed.split()} for spec, listed in SOURCES[document].items()}
    listed, written = set().union(*said.values()), numbers(prose(document))
    assert (written - listed, listed - written) == (set(), set()), 'without a source in SOURCES, and said no longer'
    untrue = {spec: each - numbers(source(document, spec)) for spec, each in said.items() if spec != 'given'}
    assert {spec: each for spec, each in untrue.items() if each} == {}, 'not what the source holds today'


def test_what_is_said_of_two_numbers_is_so():
    assert [said for said, holds in COMPARISONS.items() if not holds()] == [], 'no longer so'

