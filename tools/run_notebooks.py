"""Run the three notebooks top to bottom and export each as a page: everything goes to build/, nothing else changes.

With --in-place the notebooks and the pages in notebooks/ are replaced, each when its notebook has run to the end on
the full MNIST. With --pages nothing runs: the pages in notebooks/ are renewed from the stored runs.
"""
import argparse
import base64
import copy
import hashlib
import json
import re
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbconvert import HTMLExporter
from traitlets.config import Config

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = ('BasicAE', 'EasyDAE', 'ConvDAE')
FULL_SIZE = 60000    # training images of MNIST


class Runner(NotebookClient):
    """Runs a notebook and prints what it prints, so that a long training can be followed."""

    def process_message(self, message, cell, cell_index):
        """Handle a message from the kernel as usual; print the text in it."""
        content = message['content']
        clear_line = '\r\033[K' if sys.stdout.isatty() else ''
        if message['msg_type'] == 'stream':
            lines = [f'    {line}\n' for line in content['text'].splitlines() if line.strip()]
            print(clear_line + ''.join(lines), end='', flush=True)
        elif message['msg_type'] == 'update_display_data' and clear_line and 'image/png' not in content['data']:
            print(f'{clear_line}    {content["data"]["text/plain"]}', end='', flush=True)
        return super().process_message(message, cell, cell_index)


def code_digest(notebook):
    """Return the SHA-256 of all code cells: it tells whether stored outputs belong to today's cells."""
    sources = [cell.source for cell in notebook.cells if cell.cell_type == 'code']
    return hashlib.sha256(json.dumps(sources).encode()).hexdigest()


def run(name):
    """Return the notebook of that name, executed in the project's folder; raise CellExecutionError if a cell fails."""
    notebook = nbformat.read(ROOT / f'{name}.ipynb', as_version=4)
    code_cells = [cell.id for cell in notebook.cells if cell.cell_type == 'code']

    def announce(cell, cell_index):
        if cell.id in code_cells:
            print(f'{name}: cell {code_cells.index(cell.id) + 1} of {len(code_cells)}, {cell.id}', flush=True)

    Runner(notebook, timeout=None, coalesce_streams=True, record_timing=False, on_cell_start=announce,
           resources={'metadata': {'path': str(ROOT)}},
           config=Config(KernelManager={'transport_encryption': 'auto'})).execute()
    notebook.metadata = {'kernelspec': notebook.metadata.kernelspec, 'language_info': {'name': 'python'},
                         'executed_code_sha256': code_digest(notebook)}
    return notebook


def outputs_of(notebook, cell_id):
    """Return the outputs of the cell of that id."""
    return next(cell.outputs for cell in notebook.cells if cell.id == cell_id)


def training_images(notebook):
    """Return how many training images the executed notebook says it used."""
    printed = ''.join(output.get('text', '') for output in outputs_of(notebook, 'images'))
    return int(re.search('([0-9,]+) training images', printed)[1].replace(',', ''))


def page_of(name, notebook):
    """Return a notebook as an HTML page, with links to the other pages in place of the other notebooks."""
    notebook = copy.deepcopy(notebook)
    headings = []    # level and text of each but the title
    for cell in notebook.cells:
        if cell.cell_type == 'markdown':
            cell.source = cell.source.replace('.ipynb)', '.html)')
            headings += re.findall('^(##+) (.*)$', cell.source.replace('`', ''), re.MULTILINE)
    notebook.metadata |= {'name': name, 'pages': NOTEBOOKS, 'headings': headings}
    exporter = HTMLExporter(template_name='page', extra_template_basedirs=[str(ROOT / 'tools')])
    colourless = '<span class="(?:w|p|n|nn|nb|bp)">([^<]*)</span>'
    return re.sub(colourless, r'\1', exporter.from_notebook_node(notebook)[0])


def write(path, content):
    """Write a file whole, or leave the one that is there as it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + '.unfinished')
    unfinished.write_bytes(content)
    unfinished.replace(path)


def main():
    """Run what the command line asks for, and say where the pages are."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument('--in-place', action='store_true', help='replace the notebooks and the pages in notebooks/')
    instead.add_argument('--pages', action='store_true', help='run nothing, renew the pages in notebooks/')
    parser.add_argument('names', nargs='*', metavar='name', help='notebooks (default: all three)')
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(NOTEBOOKS):
        parser.error(f'there is no notebook {", ".join(sorted(unknown))}: choose from {", ".join(NOTEBOOKS)}')
    pages, written = ROOT / ('notebooks' if arguments.in_place or arguments.pages else 'build'), []
    for name in arguments.names or NOTEBOOKS:
        try:
            notebook = nbformat.read(ROOT / f'{name}.ipynb', as_version=4) if arguments.pages else run(name)
        except CellExecutionError as error:
            sys.exit(f'{error}\n{name} stopped there; nothing was written for it.')
        if arguments.in_place and training_images(notebook) != FULL_SIZE:
            sys.exit(f'{name} did not run on the {FULL_SIZE:,} training images of MNIST; its stored run stays as it '
                     'was. Put the archives into MNIST_data/, or connect to a network.')
        files = {pages / f'{name}.html': page_of(name, notebook).encode()}
        if not arguments.pages:
            executed = (ROOT if arguments.in_place else pages) / f'{name}.ipynb'
            files[executed] = f'{nbformat.writes(notebook)}\n'.encode()
        if arguments.in_place and name == 'ConvDAE':    # the picture that opens it, for the README
            (picture,) = (output for output in outputs_of(notebook, 'setup') if 'image/png' in output.get('data', {}))
            files[pages / 'denoised.png'] = base64.b64decode(picture.data['image/png'])
        for path, content in files.items():
            write(path, content)
        written.append(pages / f'{name}.html')
    print('\nDone. Open in a browser:', *written, sep='\n  ')


if __name__ == '__main__':
    main()
