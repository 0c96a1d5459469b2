"""Every number in the texts is what its source holds, and what is said of two of them is so.

A source is what a cell of a stored run showed, a part of the record of benchmarks/claims.py or of compare.py. A
reworded sentence needs no change here; another number does, in SOURCES, and a new comparison an entry in COMPARISONS.
"""
import functools
import json
import re
from statistics import median

import claims
import pytest
from compare import GRAPH, PLAIN, SIDES, digest
from helpers import NOTEBOOKS, ROOT, code_cells, pictures, printed, read_notebook

RECORD, SPEED = (json.loads((ROOT / 'benchmarks' / f'{name}.json').read_text()) for name in ('claims', 'compare'))
NUMBER = re.compile(r'(?<![\w.,])\d[\d,]*(?:\.\d+)?(?!\w)')
NOT_PROSE = re.compile(r'```.*?```|`[^`]*`|\]\([^)]*\)|https?://\S+', re.DOTALL)
TORCH = {name: [side for side in SIDES[name] if 'PyTorch' in side and 'bfloat16' not in side] for name in SIDES}
REWRITTEN = [side for side in TORCH['ConvDAE'] if 'rewritten' in side]
CONV, SKIP, BYPASS = 'convolutional', 'skip connections', 'dense 512 with a bypass'


def numbers(text):
    """Return the numbers in a text, as they are written; in 28x28x1 there are three."""
    return {number.rstrip(',') for number in NUMBER.findall(re.sub(r'(?<=\d)x(?=\d)', ' x ', text))}


@functools.cache
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


def table(name, column, cell='table'):
    """Return a column of a table that a stored run showed: from the name of a row to the number in it."""
    head, _, *rows = [[each.strip() for each in line.strip('| ').split('|')]
                      for line in printed(code_cells(read_notebook(name))[cell]).splitlines() if line.startswith('|')]
    return {row[0]: float(row[head.index(column)].replace(',', '')) for row in rows}


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


def speed(sides, name='ConvDAE'):
    """Return how many times longer a step takes on the fastest of sides than in the notebook, today's cells only."""
    runs = [[run[name]['sides'][side] for side in sides if side in run[name]['sides']] for run in SPEED.values()
            if run.get(name, {}).get('cells') == digest(name)]
    return sorted(min(run, key=lambda each: median(each['ms per step']))['times notebook'] for run in runs)


def source(document, spec):
    """Return the text of a source: a cell of a stored run, or a network of the study after so many epochs."""
    if spec == 'speed':
        return SPEEDS
    network, _, epochs = spec.partition(' after ')
    if network in RECORD:
        return ' '.join([*(ends(after(int(epochs), network, measure), digits) for measure, digits in (
            ('psnr', 2), ('ssim', 3), ('cross-entropy', 4))), ends(losses(network, int(epochs)), 4)])
    name, _, cell = spec.rpartition(' ')
    return shown(name or document.removesuffix('.ipynb'), cell)


DOCUMENTS = ['README.md', *(f'{name}.ipynb' for name in NOTEBOOKS)]


@pytest.mark.parametrize('document', DOCUMENTS)
def test_every_number_in_a_text_has_a_source(document):
    """Or is listed as given: a size, a setting, a year."""
    listed, written = {number for each in SOURCES[document].values() for number in each.split()}, numbers(prose(document))
    assert (written - listed, listed - written) == (set(), set()), 'without a source in SOURCES, and said no longer'


@pytest.mark.parametrize('document, spec', [
    (document, spec) for document in DOCUMENTS for spec in SOURCES[document] if spec != 'given'])
def test_number_is_what_its_source_holds(document, spec):
    assert set(SOURCES[document][spec].split()) - numbers(source(document, spec)) == set()


@pytest.mark.parametrize('said', COMPARISONS)
def test_what_is_said_of_two_numbers_is_so(said):
    assert COMPARISONS[said]()
