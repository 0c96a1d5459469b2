"""Measure how fast the notebooks train, beside other ways to train the same networks.

    .venv/bin/python benchmarks/compare.py              everything, about an hour on two cores
    .venv/bin/python benchmarks/compare.py EasyDAE      one network; the others keep their numbers
    .venv/bin/python benchmarks/compare.py batches      ConvDAE with batches of 32, 128 and 512 images

Each side has a process of its own, a Jupyter kernel; they take turns, in an order drawn at random in each round. A turn
trains for fewer and for more epochs, after one that warms up; only the difference counts, so starting does not. A turn
in which other programs kept the processors busy is made again.
After each network the record is written: an interruption loses no other, and what other processors took stays in it.
At the end, or at once with --tables, the tables in benchmarks/README.md are renewed. Without PyTorch its rows stay as
they are recorded. Close what else keeps the machine busy.
"""
import argparse
import ast
import gzip
import hashlib
import importlib.metadata
import importlib.util
import itertools
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from statistics import median

import nbformat
import numpy as np
import psutil
from nbclient import NotebookClient
from traitlets.config import Config

ROOT = Path(__file__).resolve().parent.parent
RECORD = ROOT / 'benchmarks' / 'compare.json'
LEARNING_RATE, NOISE_FACTOR = 0.001, 0.5
QUIET = 0.03    # share of the processors' time that other programs may take where seconds count
TRAIN, TEST = 'train-images-idx3-ubyte.gz', 't10k-images-idx3-ubyte.gz'
# Training images, and epochs that are measured: ConvDAE is slow, so it gets a part, and the others all images. The end
# of an epoch takes time too, so a part must not be too small.
IMAGES = {'BasicAE': 60_000, 'EasyDAE': 60_000, 'ConvDAE': 40 * 128, 'batches': 8 * 512}
EPOCHS = {'BasicAE': 6, 'EasyDAE': 6, 'ConvDAE': 1, 'batches': 1}
DRAWING = {'look', 'noise', 'filters', 'loss'}    # cells before the training that only draw
GRAPH = "the original's loop, graph API"
# Has glibc's malloc keep freed memory, in place of handing it back and taking it anew, page by page, in each step.
KEPT = {'MALLOC_MMAP_MAX_': '0', 'MALLOC_TRIM_THRESHOLD_': '100000000000', 'MALLOC_TOP_PAD_': '536870912'}


def code_cells(notebook):
    """Return the code cells of a notebook by their names, which are the tags that do not fold them.

    Raises ValueError for a cell without a name, or with more than one.
    """
    cells = [cell for cell in notebook.cells if cell.cell_type == 'code']
    names = [[tag for tag in cell.metadata.get('tags', []) if tag != 'hide-input'] for cell in cells]
    for cell in (cell for cell, tags in zip(cells, names) if len(tags) != 1):
        raise ValueError(f'this cell needs one tag, its name (see CONTRIBUTING): {cell.source:.60}')
    return {tag: cell for (tag,), cell in zip(names, cells)}


def read_cells(name):
    """Return name -> source of the code cells of a notebook of the project."""
    return {key: cell.source for key, cell in code_cells(nbformat.read(ROOT / f'{name}.ipynb', as_version=4)).items()}


def training_cells(name, **parameters):
    """Return name -> source of a notebook's cells up to the training, with other parameters behind its own."""
    sources = {}
    for key, source in read_cells(name).items():
        if key not in DRAWING:
            sources[key] = source
        if key == 'parameters':
            sources['injected'] = '\n'.join(f'{name} = {value!r}' for name, value in parameters.items())
        if key == 'train':
            return sources


class Bare(ast.NodeTransformer):
    """Leaves out of code what no training depends on: docstrings, what is printed, and callbacks, which only watch."""

    def visit_Assign(self, node):
        return None if ast.unparse(node).startswith('history.') else self.generic_visit(node)

    def visit_Expr(self, node):
        only_said = isinstance(node.value, ast.Constant) or ast.unparse(node).startswith('print(')
        return None if only_said else self.generic_visit(node)

    def visit_keyword(self, node):
        return None if node.arg == 'callbacks' else self.generic_visit(node)


class OnlyTraining(Bare):
    """Leaves out what checks, draws or measures, and the definitions of callbacks, too."""

    def visit_FunctionDef(self, node):
        return None if node.name.startswith(('plot', 'measure')) else self.generic_visit(node)

    def visit_Assign(self, node):
        text, others = ast.unparse(node), ('history.', 'limits =', 'as_original =')
        return None if text.startswith(others) or 'keras.callbacks' in text else node

    def visit_ClassDef(self, node):
        return None if 'callbacks' in ast.unparse(ast.Tuple(node.bases)) else self.generic_visit(node)

    def visit_For(self, node):
        return None if 'limits' in ast.unparse(node.iter) else self.generic_visit(node)

    def visit_If(self, node):
        return None if all(isinstance(each, ast.Raise) for each in node.body) else self.generic_visit(node)


def digest(name):
    """Return the SHA-256 of the code that a network's notebook trains with, and of the parameters that this uses."""
    cells = {key: ast.parse(source.removeprefix('%%time\n')) for key, source in training_cells(
        'ConvDAE' if name == 'batches' else name).items() if key not in ('load_images', 'plot', 'injected')}
    parameters = cells.pop('parameters').body
    trees = [OnlyTraining().visit(tree) for tree in cells.values()]
    used = {node.id for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Name)}
    trees += [node for node in parameters if node.targets[0].id in used]
    return hashlib.sha256('\n'.join(map(ast.unparse, trees)).encode()).hexdigest()


class Kernel:
    """Runs cells in a process of its own, with these variables of the environment, until the stack is left."""

    def __init__(self, stack, **environment):
        config = Config(KernelManager={'transport_encryption': 'auto'})
        where = {'metadata': {'path': str(ROOT)}}
        self.client = NotebookClient(nbformat.v4.new_notebook(), timeout=None, resources=where, config=config)
        yours = {key: value for key, value in os.environ.items() if not key.startswith(OTHERS)}
        # Without TensorFlow's log lines; to see why a kernel died, take this stderr away.
        stack.enter_context(self.client.setup_kernel(stderr=subprocess.DEVNULL, env={**yours, **environment}))

    def run(self, source):
        """Run a cell and return what it printed; raise nbclient's CellExecutionError where it fails."""
        cell = nbformat.v4.new_code_cell(source)
        self.client.nb.cells.append(cell)
        self.client.execute_cell(cell, len(self.client.nb.cells) - 1)
        return ''.join(output.text for output in cell.outputs if output.get('name') == 'stdout')


def renew_tables(script, tables):
    """Put the tables of a script into the place in benchmarks/README.md that is marked as its own."""
    path, begin, end = ROOT / 'benchmarks' / 'README.md', f'<!-- Begin of {script} -->', f'<!-- End of {script} -->'
    before, _, rest = path.read_text(encoding='utf-8').partition(begin)
    path.write_text(f'{before}{begin}\n\n{tables}\n\n{end}{rest.partition(end)[2]}', encoding='utf-8')


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
    (part / TEST).write_bytes((folder / TEST).read_bytes())
    return len(pixels)


def original(name, folder, batch_size=128, threads=0):
    """Train in the original's loop, an epoch at each next(): batches and noise from numpy. threads: 0, the default."""
    import tensorflow as tf
    from original import Original, first_weights
    tf.config.threading.set_intra_op_parallelism_threads(threads)    # a session without settings takes these
    shape = (-1, 28, 28, 1) if name == 'ConvDAE' else (-1, 784)
    images = read_pixels(Path(folder, TRAIN)).reshape(shape) / np.float32(255)
    network = Original(first_weights(name, seed=0), LEARNING_RATE)
    while True:
        shuffled = images[np.random.permutation(len(images))]
        for end in range(batch_size, len(images) + 1, batch_size):
            clean = noisy = shuffled[end - batch_size:end]
            if name != 'BasicAE':
                noisy = np.clip(clean + NOISE_FACTOR * np.random.randn(*clean.shape), 0, 1)
            network.step(noisy, clean)
        yield


OPTIONS = {'one thread': {'threads': 1}, 'fused Adam': {'fused': True}, '`torch.compile`': {'compiled': True},
           'rewritten': {'rewritten': True}, 'batches ahead': {'ahead': True},
           '`fast = False`': {'fast': False}, 'bfloat16': {'precision': 'bfloat16'},
           **{f'batches of {size}': {'batch_size': size} for size in (32, 128, 512)}}
PLAIN, FUSED, COMPILED = 'PyTorch, plain', 'PyTorch, fused Adam', '`torch.compile`'
BEST, SINGLE = f'{FUSED}, pages kept', f'{FUSED}, one thread'
DENSE = ['notebook', GRAPH, f'{GRAPH}, one thread', PLAIN, FUSED, f'{FUSED}, {COMPILED}',
         SINGLE, f'{SINGLE}, {COMPILED}', f'{SINGLE}, batches ahead']
SIDES = {'BasicAE': DENSE, 'EasyDAE': DENSE, 'ConvDAE': [
    'notebook', 'notebook, pages kept', 'notebook, `fast = False`', 'notebook, bfloat16', GRAPH, PLAIN, BEST,
    f'{BEST}, batches ahead', f'{BEST}, {COMPILED}', f'{BEST}, bfloat16', f'{BEST}, rewritten',
    f'{BEST}, rewritten, {COMPILED}', f'{BEST}, rewritten, bfloat16'], 'batches': [
        f'{side}, batches of {size}' for size in (32, 128, 512) for side in ('notebook', BEST, f'{BEST}, rewritten')]}
# Would set threads, allocators or compilers for a side that says nothing of them.
OTHERS = ('LD_PRELOAD', 'MALLOC_', 'OMP_', 'GOMP_', 'KMP_', 'MKL_', 'ONEDNN_', 'DNNL_', 'TF_', 'XLA_', 'TORCH')


def usage():
    """Print for this process: seconds on a clock and of processors, minor page faults, peak KiB, threads inside."""
    import resource  # not at the top: Windows does not have it

    tensorflow, torch, used = *map(sys.modules.get, ('tensorflow', 'torch')), resource.getrusage(resource.RUSAGE_SELF)
    threads = (tensorflow.config.threading.get_intra_op_parallelism_threads() if tensorflow else
               torch.get_num_threads()) or int(os.environ.get('TF_NUM_INTRAOP_THREADS', 0)) or os.cpu_count()
    print([time.perf_counter(), used.ru_utime + used.ru_stime, used.ru_minflt, used.ru_maxrss, threads])


def processor():
    """Return the name of the processor, with the numbers of its generation where Linux tells them."""
    path = Path('/proc/cpuinfo')
    first = path.read_text().split('\n\n')[0] if path.exists() else ''
    about = {key.strip(): value.strip() for key, _, value in (line.partition(':') for line in first.splitlines())}
    generation = ', '.join(f'{key.split()[-1]} {about[key]}' for key in ('cpu family', 'model') if key in about)
    return about.get('model name', platform.machine()) + f' ({generation})' * bool(generation)


def busy():
    """Return the seconds that all programs have kept the processors busy."""
    times = psutil.cpu_times()
    return sum(times) - times.idle - getattr(times, 'iowait', 0)


def begin(stack, name, side, folder):
    """Return the kernel of a side of a network, ready to train, the cell that trains, and the images in a batch."""
    options = {key: value for part in side.split(', ') for key, value in OPTIONS.get(part, {}).items()}
    if side.startswith('notebook'):
        if 'precision' in options:
            options['fast'] = options.pop('precision')    # as ConvDAE calls it
        *before, cell = training_cells(name, data_dir=folder, **options).values()
    else:
        function = 'in_pytorch.train' if side.startswith('PyTorch') else 'compare.original'
        before = [f'import {function.split(".")[0]}', f'train = {function}({name!r}, {folder!r}, **{options!r})',
                  'next(train)']
        cell = 'for _ in range(epochs):\n    next(train)'
    kernel = Kernel(stack, **(KEPT if 'pages kept' in side else {}))
    for each in ('import sys\nsys.path.insert(0, "benchmarks")\nimport compare', *before):
        kernel.run(each)
    return kernel, cell, options.get('batch_size', 128)


def measure(kernel, cell, epochs):
    """Train a side for so many epochs more; return seconds on a clock and of processors, and minor page faults."""
    before = 'len(history.history["loss"]) if "history" in globals() else 0'    # a notebook goes on where it stopped
    kernel.run(f'epochs = {epochs} + ({before})')
    before, _, after = (kernel.run(each) for each in ('compare.usage()', cell, 'compare.usage()'))
    return np.subtract(json.loads(after), json.loads(before))[:3]


def take_turn(kernel, cell, epochs):
    """Return what so many epochs of a side take, as an array; five times at most, until others are not at work."""
    for _ in range(5):
        measure(kernel, cell, 1)    # other sides have had caches and threads
        start = np.array([time.perf_counter() * os.cpu_count(), busy()])
        less, more = (measure(kernel, cell, count) for count in (1, 1 + epochs))
        all_time, all_busy = np.array([time.perf_counter() * os.cpu_count(), busy()]) - start
        if all_busy - less[1] - more[1] < QUIET * all_time:
            break
        print('    others were at work', flush=True)
    return more - less


def compare(group, data, rounds):
    """Measure all sides of a network, or of ConvDAE with several sizes of a batch, in turns; return the record."""
    today, kernels, measured, sides = time.strftime('%Y-%m-%d'), {}, {}, {}
    versions = {package: importlib.metadata.version(package)
                for package in ('tensorflow', 'keras', 'torch') if importlib.util.find_spec(package)}
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        images = write_part(data, Path(folder), IMAGES[group])
        for side in SIDES[group]:
            if 'torch' in versions or not side.startswith('PyTorch'):
                print(f'{group}, {side}: starting', flush=True)
                kernels[side] = begin(stack, 'ConvDAE' if group == 'batches' else group, side, folder)
                measure(*kernels[side][:2], 1)    # the first steps build graphs
        for turn in range(rounds):
            for side in random.sample([*kernels], len(kernels)):
                kernel, cell, size = kernels[side]
                steps = images // size * EPOCHS[group]
                measured.setdefault(side, []).append(take_turn(kernel, cell, EPOCHS[group]) / steps)
                print(f'{group}, round {turn + 1}, {side}: {1000 * measured[side][-1][0]:.2f} ms', flush=True)
        for side, (kernel, _, size) in kernels.items():
            ours = next(each for each in kernels    # the notebook as it comes, of the same precision and batch size
                        if kernels[each][2] == size and ('bfloat16' in each) == ('bfloat16' in side))
            seconds, processor, faults = np.transpose(measured[side])
            ours_seconds = np.transpose(measured[ours])[0]
            ratios = seconds / ours_seconds    # of the turns in the same round
            level = ours != side and min(ratios) <= 1 <= max(ratios)
            *_, peak, threads = json.loads(kernel.run('compare.usage()'))
            sides[side] = {'date': today, 'batch size': size, 'threads': threads,
                           'cores busy': round(median(processor / seconds), 1),
                           'ms per step': [round(1000 * each, 2) for each in seconds],
                           'times notebook': 'level' if level else f'{median(ratios):.2f}',
                           'page faults per step': max(0, round(median(faults))), 'peak memory MB': round(peak / 1024)}
    return {'date': today, 'cells': digest(group), 'cores': os.cpu_count(), 'rounds': rounds,
            'versions': {**versions, 'malloc of': ' '.join(platform.libc_ver())}, 'images': images, 'sides': sides}


def table(record):
    """Return the record as Markdown: for each network and processor a line on the run, and its sides, by size and time.

    record: from a processor to its runs, and in these from a network to its run.
    """
    lines = []
    for group, cpu in itertools.product(SIDES, record):
        if group not in record[cpu]:
            continue
        run = record[cpu][group]
        versions = ', '.join(f'{package} {version}' for package, version in run['versions'].items())
        earlier = '' if run.get('cells') == digest(group) else ' (earlier cells)'
        lines += [f'**{group}**{earlier}, {run["date"]}, {cpu}, {run["cores"]} cores, {versions}; '
                  f'{run["rounds"]} rounds with {run["images"]:,} images:', '',
                  '| trained by | threads | cores busy | ms a step: median (least to most) | images a second '
                  '| times notebook | page faults a step | peak memory, MB |', '|' + ' --- |' * 8]
        for size, middle, side in sorted((result['batch size'], median(result['ms per step']), side)
                                         for side, result in run['sides'].items()):
            result, digits = run['sides'][side], 0 if middle >= 10 else 2
            least, most = min(result['ms per step']), max(result['ms per step'])
            date = f' (of {result["date"]})' if result['date'] != run['date'] else ''
            lines.append(f'| {side}{date} | {result["threads"]} | {result["cores busy"]} | {middle:.{digits}f} '
                         f'({least:.{digits}f} to {most:.{digits}f}) | {1000 * size / middle:,.0f} '
                         f'| {result["times notebook"]} | {result["page faults per step"]:,} '
                         f'| {result["peak memory MB"]:,} |')
        lines.append('')
    return '\n'.join(lines[:-1])


def main():
    """Measure what is named on the command line, or everything; write the record and renew its tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('names', nargs='*', metavar='network', help='of ' + ', '.join(SIDES))
    parser.add_argument('--tables', action='store_true', help='measure nothing')
    parser.add_argument('--data', type=Path, default=ROOT / 'MNIST_data', help='folder of the MNIST archives')
    parser.add_argument('--rounds', type=int, default=5, help='turns of each side (default: 5)')
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(SIDES):
        parser.error(f'there is no network {", ".join(sorted(unknown))}: choose from {", ".join(SIDES)}')
    names = [] if arguments.tables else arguments.names or [*SIDES]
    if names and (missing := [name for name in (TRAIN, TEST) if not (arguments.data / name).exists()]):
        parser.error(f'no {" and no ".join(missing)} in {arguments.data}: run a notebook or name a folder with --data')
    record = json.loads(RECORD.read_text())
    for name in names:
        runs = record.setdefault(processor(), {})    # those of other processors stay
        before = runs[name]['sides'] if name in runs else {}
        runs[name] = compare(name, arguments.data, arguments.rounds)
        if 'torch' not in runs[name]['versions']:    # its rows stay, with their date
            runs[name]['sides'] |= {side: before[side] for side in before if side.startswith('PyTorch')}
        write(RECORD, record)
    renew_tables('compare.py', table(record))


if __name__ == '__main__':
    main()
