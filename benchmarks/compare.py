"""Measure how fast the notebooks train, beside other ways to train the same networks.

    .venv/bin/python benchmarks/compare.py              all three networks
    .venv/bin/python benchmarks/compare.py EasyDAE      one of them; the others keep their numbers

Each side has a process of its own, a Jupyter kernel, and they take turns, so that a machine that is slow for a while
is slow for all. Our sides are the notebook's own cells up to the training, run by nbclient. Each turn trains twice,
for a different number of epochs; only the difference counts, so that starting up and building graphs do not.
Writes benchmarks/compare.json and prints its tables, which are those in benchmarks/README.md.
"""
import argparse
import datetime
import gzip
import importlib.metadata
import importlib.util
import json
import os
import shutil
import subprocess
import tempfile
from contextlib import ExitStack
from pathlib import Path
from statistics import median

import nbformat
import numpy as np
from nbclient import NotebookClient
from traitlets.config import Config

ROOT = Path(__file__).resolve().parent.parent
NETWORKS = ('BasicAE', 'EasyDAE', 'ConvDAE')
BATCH_SIZE, LEARNING_RATE, NOISE_FACTOR = 128, 0.001, 0.5
TRAIN, TEST = 'train-images-idx3-ubyte.gz', 't10k-images-idx3-ubyte.gz'

# Training images, and epochs that are measured: ConvDAE is slow, so it gets 30 batches, and the others all images.
IMAGES = {'BasicAE': 60_000, 'EasyDAE': 60_000, 'ConvDAE': 30 * BATCH_SIZE}
EPOCHS = {'BasicAE': 5, 'EasyDAE': 5, 'ConvDAE': 2}
DRAWING = {'look', 'noise', 'network', 'checkerboard', 'resize'}    # cells that only draw
OURS, OURS_BFLOAT16 = 'notebook', 'notebook, bfloat16'


def training_cells(name, **parameters):
    """Return id -> source of a notebook's cells up to the training, with other parameters behind its own."""
    sources = {}
    for cell in nbformat.read(ROOT / f'{name}.ipynb', as_version=4).cells:
        if cell.cell_type == 'code' and cell.id not in DRAWING:
            sources[cell.id] = cell.source
        if cell.id == 'parameters':
            sources['injected'] = '\n'.join(f'{key} = {value!r}' for key, value in parameters.items())
        if cell.id == 'train':
            break
    return sources


class Kernel:
    """Runs cells one by one in a process of its own, until the stack it is put on is left."""

    def __init__(self, stack):
        config = Config(KernelManager={'transport_encryption': 'auto'})
        where = {'metadata': {'path': str(ROOT)}}
        self.client = NotebookClient(nbformat.v4.new_notebook(), timeout=None, resources=where, config=config)
        stack.enter_context(self.client.setup_kernel(stderr=subprocess.DEVNULL))    # TensorFlow's log lines

    def run(self, source):
        """Run a cell and return what it printed."""
        cell = nbformat.v4.new_code_cell(source)
        self.client.nb.cells.append(cell)
        self.client.execute_cell(cell, len(self.client.nb.cells) - 1)
        return ''.join(output.text for output in cell.outputs if output.get('name') == 'stdout')


def write(path, record):
    """Write a record whole, or leave the one that is there as it is."""
    unfinished = path.with_name(path.name + '.unfinished')
    unfinished.write_text(json.dumps(record, indent=1) + '\n')
    unfinished.replace(path)


def read_pixels(path):
    """Return the pixels of an archive as bytes, shape (count, 784)."""
    return np.frombuffer(gzip.decompress(Path(path).read_bytes()), np.uint8, offset=16).reshape(-1, 784)


def write_part(folder, part, count):
    """Write the first training images of one folder into another, and all test images; return how many there are."""
    pixels = read_pixels(folder / TRAIN)[:count]
    header = np.array([2051, len(pixels), 28, 28], '>i4').tobytes()
    (part / TRAIN).write_bytes(gzip.compress(header + pixels.tobytes(), compresslevel=1))
    shutil.copy(folder / TEST, part)
    return len(pixels)


def original(name, folder):
    """Return train(epochs) for the original's loop: a session of TensorFlow 1, batches and noise from numpy."""
    from original import Original, first_weights
    images = read_pixels(Path(folder, TRAIN)) / np.float32(255)
    if name == 'ConvDAE':
        images = images.reshape(-1, 28, 28, 1)
    network = Original(first_weights(name, seed=0), LEARNING_RATE)

    def train(epochs):
        for _ in range(epochs):
            shuffled = images[np.random.permutation(len(images))]
            for end in range(BATCH_SIZE, len(images) + 1, BATCH_SIZE):
                clean = noisy = shuffled[end - BATCH_SIZE:end]
                if name != 'BasicAE':
                    noisy = np.clip(clean + NOISE_FACTOR * np.random.randn(*clean.shape), 0, 1)
                network.step(noisy, clean)

    return train


def pytorch(name, folder, compiled=False, bfloat16=False):
    """Return train(epochs) for PyTorch: images in memory, noise made by PyTorch, convolutions in channels_last."""
    import torch
    from torch import nn
    images = torch.from_numpy(read_pixels(Path(folder, TRAIN)) / np.float32(255))
    if name == 'ConvDAE':
        images = images.reshape(-1, 1, 28, 28).contiguous(memory_format=torch.channels_last)
        stack = []
        for before, after in ((1, 64), (64, 64), (64, 32)):
            stack += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2, ceil_mode=True)]
        for side, before, after in ((7, 32, 32), (14, 32, 64), (28, 64, 64)):
            stack += [nn.Upsample((side, side)), nn.Conv2d(before, after, 3, padding=1), nn.ReLU()]
        model = nn.Sequential(*stack, nn.Conv2d(64, 1, 3, padding=1)).to(memory_format=torch.channels_last)
    else:
        units = {'BasicAE': 64, 'EasyDAE': 32}[name]
        model = nn.Sequential(nn.Linear(784, units), nn.ReLU(), nn.Linear(units, 784))
    optimizer = torch.optim.Adam(model.parameters(), LEARNING_RATE)
    if compiled:
        model = torch.compile(model)

    def train(epochs):
        for _ in range(epochs):
            order = torch.randperm(len(images))[:len(images) // BATCH_SIZE * BATCH_SIZE]
            for indices in order.split(BATCH_SIZE):
                clean = noisy = images[indices]
                if name != 'BasicAE':
                    noisy = (clean + NOISE_FACTOR * torch.randn_like(clean)).clamp(0, 1)
                optimizer.zero_grad()
                with torch.autocast('cpu', torch.bfloat16, enabled=bfloat16):
                    logits = model(noisy)
                nn.functional.binary_cross_entropy_with_logits(logits.float(), clean).backward()
                optimizer.step()

    return train


def sides_of(name, folder):
    """Return for each side the cells that prepare it, and the cell that trains for `epochs` epochs."""
    def ours(**parameters):
        *before, last = training_cells(name, data_dir=folder, **parameters).values()
        return before, last

    def other(function, **options):
        return [f'import sys\nsys.path.insert(0, "benchmarks")\nfrom compare import {function.__name__} as prepare\n'
                f'train = prepare({name!r}, {folder!r}, **{options!r})'], 'train(epochs)'

    sides = {OURS: ours()}
    if name == 'ConvDAE':
        sides |= {OURS_BFLOAT16: ours(precision='bfloat16'), 'notebook, `fast = False`': ours(fast=False)}
    sides['the original, TensorFlow 1'] = other(original)
    if importlib.util.find_spec('torch'):
        sides |= {'PyTorch': other(pytorch), 'PyTorch, `torch.compile`': other(pytorch, compiled=True)}
        if name == 'ConvDAE':
            sides['PyTorch, bfloat16'] = other(pytorch, bfloat16=True)
    return sides


def seconds(kernel, cell, epochs):
    """Return how long a side trains for that many epochs."""
    kernel.run(f'import time\nepochs = {epochs}\nbegun = time.perf_counter()')
    kernel.run(cell)
    return float(kernel.run('print(time.perf_counter() - begun)'))


def compare(name, data, rounds):
    """Measure all sides of a network, in turns; return the record."""
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        steps = write_part(data, Path(folder), IMAGES[name]) // BATCH_SIZE * EPOCHS[name]
        kernels, milliseconds = {}, {}
        for side, (before, cell) in sides_of(name, folder).items():
            print(f'{name}, {side}: starting', flush=True)
            kernels[side] = Kernel(stack), cell
            for each in before:
                kernels[side][0].run(each)
            seconds(*kernels[side], 1)    # the first steps build graphs
        for turn in range(rounds):
            for side, kernel in kernels.items():
                less, more = (seconds(*kernel, epochs) for epochs in (1, 1 + EPOCHS[name]))
                milliseconds.setdefault(side, []).append(round(1000 * (more - less) / steps, 2))
                print(f'{name}, round {turn + 1} of {rounds}, {side}: {milliseconds[side][-1]:.2f} ms', flush=True)
    record = {'date': datetime.date.today().isoformat(), 'cores': os.cpu_count(),
              'versions': {package: importlib.metadata.version(package)
                           for package in ('tensorflow', 'keras', 'torch') if importlib.util.find_spec(package)},
              'steps in a round': steps, 'sides': {}}
    for side, values in milliseconds.items():
        ratios = {ours: round(median(values) / median(milliseconds[ours]), 2)
                  for ours in (OURS, OURS_BFLOAT16) if ours in milliseconds}
        record['sides'][side] = {'date': record['date'], 'ms per step': values, 'times': ratios}
    return record


def table(record):
    """Return the record as Markdown: for each network a line on the run, and a table."""
    lines = []
    for name, run in record.items():
        versions = ', '.join(f'{package} {version}' for package, version in run['versions'].items())
        ours = list(run['sides'][OURS]['times'])
        lines += [f'**{name}**, {run["date"]}, {run["cores"]} cores, {versions}; {run["steps in a round"]:,} steps '
                  f'in each of {len(run["sides"][OURS]["ms per step"])} rounds:', '',
                  f'| trained by | ms a step: median (least to most) | times {" | times ".join(ours)} |',
                  '| --- | --- |' + ' --- |' * len(ours)]
        for side, result in run['sides'].items():
            values = result['ms per step']
            digits = 0 if median(values) >= 10 else 2
            middle, least, most = (f'{value:.{digits}f}' for value in (median(values), min(values), max(values)))
            date = f' (of {result["date"]})' if result['date'] != run['date'] else ''
            ratios = ' | '.join(f'{result["times"][each]:.2f}' for each in ours)
            lines.append(f'| {side}{date} | {middle} ({least} to {most}) | {ratios} |')
        lines.append('')
    return '\n'.join(lines[:-1])


def main():
    """Measure the networks named on the command line, or all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('names', nargs='*', metavar='network', help='which ones (default: all three)')
    parser.add_argument('--data', type=Path, default=ROOT / 'MNIST_data', help='folder of the MNIST archives')
    parser.add_argument('--output', type=Path, default=ROOT / 'benchmarks' / 'compare.json', help='the record')
    parser.add_argument('--rounds', type=int, default=5, help='turns of each side (default: 5)')
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(NETWORKS):
        parser.error(f'there is no network {", ".join(unknown)}: choose from {", ".join(NETWORKS)}')
    if missing := [name for name in (TRAIN, TEST) if not (arguments.data / name).exists()]:
        parser.error(f'no {" and no ".join(missing)} in {arguments.data}: run a notebook or name a folder with --data')
    record = json.loads(arguments.output.read_text()) if arguments.output.exists() else {}
    for name in arguments.names or NETWORKS:
        before = record[name]['sides'] if name in record else {}
        record[name] = compare(name, arguments.data, arguments.rounds)
        if 'torch' not in record[name]['versions']:    # its rows stay, with their date
            record[name]['sides'] |= {side: before[side] for side in before if side.startswith('PyTorch')}
        record = {name: record[name] for name in NETWORKS if name in record}
        write(arguments.output, record)
    print('', table(record), sep='\n')


if __name__ == '__main__':
    main()
