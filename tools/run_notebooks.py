"""Run the three notebooks top to bottom and export each as an HTML page.

By default the executed notebooks and the pages are written to build/ and nothing else changes. With
--in-place the notebooks at the top level and the pages in notebooks/ are replaced, each pair when its
notebook has run to the end on the full MNIST. With --pages nothing runs: the pages in notebooks/ are renewed
from the stored runs, which is enough after a change of text.
"""
import argparse
import base64
import copy
import hashlib
import io
import json
import re
import sys
from pathlib import Path

import nbformat
import numpy as np
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbconvert import HTMLExporter
from PIL import Image
from traitlets.config import Config

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = ('BasicAE', 'EasyDAE', 'ConvDAE')
FULL_SIZE = 60000    # training images of MNIST
RESULT = {'BasicAE': 'rows', 'EasyDAE': 'denoise', 'ConvDAE': 'compare'}    # the cell whose figure opens the notebook
PICTURE = ROOT / 'notebooks' / 'denoised.png'    # that of ConvDAE, for the README


class Runner(NotebookClient):
    """Runs a notebook and prints what it prints, so that a long training can be followed."""

    title = ''

    def process_message(self, message, cell, cell_index):
        """Handle a message from the kernel as usual; print the text in it."""
        content = message['content']
        clear_line = '\r\033[K' if sys.stdout.isatty() else ''
        if message['msg_type'] == 'stream':
            lines = [f'{self.title}: {line}\n' for line in content['text'].splitlines() if line.strip()]
            print(clear_line + ''.join(lines), end='', flush=True)
        elif message['msg_type'] == 'update_display_data' and clear_line:
            print(f'{clear_line}{self.title}: {content["data"]["text/plain"]}', end='', flush=True)
        return super().process_message(message, cell, cell_index)


def code_digest(notebook):
    """Return the SHA-256 of all code cells: it tells whether stored outputs belong to today's cells."""
    sources = [cell.source for cell in notebook.cells if cell.cell_type == 'code']
    return hashlib.sha256(json.dumps(sources).encode()).hexdigest()


def run(name):
    """Return the notebook of that name, executed in the project's folder.

    Raises CellExecutionError if a cell fails.
    """
    notebook = nbformat.read(ROOT / f'{name}.ipynb', as_version=4)
    runner = Runner(notebook, timeout=None, coalesce_streams=True, record_timing=False,
                    resources={'metadata': {'path': str(ROOT)}},
                    config=Config(KernelManager={'transport_encryption': 'auto'}))
    runner.title = name
    code_cells = [cell.id for cell in notebook.cells if cell.cell_type == 'code']

    def announce(cell, cell_index):
        if cell.id in code_cells:
            number = code_cells.index(cell.id) + 1
            print(f'{name}: cell {number} of {len(code_cells)}, {cell.id}', flush=True)

    runner.on_cell_start = announce
    runner.execute()
    notebook.metadata = {'kernelspec': notebook.metadata.kernelspec, 'language_info': {'name': 'python'},
                         'executed_code_sha256': code_digest(notebook)}
    for cell in notebook.cells:
        for output in cell.get('outputs', []):
            if 'image/png' in output.get('data', {}):
                output.data['image/png'] = with_palette(output.data['image/png'])
    notebook.cells[0].attachments = {'result.png': {'image/png': result(name, notebook)}}
    return notebook


def with_palette(picture):
    """Return a PNG in base64 with the same pixels in fewer bytes: with a palette, if it has at most 256 colours."""
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(picture))).convert('RGB'))
    colors, numbers = np.unique(pixels.reshape(-1, 3), axis=0, return_inverse=True)
    if len(colors) > 256:
        return picture.replace('\n', '')
    image = Image.fromarray(numbers.reshape(pixels.shape[:2]).astype('uint8'), 'P')
    image.putpalette(colors.ravel().tolist())
    file = io.BytesIO()
    image.save(file, 'PNG', optimize=True, dpi=(100, 100))
    return base64.b64encode(file.getvalue()).decode()


def result(name, notebook):
    """Return the picture that shows what the notebook is about: a PNG in base64."""
    (cell,) = (cell for cell in notebook.cells if cell.id == RESULT[name])
    (picture,) = (output.data['image/png'] for output in cell.outputs if 'image/png' in output.get('data', {}))
    return picture


def training_images(notebook):
    """Return how many training images the executed notebook says it used."""
    (cell,) = (cell for cell in notebook.cells if cell.id == 'images')
    printed = ''.join(output.get('text', '') for output in cell.outputs)
    return int(printed.split('train_images: ')[1].split()[0].replace(',', ''))


def page_of(name, notebook):
    """Return a notebook as an HTML page, with links to the other pages in place of the other notebooks."""
    notebook = copy.deepcopy(notebook)
    contents = []    # level and text of each heading but the first, which is the title
    for cell in notebook.cells:
        if cell.cell_type == 'markdown':
            cell.source = cell.source.replace('.ipynb)', '.html)')
            contents += re.findall(r'^(##+) (.*)$', cell.source, re.MULTILINE)
    notebook.metadata |= {'name': name, 'pages': NOTEBOOKS,
                          'title': notebook.cells[0].source.splitlines()[0].removeprefix('# '),
                          'contents': [(len(marks), heading) for marks, heading in contents]}
    exporter = HTMLExporter(
        template_name='page', extra_template_basedirs=[str(ROOT / 'tools')],
        config=Config(NbConvertBase={'display_data_priority': ['image/png', 'text/plain']}))
    return exporter.from_notebook_node(notebook)[0]


def write(path, content):
    """Write a file whole, or leave the one that is there as it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + '.unfinished')
    unfinished.write_bytes(content)
    unfinished.replace(path)


def main():
    """Run what the command line asks for; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--in-place', action='store_true',
                        help='replace the notebooks at the top level and the pages in notebooks/')
    parser.add_argument('--pages', action='store_true', help='run nothing, renew the pages in notebooks/')
    parser.add_argument('names', nargs='*', metavar='name', help='notebooks to run (default: all three)')
    arguments = parser.parse_args()
    for name in arguments.names:
        if name not in NOTEBOOKS:
            parser.error(f'there is no notebook {name}: choose from {", ".join(NOTEBOOKS)}')
    notebook_folder = ROOT if arguments.in_place else ROOT / 'build'
    page_folder = ROOT / 'notebooks' if arguments.in_place else ROOT / 'build'

    written = []
    for name in arguments.names or NOTEBOOKS:
        if arguments.pages:
            notebook = nbformat.read(ROOT / f'{name}.ipynb', as_version=4)
            write(ROOT / 'notebooks' / f'{name}.html', page_of(name, notebook).encode())
            written.append(ROOT / 'notebooks' / f'{name}.html')
            continue
        try:
            notebook = run(name)
        except CellExecutionError as error:
            print(f'{error}\n{name} stopped there; nothing was written for it.', file=sys.stderr)
            return 1
        if arguments.in_place and training_images(notebook) != FULL_SIZE:
            print(f'{name} did not run on the {FULL_SIZE:,} images of MNIST: its stored run stays as it '
                  'was. Put the archives into MNIST_data/, or connect to a network.', file=sys.stderr)
            return 1
        write(page_folder / f'{name}.html', page_of(name, notebook).encode())
        write(notebook_folder / f'{name}.ipynb', f'{nbformat.writes(notebook)}\n'.encode())
        written += [notebook_folder / f'{name}.ipynb', page_folder / f'{name}.html']
        if arguments.in_place and name == 'ConvDAE':
            write(PICTURE, base64.b64decode(result(name, notebook)))
            written.append(PICTURE)
    print('Written:', *written, sep='\n  ')
    return 0


if __name__ == '__main__':
    sys.exit(main())
