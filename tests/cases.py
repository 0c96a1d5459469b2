"""The table CASES.md: what a reader meets, what happens then, what the reader sees."""
import os
import re
from pathlib import Path

TABLE = Path(__file__).with_name('CASES.md')
HEADING = """# What a reader may meet

Each line is checked by a test, word for word. To renew the table after a change of words, remove the lines from here on
and run the tests with the environment variable `WRITE_CASES` set to 1. Paths are shortened to `...`.

| case | what happens | what the reader sees |
| --- | --- | --- |
"""


checked = set()    # the lines that were asked for in this session


def read_table():
    """Return the lines of the table."""
    if not TABLE.exists():
        TABLE.write_text(HEADING)
    return TABLE.read_text(encoding='utf-8').splitlines()


def check_case(case, happens, sees, folder):
    """Assert that the table has this line; with WRITE_CASES=1, add it."""
    sees = re.sub(r'/\S*/MNIST_data/sample', 'MNIST_data/sample', sees.replace(str(folder), '...')).replace('|', '/')
    line = f'| {case} | {happens} | {sees} |'
    checked.add(line)
    lines = read_table()
    if os.environ.get('WRITE_CASES') and line not in lines:
        TABLE.write_text('\n'.join([*lines, line]) + '\n', encoding='utf-8')
        return
    assert line in lines
