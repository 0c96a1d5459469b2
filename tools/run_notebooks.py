"""Run the three notebooks top to bottom and export each as a page: what comes of it goes to build/.

A notebook downloads MNIST into MNIST_data/ where it is missing; nothing else changes.

With --in-place the notebooks, the pages and the networks in notebooks/ are replaced, each when its notebook has run to
the end on MNIST with the settings of the original. With --pages nothing runs: the pages in notebooks/ are renewed from
the stored runs. When a cell fails, what ran until then is in build/.
"""
import argparse
import base64
import copy
import hashlib
import json
import re
import sys
from pathlib import Path

import live
import nbformat
from nbclient import NotebookClient
from nbconvert import HTMLExporter
from nbconvert.preprocessors import CoalesceStreamsPreprocessor
from traitlets.config import Config

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = ('BasicAE', 'EasyDAE', 'ConvDAE')


class Runner(NotebookClient):
    """Runs a notebook and prints what it prints, so that a long training can be followed."""

    def process_message(self, message, cell, cell_index):
        """Handle a message from the kernel as usual; print the text in it."""
        content = message['content']
        clear_line = '\r\033[K' if sys.stdout.isatty() else ''
        if message['msg_type'] == 'stream' and content['name'] == 'stdout':
            lines = [f'    {line}\n' for line in content['text'].split('\n')
                     if line.strip() and '\r' not in line]    # but for Keras's bar, which is drawn anew and anew
            print(clear_line + ''.join(lines), end='', flush=True)
        elif message['msg_type'] == 'update_display_data' and clear_line and 'image/png' not in content['data']:
            print(f'{clear_line}    {content["data"]["text/plain"]}', end='', flush=True)
        return super().process_message(message, cell, cell_index)


def read(name):
    """Return a notebook of the project; end with one sentence when it is none, or was saved without its tags."""
    try:
        notebook = nbformat.read(ROOT / f'{name}.ipynb', as_version=4)
        tags = {*code_cells(notebook)}
    except Exception as error:
        sys.exit(f'{name}.ipynb cannot be read ({error}): get the file anew. Nothing was written.')
    if not {'setup', 'parameters', 'curve'} <= tags:
        sys.exit(f'{name}.ipynb has lost the tags of its cells (setup, parameters, ...), by which they are found: '
                 'get the file anew. Nothing was written.')
    return notebook


def code_cells(notebook):
    """Return the code cells by their names: the first tag of each that does not fold it, or else its number."""
    cells = [cell for cell in notebook.cells if cell.cell_type == 'code']
    return {next((tag for tag in cell.metadata.get('tags', []) if tag != 'hide-input'), f'number {number}'): cell
            for number, cell in enumerate(cells, start=1)}


def code_digest(notebook):
    """Return the SHA-256 of all code cells: it tells whether stored outputs belong to today's cells."""
    sources = [cell.source for cell in notebook.cells if cell.cell_type == 'code']
    return hashlib.sha256(json.dumps(sources).encode()).hexdigest()


def is_like_original(notebook):
    """Return whether a run was one on MNIST with the settings of the original, as its own figure of losses says."""
    return any(output.get('metadata', {}).get('as_original') for output in code_cells(notebook)['curve'].outputs)


def run(name, notebook):
    """Run a notebook in the project's folder; return what stopped it, or None. What ran until then is kept."""
    cells, problem, digest, build = code_cells(notebook), None, code_digest(notebook), ROOT / 'build'
    build.mkdir(exist_ok=True)
    for path in live.files(name, build).values():
        path.unlink()    # of an earlier run
    for cell in cells.values():
        cell.outputs, cell.execution_count = [], None
    parameters = cells['parameters'].source
    if 'model_file = ' in parameters:    # what the notebook keeps goes to build/ too
        cells['parameters'].source += "\nmodel_file = os.path.join('build', os.path.basename(model_file))"
    notebook.cells.append(kept := nbformat.v4.new_code_cell(live.keep(name, build)))    # for the run alone

    def announce(cell, cell_index):
        number = sum(each.cell_type == 'code' for each in notebook.cells[:cell_index])
        if cell.cell_type == 'code' and cell is not kept:
            print(f'{name}: cell {number + 1} of {len(cells)}, {[*cells][number]}', flush=True)

    try:
        Runner(notebook, timeout=None, kernel_name='python3', record_timing=False,
               on_cell_start=announce, resources={'metadata': {'path': str(ROOT)}},
               config=Config(KernelManager={'transport_encryption': 'auto'})).execute()
    except Exception as error:    # a cell has failed, the kernel has died, or you have interrupted it
        problem = str(error) or 'Interrupted.'
    notebook.cells.remove(kept)
    # Not while it runs: what is updated later would be looked for at its former place.
    CoalesceStreamsPreprocessor().preprocess(notebook, {})
    cells['parameters'].source = parameters
    cells['setup'].outputs = [output for output in cells['setup'].outputs    # without TensorFlow's log lines
                              if output.get('name') != 'stderr' or problem]
    notebook.metadata = {'kernelspec': {'display_name': 'Python 3', 'language': 'python', 'name': 'python3'},
                         'language_info': notebook.metadata.get('language_info', {'name': 'python'}),
                         'executed_code_sha256': None if problem else digest,
                         'digits': live.digits(kept)}
    return problem


def pictures(cell):
    """Return the pictures of a cell: from the alternative text of each to its bytes."""
    return {output.metadata['image/png']['alt']: base64.b64decode(output.data['image/png'])
            for output in cell.outputs if 'image/png' in output.get('data', {})}


def page_of(name, notebook, folder=ROOT / 'notebooks'):
    """Return a notebook as an HTML page, with links to pages in place of notebooks.

    The networks for its live figure are those in the folder; without a folder, or where it has none, there is no such
    figure. Raises ValueError when a layer is one that the figure does not know.
    """
    notebook = copy.deepcopy(notebook)
    headings = []    # level and text of each but the title
    for cell in notebook.cells:
        if cell.cell_type == 'markdown':
            cell.source = cell.source.replace('.ipynb)', '.html)')
            cell.source = re.sub(r'\[([^\]]*)\]\([\w/]*README\.md\)', r'\1', cell.source)    # a page is read alone
            headings += re.findall('^(##+) (.*)$', cell.source.replace('`', ''), re.MULTILINE)
    notebook.metadata |= {'name': name, 'pages': NOTEBOOKS, 'headings': headings,
                          'live': folder and live.figure(name, notebook, folder)}
    exporter = HTMLExporter(template_name='page', extra_template_basedirs=[str(ROOT / 'tools')])
    colourless = '<span (?:class="(?:w|p|n|nn|nb|bp)"|style="color: rgb[^"]*")>([^<]*)</span>'
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
    instead.add_argument('--in-place', action='store_true', help='replace the notebooks and what is in notebooks/')
    instead.add_argument('--pages', action='store_true', help='run nothing, renew the pages in notebooks/')
    parser.add_argument('names', nargs='*', metavar='name', help='notebooks (default: all three)')
    arguments, written = parser.parse_args(), []
    if unknown := set(arguments.names) - set(NOTEBOOKS):
        parser.error(f'there is no notebook {", ".join(sorted(unknown))}: choose from {", ".join(NOTEBOOKS)}')
    notebooks = {name: read(name) for name in arguments.names or NOTEBOOKS}
    for name, notebook in notebooks.items():
        if arguments.pages and (notebook.metadata.get('executed_code_sha256') != code_digest(notebook)
                                or not is_like_original(notebook)):
            sys.exit(f'{name}.ipynb holds no run of its code with the data and settings of the original, of which a '
                     'page is made: run "make refresh". Nothing was written.')
    for name, notebook in notebooks.items():
        problem = None if arguments.pages else run(name, notebook)
        if arguments.in_place and not problem and not is_like_original(notebook):
            problem = 'Data or settings are not those of the original.'
        networks = ROOT / ('notebooks' if arguments.pages else 'build')
        try:
            page = page_of(name, notebook, networks)
        except ValueError as error:    # a layer that the live figure does not know
            if arguments.pages:
                sys.exit(f'{error} The page of {name} stays as it was.')
            problem, page = problem or str(error), page_of(name, notebook, None)
        stored = (arguments.in_place or arguments.pages) and not problem
        pages = ROOT / ('notebooks' if stored else 'build')
        write(pages / f'{name}.html', page.encode())
        if not arguments.pages:
            write((ROOT if stored else pages) / f'{name}.ipynb', f'{nbformat.writes(notebook)}\n'.encode())
        if arguments.in_place and stored:    # the networks, for the page and for whom they save a training
            for path in live.files(name, networks).values():
                write(pages / path.name, path.read_bytes())
        if arguments.in_place and stored and name == 'ConvDAE':    # the picture that opens it, for the README
            write(pages / 'denoised.png', *pictures(code_cells(notebook)['setup']).values())
        if problem:
            sys.exit(f'{problem}\nThis run of {name} is in build/{name}.ipynb and build/{name}.html'
                     f'{"; its stored run stays as it was" * arguments.in_place}.')
        written.append(pages / f'{name}.html')
    print('\nDone. Open in a browser:', *written, sep='\n  ')


if __name__ == '__main__':
    main()
