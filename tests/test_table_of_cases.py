"""The table CASES.md holds nothing that no test checks; this file comes behind all that do."""
from pathlib import Path

import pytest
from cases import HEADING, checked, read_table
from conftest import FULL


def test_every_line_of_the_table_was_checked(request):
    asking = {path.name for path in Path(__file__).parent.glob('test_*.py')
              if 'import check_case' in path.read_text(encoding='utf-8')}
    asked = {item.path.name for item in request.session.items}
    if not FULL or request.config.getoption('keyword') or not asking <= asked:
        pytest.skip('not all tests of cases are in this session')
    assert set(read_table()) - set(HEADING.splitlines()) == checked
