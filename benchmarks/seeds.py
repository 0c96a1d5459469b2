"""Train each network in full over several seeds and write the final losses to benchmarks/seeds.json.

Run it in the project's environment, with the four packages and the MNIST archives in MNIST_data/:

    .venv/bin/python benchmarks/seeds.py             all three (about half an hour on two cores)
    .venv/bin/python benchmarks/seeds.py EasyDAE     one of them; the others keep their numbers

The notebooks' own cells are run, up to the training; only `seed` is replaced. Seed 0 is that of the stored run, so
its losses are read from the notebook's outputs.
"""
import json
import platform
import re
import sys
from importlib.metadata import version
from pathlib import Path

import nbformat
from compare import DRAWING
from nbclient import NotebookClient
from traitlets.config import Config

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / 'tools'))
from run_notebooks import FULL_SIZE, code_digest, training_images  # noqa: E402

RESULTS = ROOT / 'benchmarks' / 'seeds.json'

# The cells that only draw or compare are left out, but for those whose layers take their first weights from the seed;
# the last cell that trains is 'train', or 'original', in which BasicAE trains at the learning rate of 2017.
LEFT_OUT = DRAWING - {'order', 'equal', 'last'}
SEEDS = {'BasicAE': range(5), 'EasyDAE': range(5), 'ConvDAE': range(3)}
REPORT = """
import json
report = {'training images': len(train_images), 'losses': history.history['loss']}
if 'fast_history' in globals():
    hidden_vectors = fast_model.get_layer('hidden')(test_images).numpy()
    report['losses at the original learning rate'] = fast_history.history['loss']
    report['dead units at the original learning rate'] = int((hidden_vectors.max(axis=0) == 0).sum())
print('REPORT ' + json.dumps(report))
"""


def stored_run(name):
    """Return what REPORT would print for the stored run, read from the outputs."""
    notebook = nbformat.read(ROOT / f'{name}.ipynb', as_version=4)
    if notebook.metadata.get('executed_code_sha256') != code_digest(notebook):
        sys.exit(f'The outputs of {name} are older than its cells: run it first (make refresh).')
    printed = {cell.id: ''.join(output.get('text', '') for output in cell.outputs)
               for cell in notebook.cells if cell.cell_type == 'code'}

    def losses(cell_id):
        return [float(loss) for loss in re.findall(r'epoch .* loss ([0-9.]+)', printed[cell_id])]

    report = {'training images': training_images(notebook), 'losses': losses('train')}
    if 'original' in printed:
        report['losses at the original learning rate'] = losses('original')
        report['dead units at the original learning rate'] = int(re.findall(r': ([0-9]+) of', printed['silent'])[1])
    return report


def train(name, seed):
    """Run the cells of a notebook up to the training, with another seed; return what REPORT prints."""
    if seed == 0:
        return stored_run(name)
    notebook = nbformat.read(ROOT / f'{name}.ipynb', as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == 'code' and cell.id not in LEFT_OUT]
    last = max(index for index, cell in enumerate(cells) if cell.id in ('train', 'original'))
    notebook.cells = [*cells[:last + 1], nbformat.v4.new_code_cell(REPORT)]
    parameters = next(index for index, cell in enumerate(cells) if cell.id == 'parameters')
    notebook.cells.insert(parameters + 1, nbformat.v4.new_code_cell(f'seed = {seed}'))
    NotebookClient(notebook, timeout=None, resources={'metadata': {'path': str(ROOT)}},
                   config=Config(KernelManager={'transport_encryption': 'auto'})).execute()
    printed = ''.join(output.get('text', '') for output in notebook.cells[-1].outputs)
    return json.loads(printed.split('REPORT ')[1])


def main():
    """Train the networks named on the command line, or all."""
    names = sys.argv[1:] or list(SEEDS)
    if unknown := set(names) - set(SEEDS):
        sys.exit(f'There is no notebook {", ".join(sorted(unknown))}: choose from {", ".join(SEEDS)}.')
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for name in names:
        reports = []
        for seed in SEEDS[name]:
            reports.append(train(name, seed))
            if reports[-1]['training images'] != FULL_SIZE:
                sys.exit('The seeds are compared on the full MNIST only: put the archives into MNIST_data/.')
            print(f'{name}, seed {seed}: {reports[-1]["losses"][-1]:.4f}', flush=True)
        results[name] = {
            'seeds': list(SEEDS[name]),
            'epochs': len(reports[0]['losses']),
            'final losses': [round(report['losses'][-1], 4) for report in reports],
            'versions': {'python': platform.python_version(),
                         **{package: version(package) for package in ('tensorflow', 'keras')}},
        }
        if 'losses at the original learning rate' in reports[0]:
            results[name]['final losses at the original learning rate'] = [
                round(report['losses at the original learning rate'][-1], 4) for report in reports]
            results[name]['dead units at the original learning rate'] = [
                report['dead units at the original learning rate'] for report in reports]
        RESULTS.write_text(json.dumps(results, indent=2) + '\n')
    return 0


if __name__ == '__main__':
    sys.exit(main())
