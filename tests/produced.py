"""What the stored runs have produced, and whether the numbers of a text are among it."""
import re
from decimal import Decimal

import pytest
from conftest import code_cells, read_notebook
from run_notebooks import code_digest

NUMBER = re.compile(r'(?<![\w.])\d+(?:\.\d+)?(?:e-?\d+)?(?!\w|\.\d)')
NOT_PROSE = re.compile(r'```.*?```|`[^`]*`|\]\([^)]*\)|https?://\S+|\b201[67]\b', re.DOTALL)    # code, links, years


def stored_run(name, older=pytest.skip):
    """Return a notebook whose outputs are of today's cells; else skip: one test says that they are older."""
    notebook = read_notebook(name)
    if notebook.metadata.get('executed_code_sha256') != code_digest(notebook):
        older(f'the outputs of {name} are older than its cells: run "make refresh"')
    return notebook


def printed(cell):
    """Return the text of a cell's outputs, without colours."""
    texts = [output.get('text', '') + output.get('data', {}).get('text/plain', '') for output in cell.outputs
             if 'image/png' not in output.get('data', {})]
    return re.sub(r'\x1b\[[0-9;]*m', '', ''.join(texts))


def pictures(cell):
    """Return a cell's pictures: their bytes in base64 and their alternative texts."""
    return [(''.join(output.data['image/png'].split()), output.metadata['image/png']['alt'])
            for output in cell.outputs if 'image/png' in output.get('data', {})]


def assert_clean(notebook, folder=''):
    """Warnings, redrawn lines and paths of another machine disturb; a figure without text is lost."""
    for cell in code_cells(notebook).values():
        assert {'error', 'stderr'}.isdisjoint(output.get('name', output.output_type) for output in cell.outputs)
        disturbing = '[^\n -\uffff]|(?:^|[\\s\'"(])/\\w+|warning'    # control characters, paths
        assert re.findall(disturbing, printed(cell).replace(folder, ''), re.IGNORECASE) == [], cell.id
        assert [alt for _, alt in pictures(cell) if len(alt) <= 40] == [], cell.id


def all_of(notebook):
    """Return in one text the code of a notebook, what it printed, and the alternative texts."""
    return '\n'.join(text for cell in code_cells(notebook).values()
                     for text in (cell.source, printed(cell), *(alt for _, alt in pictures(cell))))


def numbers(text):
    """Return the numbers in a text, without separators of thousands; 28x28 is two numbers."""
    text = re.sub(r'(?<=\d)[,_](?=\d{3}(?!\d))', '', text)
    return [Decimal(number) for number in NUMBER.findall(re.sub(r'(?<=\d)x(?=\d)', ' x ', text))]


def not_produced(markdown, *sources):
    """Return the numbers in a text that are in none of the sources, nor are one of theirs rounded."""
    produced = {number for source in sources for number in numbers(source)}
    return [str(number) for number in numbers(NOT_PROSE.sub(' ', markdown)) if not any(
        abs(number - each) <= Decimal((0, (5,), number.as_tuple().exponent - 1)) for each in produced)]
