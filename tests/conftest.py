"""How the tests are shared out between two workers."""
from pytest import hookimpl, mark


@hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Keep each file on one worker, as it makes its runs once; each notebook of test_runs.py, the longest, apart."""
    for item in items:
        item.add_marker(mark.xdist_group(item.name.split('[')[-1] if 'test_runs' in item.nodeid else item.path.name))
