"""Train each network in full with several seeds, to see how far the last loss depends on chance.

    .venv/bin/python benchmarks/seeds.py              all three networks
    .venv/bin/python benchmarks/seeds.py EasyDAE      one of them

The notebooks' own cells are run up to the training, on the full MNIST; only `seed` is replaced. Writes
benchmarks/seeds.json after each seed and goes on where it stopped: a seed that is recorded for today's cells is not
trained again. Prints the table that is in benchmarks/README.md.
"""
import argparse
import ast
import datetime
import hashlib
import importlib.metadata
import json
import re
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from statistics import median

import nbformat
from compare import NETWORKS, ROOT, TEST, TRAIN, Kernel, read_pixels, training_cells, write

sys.path.insert(0, str(ROOT / 'tools'))
from run_notebooks import FULL_SIZE, code_digest

SEEDS = {'BasicAE': 5, 'EasyDAE': 5, 'ConvDAE': 8}
LOSS, FAST_LOSS, DEAD = 'loss', 'loss at the original learning rate', 'dead units at the original learning rate'

REPORT = {'all': f"""
import json
report = {{{LOSS!r}: history.history['loss'][-1]}}
""", 'BasicAE': f"""
hidden_vectors = fast_model.get_layer('hidden')(test_images)
report[{FAST_LOSS!r}] = fast_history.history['loss'][-1]
report[{DEAD!r}] = int((np.max(hidden_vectors, axis=0) == 0).sum())
"""}


def source_of(name, cell_id):
    """Return the source of a cell."""
    (source,) = (cell.source for cell in nbformat.read(ROOT / f'{name}.ipynb', as_version=4).cells
                 if cell.id == cell_id)
    return source


def cells_of(name, **parameters):
    """Return id -> source of the cells that are run: up to the training; in BasicAE also at the original's rate."""
    cells = training_cells(name, **parameters)
    if name == 'BasicAE':
        cells['original'] = source_of(name, 'original')
    return cells


def digest(name):
    """Return the SHA-256 of the cells that are run, without those that define how to draw, and without comments."""
    lines = [re.sub(r' *# .*', '', line) for cell_id, source in cells_of(name).items() if cell_id != 'plot'
             for line in source.splitlines()]
    return hashlib.sha256('\n'.join(line for line in lines if line).encode()).hexdigest()


def train(name, folder, seed):
    """Train a network with a seed; return what is recorded of it."""
    with ExitStack() as stack:
        kernel = Kernel(stack)
        for source in cells_of(name, data_dir=folder, seed=seed).values():
            kernel.run(source)
        report = kernel.run(REPORT['all'] + REPORT.get(name, '') + 'print(json.dumps(report))')
    return {key: round(value, 4) for key, value in json.loads(report).items()}


def stored_run(name):
    """Return what is recorded of seed 0 from the outputs stored in a notebook, or None: a run need not be made twice.

    In BasicAE they do not hold all of it, and outputs of other cells or of another seed are of no use.
    """
    notebook = nbformat.read(ROOT / f'{name}.ipynb', as_version=4)
    cells = {cell.id: cell for cell in notebook.cells if cell.cell_type == 'code'}
    today = notebook.metadata.get('executed_code_sha256') == code_digest(notebook)
    if name == 'BasicAE' or not today or not re.search('^seed = 0 ', cells['parameters'].source, re.MULTILINE):
        return None
    printed = ''.join(output.get('text', '') for output in cells['train'].outputs)
    return {LOSS: float(re.findall('loss ([0-9.]+)', printed)[-1])}


def seed_table(record):
    """Return the record as Markdown: how the last loss of the original's one run lies among ours."""
    lines = ["| network | the original's run | ours: lowest | median | highest | higher than the original's |",
             '| --- | --- | --- | --- | --- | --- |']
    dead = []
    for name, network in record.items():
        runs, original = network['runs'].values(), network['original']
        for key, label in ((LOSS, name), (FAST_LOSS, f"{name}, the original's learning rate")):
            if losses := [run[key] for run in runs if key in run]:
                numbers = (original, min(losses), median(losses), max(losses))
                higher = sum(loss > original for loss in losses)
                lines.append(f'| {label} | {" | ".join(f"{number:.4f}" for number in numbers)} '
                             f'| {higher} of {len(losses)} |')
        dead += sorted((run[FAST_LOSS], run[DEAD]) for run in runs if DEAD in run)
    if dead:
        lines += ['', "At the original's learning rate some hidden units die: they put out 0 for every test image.", '',
                  '| loss | ' + ' | '.join(f'{loss:.4f}' for loss, _ in dead) + ' |',
                  '| --- |' + ' --- |' * len(dead),
                  '| dead hidden units | ' + ' | '.join(str(units) for _, units in dead) + ' |']
    return '\n'.join(lines)


def main():
    """Train the networks named on the command line, or all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('names', nargs='*', metavar='network', help='which ones (default: all three)')
    parser.add_argument('--data', type=Path, default=ROOT / 'MNIST_data', help='folder of the MNIST archives')
    parser.add_argument('--output', type=Path, default=ROOT / 'benchmarks' / 'seeds.json', help='the record')
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(NETWORKS):
        parser.error(f'there is no network {", ".join(unknown)}: choose from {", ".join(NETWORKS)}')
    if missing := [name for name in (TRAIN, TEST) if not (arguments.data / name).exists()]:
        parser.error(f'no {" and no ".join(missing)} in {arguments.data}: run a notebook or name a folder with --data')
    if (count := len(read_pixels(arguments.data / TRAIN))) != FULL_SIZE:
        parser.error(f'{arguments.data} has {count:,} training images: seeds are compared on {FULL_SIZE:,}, MNIST')
    record = json.loads(arguments.output.read_text()) if arguments.output.exists() else {}
    for name in arguments.names or NETWORKS:
        if record.get(name, {}).get('cells') != digest(name):
            originals = re.search(r'original_losses = (\[.*?\])', source_of(name, 'curve'), re.DOTALL)[1]
            record[name] = {'cells': digest(name), 'original': ast.literal_eval(originals)[-1], 'runs': {}}
        runs = record[name]['runs']
        for seed in range(SEEDS[name]):
            if str(seed) in runs:
                print(f'{name}, seed {seed}: recorded', flush=True)
                continue
            print(f'{name}, seed {seed}: training', end='', flush=True)
            start = time.time()
            stored = stored_run(name) if seed == 0 else None
            runs[str(seed)] = {**(stored or train(name, str(arguments.data.resolve()), seed)),
                               'date': datetime.date.today().isoformat(),
                               'tensorflow': importlib.metadata.version('tensorflow'),
                               'keras': importlib.metadata.version('keras')}
            print(f', loss {runs[str(seed)][LOSS]:.4f} after {time.time() - start:.0f} s', flush=True)
            record = {name: record[name] for name in NETWORKS if name in record}
            write(arguments.output, record)
    print('', seed_table(record), sep='\n')


if __name__ == '__main__':
    main()
