"""Run the three notebooks top to bottom and export each as a page: what comes of it goes to build/.

A notebook downloads MNIST into MNIST_data/ where it is missing; nothing else changes.

With --in-place the notebooks and the pages in notebooks/ are replaced, each when its notebook has run to the end on
MNIST with the settings of the original. With --pages nothing runs: the pages in notebooks/ are renewed from the stored
runs. When a cell fails, what ran until then is in build/.
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
from nbconvert import HTMLExporter
from traitlets.config import Config

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = ('BasicAE', 'EasyDAE', 'ConvDAE')


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


def run(name, notebook):
    """Run a notebook in the project's folder; return what stopped it, or None. What ran until then is kept."""
    code_cells = {cell.id: cell for cell in notebook.cells if cell.cell_type == 'code'}
    for cell in code_cells.values():
        cell.outputs, cell.execution_count = [], None
    parameters, problem = code_cells['parameters'].source, None
    if 'model_file = ' in parameters:    # what the notebook keeps goes to build/ too
        (ROOT / 'build').mkdir(exist_ok=True)
        code_cells['parameters'].source += "\nmodel_file = os.path.join('build', os.path.basename(model_file))"

    def announce(cell, cell_index):
        if cell.id in code_cells:
            print(f'{name}: cell {[*code_cells].index(cell.id) + 1} of {len(code_cells)}, {cell.id}', flush=True)

    try:
        Runner(notebook, timeout=None, coalesce_streams=True, record_timing=False, on_cell_start=announce,
               resources={'metadata': {'path': str(ROOT)}},
               config=Config(KernelManager={'transport_encryption': 'auto'})).execute()
    except Exception as error:    # a cell has failed, the kernel has died, or you have interrupted it
        problem = str(error) or 'Interrupted.'
    code_cells['parameters'].source = parameters
    notebook.metadata = {**{key: notebook.metadata[key] for key in ('kernelspec', 'language_info')},
                         'executed_code_sha256': None if problem else code_digest(notebook)}
    return problem


def pictures(notebook, cell_id):
    """Return the pictures of the cell of that id: from the alternative text of each to its bytes."""
    return {output.metadata['image/png']['alt']: base64.b64decode(output.data['image/png'])
            for cell in notebook.cells if cell.id == cell_id
            for output in cell.outputs if 'image/png' in output.get('data', {})}


def page_of(name, notebook):
    """Return a notebook as an HTML page in a folder of the project, with links to pages in place of notebooks."""
    notebook = copy.deepcopy(notebook)
    headings = []    # level and text of each but the title
    for cell in notebook.cells:
        if cell.cell_type == 'markdown':
            cell.source = cell.source.replace('.ipynb)', '.html)').replace('](benchmarks/', '](../benchmarks/')
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
    arguments, written = parser.parse_args(), []
    if unknown := set(arguments.names) - set(NOTEBOOKS):
        parser.error(f'there is no notebook {", ".join(sorted(unknown))}: choose from {", ".join(NOTEBOOKS)}')
    for name in arguments.names or NOTEBOOKS:
        notebook = nbformat.read(ROOT / f'{name}.ipynb', as_version=4)
        problem = None if arguments.pages else run(name, notebook)
        if arguments.in_place and not problem and not any(
                title.startswith('Training loss, compared with the original') for title in pictures(notebook, 'curve')):
            problem = 'Data or settings are not those of the original: the title of the loss curve says which.'
        stored = (arguments.in_place or arguments.pages) and not problem
        pages = ROOT / ('notebooks' if stored else 'build')
        write(pages / f'{name}.html', page_of(name, notebook).encode())
        if not arguments.pages:
            write((ROOT if stored else pages) / f'{name}.ipynb', f'{nbformat.writes(notebook)}\n'.encode())
        if arguments.in_place and stored and name == 'ConvDAE':    # the picture that opens it, for the README
            write(pages / 'denoised.png', *pictures(notebook, 'setup').values())
        if problem:
            sys.exit(f'{problem}\nThis run of {name} is in build/{name}.ipynb and build/{name}.html'
                     f'{"; its stored run stays as it was" * arguments.in_place}.')
        written.append(pages / f'{name}.html')
    print('\nDone. Open in a browser:', *written, sep='\n  ')


if __name__ == '__main__':
    main()
