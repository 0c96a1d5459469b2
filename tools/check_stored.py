"""Say which notebooks store outputs of other cells than today's; exit with 1 if there is one."""
import sys

import nbformat
from run_notebooks import NOTEBOOKS, ROOT, code_digest


def is_older(name):
    """Return whether the stored outputs of a notebook are of other cells than those that stand in it."""
    notebook = nbformat.read(ROOT / f'{name}.ipynb', as_version=4)
    return notebook.metadata.get('executed_code_sha256') != code_digest(notebook)


if older := [name for name in NOTEBOOKS if is_older(name)]:
    sys.exit(f'The stored outputs are older than the cells in {", ".join(older)}: run "make refresh".')
