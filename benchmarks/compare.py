"""Measure the notebooks' training beside three other ways to train the same networks.

    .venv/bin/python benchmarks/compare.py              all three networks
    .venv/bin/python benchmarks/compare.py EasyDAE      one of them; the others keep their numbers

For each network: the notebook's own cells; the original's graph of TensorFlow 1 (placeholders, feed_dict, noise from
numpy, one session.run for each batch); plain Keras in the style of its denoising example; PyTorch, where it is
installed. Each has a process of its own, and they take turns, so that a machine that is slow for a while is slow
for all. Writes benchmarks/compare.json; the tables it prints are those in the README.
"""
import argparse
import contextlib
import gzip
import importlib.metadata
import importlib.util
import json
import multiprocessing
import os
import platform
import resource
import sys
import time
from pathlib import Path
from statistics import median

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / 'benchmarks' / 'compare.json'
NETWORKS = ('BasicAE', 'EasyDAE', 'ConvDAE')
BATCH_SIZE, LEARNING_RATE, NOISE_FACTOR = 128, 0.001, 0.5

# Which part of the training images is taken in each round; of MNIST these are 60,000, 30,000 and 15,000. Half of the
# images are trained on for twice as many epochs, so that each round makes as many steps, but for the slow ConvDAE.
ROUNDS = {'BasicAE': [1, 2, 4] * 3, 'EasyDAE': [1, 2, 4] * 3, 'ConvDAE': [4, 2, 4, 1, 4]}
EPOCHS = {'BasicAE': 5, 'EasyDAE': 5, 'ConvDAE': 0.25}    # of all images, in each round
OURS, ORIGINAL, KERAS, PYTORCH = 'this notebook', 'original graph', 'plain Keras', 'PyTorch'
OURS_BFLOAT16 = 'this notebook, mixed_bfloat16'

# Cells that only draw or compare, and need not run before the training.
DRAWING = {'look', 'noise', 'plot_rows', 'plot_network', 'network', 'checkerboard', 'resize', 'order', 'equal', 'last'}


def read_images(folder, name):
    """Read the training images in the shape that a network wants: float32, in [0, 1]."""
    content = gzip.decompress((Path(folder) / 'train-images-idx3-ubyte.gz').read_bytes())
    images = np.frombuffer(content, np.uint8, offset=16) / np.float32(255)
    return images.reshape((-1, 28, 28, 1) if name == 'ConvDAE' else (-1, 784))


class Notebook:
    """Runs the code cells of a notebook one by one, as a kernel would."""

    def __init__(self, name, parameters):
        """Read the notebook; parameters are set behind its cell of parameters."""
        from IPython.terminal.interactiveshell import TerminalInteractiveShell
        from traitlets.config import Config

        os.chdir(ROOT)
        notebook = json.loads((ROOT / f'{name}.ipynb').read_text(encoding='utf-8'))
        self.cells = {cell['id']: ''.join(cell['source']) for cell in notebook['cells'] if cell['cell_type'] == 'code'}
        self.cells['parameters'] += ''.join(f'\n{key} = {value!r}' for key, value in parameters.items())
        config = Config(HistoryManager={'enabled': False}, TerminalInteractiveShell={'simple_prompt': True})
        self.shell = TerminalInteractiveShell.instance(config=config)
        self.variables = self.shell.user_ns

    def run(self, cell_id):
        """Run one cell, quietly; return the seconds it took."""
        start = time.perf_counter()
        with open(os.devnull, 'w') as nowhere, contextlib.redirect_stdout(nowhere):
            self.shell.run_cell(self.cells[cell_id], silent=True).raise_error()
        return time.perf_counter() - start


def notebook_cells(name, folder, precision='float32'):
    """Return train(count, epochs) -> seconds for the notebook's own cells."""
    notebook = Notebook(name, {'data_dir': str(folder), 'precision': precision})
    for cell_id in notebook.cells:
        if cell_id == 'train':
            break
        if cell_id not in DRAWING:
            notebook.run(cell_id)
    all_images = notebook.variables['train_images']

    def train(count, epochs):
        notebook.variables.update(train_images=all_images[:count], steps=count // BATCH_SIZE, epochs=epochs)
        notebook.run('batches')
        return notebook.run('train')

    return train


def original_graph(name, folder):
    """Return train(count, epochs) -> seconds for the original's loop over a graph of TensorFlow 1."""
    from original import Original, first_weights
    images = read_images(folder, name)
    network = Original(first_weights(name, seed=0), LEARNING_RATE)

    def train(count, epochs):
        start = time.perf_counter()
        for _ in range(epochs):
            shuffled = images[np.random.permutation(count)]
            for step in range(count // BATCH_SIZE):
                clean = shuffled[step * BATCH_SIZE:(step + 1) * BATCH_SIZE]
                noisy = clean
                if name != 'BasicAE':
                    noisy = np.clip(clean + NOISE_FACTOR * np.random.randn(*clean.shape), 0, 1)
                network.step(noisy, clean)
        return time.perf_counter() - start

    return train


def plain_keras(name, folder):
    """Return train(count, epochs) -> seconds for Keras used as in its denoising example, with the article's layers."""
    import keras
    import tensorflow as tf
    layers = keras.layers
    images = read_images(folder, name)
    if name == 'ConvDAE':
        stack = [keras.Input((28, 28, 1))]
        for filters in (64, 64, 32):
            stack += [layers.Conv2D(filters, 3, padding='same', activation='relu'),
                      layers.MaxPooling2D(2, padding='same')]
        for filters in (32, 64, 64):
            stack.append(layers.UpSampling2D(2))
            if filters == 32:
                stack.append(layers.Cropping2D(((0, 1), (0, 1))))
            stack.append(layers.Conv2D(filters, 3, padding='same', activation='relu'))
        stack.append(layers.Conv2D(1, 3, padding='same', activation='sigmoid'))
    else:
        stack = [keras.Input((784,)), layers.Dense({'BasicAE': 64, 'EasyDAE': 32}[name], activation='relu'),
                 layers.Dense(784, activation='sigmoid')]
    model = keras.Sequential(stack)
    model.compile(keras.optimizers.Adam(LEARNING_RATE), 'binary_crossentropy')

    def add_noise(clean):
        if name == 'BasicAE':
            return clean, clean
        return tf.clip_by_value(clean + NOISE_FACTOR * tf.random.normal(tf.shape(clean)), 0, 1), clean

    def train(count, epochs):
        start = time.perf_counter()
        batches = (tf.data.Dataset.from_tensor_slices(images[:count]).shuffle(count)
                   .batch(BATCH_SIZE, drop_remainder=True)
                   .map(add_noise, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE))
        model.fit(batches, epochs=epochs, shuffle=False, verbose=0)
        return time.perf_counter() - start

    return train


def pytorch(name, folder):
    """Return train(count, epochs) -> seconds for PyTorch, eager, images in channels_last."""
    import torch
    from torch import nn
    images = torch.from_numpy(read_images(folder, name))
    if name == 'ConvDAE':
        images = images.permute(0, 3, 1, 2)    # the same memory, seen as channels first
        stack, channels = [], 1
        for filters in (64, 64, 32):
            stack += [nn.Conv2d(channels, filters, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2, ceil_mode=True)]
            channels = filters
        for filters, side in ((32, 7), (64, 14), (64, 28)):
            stack += [nn.Upsample((side, side)), nn.Conv2d(channels, filters, 3, padding=1), nn.ReLU()]
            channels = filters
        model = nn.Sequential(*stack, nn.Conv2d(channels, 1, 3, padding=1)).to(memory_format=torch.channels_last)
    else:
        units = {'BasicAE': 64, 'EasyDAE': 32}[name]
        model = nn.Sequential(nn.Linear(784, units), nn.ReLU(), nn.Linear(units, 784))
    loss_function = nn.BCEWithLogitsLoss()
    optimizer = torch.optim.Adam(model.parameters(), LEARNING_RATE, eps=1e-8)

    def train(count, epochs):
        start = time.perf_counter()
        orders = [torch.randperm(count)[:count // BATCH_SIZE * BATCH_SIZE] for _ in range(epochs)]
        for indices in torch.cat(orders).split(BATCH_SIZE):
            clean = images[indices]
            noisy = clean
            if name == 'ConvDAE':
                clean = clean.contiguous(memory_format=torch.channels_last)
            if name != 'BasicAE':
                noisy = (clean + NOISE_FACTOR * torch.randn_like(clean)).clamp(0, 1)
            optimizer.zero_grad()
            loss_function(model(noisy), clean).backward()
            optimizer.step()
        return time.perf_counter() - start

    return train


def matrix_product(precision):
    """Return train(count, epochs) -> GFLOP/s, the best of some products of square matrices, whatever the arguments."""
    import tensorflow as tf
    side = 2048
    matrix = tf.cast(tf.random.uniform((side, side)), precision)
    multiply = tf.function(lambda: tf.matmul(matrix, matrix)[0, 0])

    def train(count, epochs):
        seconds = []
        for _ in range(8):
            start = time.perf_counter()
            multiply().numpy()
            seconds.append(time.perf_counter() - start)
        return 2 * side**3 / min(seconds) / 1e9

    return train


def whole_notebook(name, folder):
    """Return a function -> seconds until the first step, by part; run all other cells too, with one epoch each."""
    start = time.perf_counter()
    short = {'BasicAE': {'size_epochs': 1}, 'EasyDAE': {}, 'ConvDAE': {'dense_epochs': 1}}[name]
    notebook = Notebook(name, {'data_dir': str(folder), 'epochs': 1, **short})
    parts = {'starting IPython': time.perf_counter() - start}
    groups = {'importing': ['setup'], 'loading data': ['download', 'folder', 'load_images', 'images', 'check']}

    def train(count, epochs):
        for cell_id in list(notebook.cells):
            if cell_id == 'train':
                first = 'model.fit(train_batches.take(1), shuffle=False, verbose=0)'
                notebook.cells['first step'] = first
                parts['the first step'] = notebook.run('first step')
            seconds = notebook.run(cell_id)
            group = next((group for group, ids in groups.items() if cell_id in ids), 'drawing figures, building')
            if 'the first step' not in parts:
                parts[group] = parts.get(group, 0) + seconds
        return parts

    return train


def serve(connection, make, arguments):
    """Make a contestant, have it train as each order that arrives says, or tell its peak memory so far in MB."""
    os.environ['TF_CPP_MIN_LOG_LEVEL'] = '3'
    os.environ['MPLBACKEND'] = 'agg'
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)    # TensorFlow's log lines
    try:
        train = make(*arguments)
        connection.send('ready')
        unit = 1 if sys.platform == 'darwin' else 1024    # what ru_maxrss counts in, in bytes
        while (order := connection.recv()) is not None:
            if order == 'peak memory':
                connection.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6)
            else:
                connection.send(train(*order))
    except Exception as error:
        connection.send(error)


class Contestant:
    """A way to train a network, in a process of its own."""

    def __init__(self, make, *arguments):
        """Start the process and wait until it is ready."""
        context = multiprocessing.get_context('spawn')
        self.connection, other_end = context.Pipe()
        self.process = context.Process(target=serve, args=(other_end, make, arguments), daemon=True)
        self.process.start()
        self.receive()

    def receive(self):
        """Return what the process says next; raise what it raises."""
        answer = self.connection.recv()
        if isinstance(answer, Exception):
            raise answer
        return answer

    def train(self, count=0, epochs=1):
        """Have it train on that many images; return what it returns."""
        self.connection.send((count, epochs))
        return self.receive()

    def peak_memory(self):
        """Return the peak memory of the process so far, in MB."""
        self.connection.send('peak memory')
        return round(self.receive())

    def stop(self):
        """End the process."""
        self.connection.send(None)
        self.process.join()


def gigaflop(name, one_step):
    """Return 1e9 floating point operations of one training step, counting only products of weights and their sums.

    Each is made forward, for the gradient of the weights, and for that of the inputs, but for the first layer.
    """
    if name != 'ConvDAE':
        products = [784 * {'BasicAE': 64, 'EasyDAE': 32}[name]] * 2
    else:
        layers = [(28, 1, 64), (14, 64, 64), (7, 64, 32), (7, 32, 32), (14, 32, 64), (28, 64, 64), (28, 64, 1)]
        products = [side**2 * before * after * (4 if one_step and number in (4, 5) else 9)
                    for number, (side, before, after) in enumerate(layers)]
    return 2 * BATCH_SIZE * (3 * sum(products) - products[0]) / 1e9


def compare(name, folder, rounds):
    """Measure all ways to train a network, in turns; return the record."""
    print(f'{name}: one whole run with a single epoch, for its memory and the time until the first step', flush=True)
    whole = Contestant(whole_notebook, name, folder)
    parts = {part: round(seconds, 2) for part, seconds in whole.train().items()}
    record = {'seconds until the first step': parts, 'peak memory of all cells (MB)': whole.peak_memory()}
    whole.stop()

    total = len(read_images(folder, name))
    contestants = {OURS: Contestant(notebook_cells, name, folder)}
    if name == 'ConvDAE':
        contestants[OURS_BFLOAT16] = Contestant(notebook_cells, name, folder, 'mixed_bfloat16')
    contestants[ORIGINAL] = Contestant(original_graph, name, folder)
    contestants[KERAS] = Contestant(plain_keras, name, folder)
    if importlib.util.find_spec('torch'):
        contestants[PYTORCH] = Contestant(pytorch, name, folder)
    products = {precision: Contestant(matrix_product, precision) for precision in ('float32', 'bfloat16')}

    for contestant in contestants.values():
        contestant.train(10 * BATCH_SIZE)    # the first steps build graphs
    peaks = {precision: 0 for precision in products}
    epochs, memory = {label: [] for label in contestants}, {}
    for number, part in enumerate(rounds, start=1):
        count, times = total // part, max(1, round(part * EPOCHS[name]))
        for precision, contestant in products.items():
            peaks[precision] = max(peaks[precision], contestant.train())
        for label, contestant in contestants.items():
            seconds = contestant.train(count, times) / times
            epochs[label].append((count, seconds))
            if count == total:
                memory.setdefault(label, contestant.peak_memory())    # of training on all images, once
            print(f'{name}, round {number}/{len(rounds)}, {count:,} images, {label}: '
                  f'{1000 * seconds / (count // BATCH_SIZE):.2f} ms per step', flush=True)

    record['matrix product (GFLOP/s)'] = {precision: round(peak) for precision, peak in peaks.items()}
    record['contestants'] = {}
    for label, contestant in contestants.items():
        milliseconds = [1000 * seconds / (count // BATCH_SIZE) for count, seconds in epochs[label]]
        speed = gigaflop(name, one_step=label.startswith(OURS)) / median(milliseconds) * 1000
        peak = peaks['bfloat16' if label == OURS_BFLOAT16 else 'float32']
        record['contestants'][label] = {
            'ms per step': [round(value, 2) for value in milliseconds],
            'seconds per epoch': {
                count: round(median(seconds for images, seconds in epochs[label] if images == count), 2)
                for count in sorted({count for count, _ in epochs[label]})},
            'peak memory (MB)': memory.get(label) or contestant.peak_memory(),
            'GFLOP/s': round(speed, 1),
            'share of the matrix product': round(speed / peak, 3),
        }
    for contestant in (*contestants.values(), *products.values()):
        contestant.stop()
    return record


def table(results):
    """Return the results as lines of Markdown."""
    lines = ['| network | trained by | ms per step: median (min to max) | times ours | peak memory | GFLOP/s '
             '(of the matrix product) | seconds per epoch at 1/4, 1/2, all images |',
             '| --- | --- | --- | --- | --- | --- | --- |']
    for name, record in results.items():
        ours = median(record['contestants'][OURS]['ms per step'])
        for label, result in record['contestants'].items():
            times = result['ms per step']
            epochs = ' / '.join(f'{seconds:.1f}' for seconds in result['seconds per epoch'].values())
            lines.append(
                f'| {name} | {label} | {median(times):.2f} ({min(times):.2f} to {max(times):.2f}) | '
                f'{median(times) / ours:.2f} | {result["peak memory (MB)"]:,} MB | {result["GFLOP/s"]:.0f} '
                f'({100 * result["share of the matrix product"]:.0f} %) | {epochs} |')
    return lines


def waiting(results):
    """Return as lines of Markdown the seconds until the first training step, and the peak memory of a whole run."""
    parts = list(next(iter(results.values()))['seconds until the first step'])
    lines = [f'| network | {" | ".join(parts)} | in all | peak memory of a whole run |',
             '| --- |' + ' --- |' * (len(parts) + 2)]
    for name, record in results.items():
        seconds = [record['seconds until the first step'][part] for part in parts]
        times = ' | '.join(f'{value:.1f} s' for value in (*seconds, sum(seconds)))
        lines.append(f'| {name} | {times} | {record["peak memory of all cells (MB)"]:,} MB |')
    return lines


def main():
    """Measure the networks named on the command line, or all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('names', nargs='*', metavar='network', help='which ones (default: all three)')
    parser.add_argument('--data', type=Path, default=ROOT / 'MNIST_data', help='folder of the archives')
    parser.add_argument('--output', type=Path, default=RESULTS, help='where to write the record')
    parser.add_argument('--rounds', type=int, help='stop after that many rounds')
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(NETWORKS):
        parser.error(f'there is no network {", ".join(sorted(unknown))}: choose from {", ".join(NETWORKS)}')
    if not (arguments.data / 'train-images-idx3-ubyte.gz').exists():
        parser.error(f'there are no archives of MNIST in {arguments.data}: run a notebook, or name a folder '
                     'with --data')
    record = json.loads(arguments.output.read_text()) if arguments.output.exists() else {}
    for name in arguments.names or NETWORKS:
        record[name] = compare(name, arguments.data.resolve(), ROUNDS[name][:arguments.rounds])
        record[name]['versions'] = {'python': platform.python_version()} | {
            package: importlib.metadata.version(package) for package in ('tensorflow', 'keras', 'numpy', 'torch')
            if importlib.util.find_spec(package)}
        record[name]['cores'] = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
        record = {name: record[name] for name in NETWORKS if name in record}
        arguments.output.write_text(json.dumps(record, indent=1) + '\n')
    print(*table(record), '', *waiting(record), sep='\n')
    return 0


if __name__ == '__main__':
    sys.exit(main())
