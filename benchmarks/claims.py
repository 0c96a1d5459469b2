"""Train every network of the article's claims with several seeds, and measure it on all test images.

    .venv/bin/python benchmarks/claims.py                  all of it, some five hours on two cores
    .venv/bin/python benchmarks/claims.py 'dense 32'       some networks
    .venv/bin/python benchmarks/claims.py --tables         train nothing, only renew tables and figure
    .venv/bin/python benchmarks/claims.py --like ../before
                                                           keep the runs of cells that train as those in a folder did

The notebooks' own cells are run on the full MNIST. Writes benchmarks/claims.json after each seed and goes on where it
stopped: what is recorded for today's cells is not trained again. The seconds of an epoch count only when nothing else
kept the machine busy. Renews the tables in benchmarks/README.md, and benchmarks/claims.png.

A cell may change and train as before, as when a variable gets another name. --like names a folder with the project as
it was when the runs were recorded (git worktree add ../before COMMIT). Each network whose cells have changed is trained
on the sample for two epochs there and here, a minute or less; where all losses and measures are the same, its runs are
kept.
"""
import argparse
import ast
import datetime
import hashlib
import importlib.metadata
import json
import multiprocessing
import re
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from statistics import NormalDist, median

import nbformat
import numpy as np
import psutil
from compare import QUIET, ROOT, TEST, TRAIN, Bare, busy, code_cells, processor, read_cells, renew_tables, write

RECORD = ROOT / 'benchmarks' / 'claims.json'
ORIGINAL_LOSSES = ROOT / 'tests' / 'original_losses.json'    # of each epoch, as the notebooks of 2017 printed them
BATCH_SIZE = 128
NOISE_SEED = (2017, 0)    # of the test images, the same for all networks; no training uses it
MEASURED = {1, 2, 3, 5, 7, 10, 15, 20, 25, 30, 40, 50, 65, 80, 100, 125, 150}    # after so many epochs

# What the article sets, and our learning rate in BasicAE. Only the seed, the epochs and the size of a dense network
# differ from run to run.
ARTICLE = {'BasicAE': {'hidden_units': 64, 'learning_rate': 0.001, 'original_learning_rate': 0.01},
           'EasyDAE': {'hidden_units': 32, 'learning_rate': 0.001, 'noise_factor': 0.5},
           'ConvDAE': {'learning_rate': 0.001, 'noise_factor': 0.5, 'fast': True}}
# The digest is of these and of the settings, but for what the dense networks of ConvDAE do without.
CELLS = {'BasicAE': ['images', 'model', 'compile', 'batches', 'train', 'original', 'encode', 'reconstruct'],
         'EasyDAE': ['images', 'normal', 'add_noise', 'model', 'compile', 'batches', 'train', 'reconstruct'],
         'ConvDAE': ['images', 'add_noise', 'model', 'faster', 'fast', 'compile', 'batches', 'train', 'reconstruct']}
TRAINING = ['train', 'original', 'dense', 'skip']
WITHOUT = {'dense': ['model', 'faster', 'fast']}
# Without effect on the results:
BEFORE = ['setup', 'parameters', 'load_images', 'check', 'plot', 'progress', 'measure']

# Changes of cells: the other networks of the study.
DECODER = re.compile(r"    x = layers\.UpSampling2D.*?(?=    logits = )", re.DOTALL)
TRANSPOSED = """    options = {'strides': 2, 'padding': 'same', 'activation': 'relu'}
    x = layers.Conv2DTranspose(32, 3, name='conv4', **options)(x)
    x = layers.Cropping2D(((0, 1), (0, 1)), name='crop')(x)
    x = layers.Conv2DTranspose(64, 3, name='conv5', **options)(x)
    x = layers.Conv2DTranspose(64, 3, name='conv6', **options)(x)
"""
# The cell `faster` knows one decoder; others are computed layer by layer.
FAST_DECODER = re.compile(r"        images = tf\.repeat\(.*?(?=        # To one channel)", re.DOTALL)
LAYERS = """        for layer in self.model.layers[7:-1]:
            images = layer(images)
"""
ENCODER_TOO = re.compile(r"    conv1 = .*?(?=    logits = )", re.DOTALL)
CHAIN = """    x = inputs
    for name in ('conv1', 'conv2', 'conv3', 'conv4'):
        x = layers.Conv2D(64, 3, padding='same', activation='relu', name=name)(x)
"""
SEQUENTIAL = re.compile(r"dense = keras\.Sequential\(.*?name=f'dense_\{units\}'\)", re.DOTALL)
BYPASS = """inputs = keras.Input((28, 28, 1))
    flat = layers.Flatten()(inputs)
    logits = layers.Dense(784)(layers.Dense(units, activation='relu')(flat))
    logits = layers.Add()([logits, layers.EinsumDense('ab,b->ab', output_shape=(784,))(flat)])
    dense = keras.Model(inputs, layers.Reshape((28, 28, 1))(logits))"""
TARGET, NOISY_TARGET = 'noise_seed), images / 255', 'noise_seed), add_noise(images / 255, noise_seed + 1)'
SQUARED = """def loss(clean, logits):
    return tf.reduce_mean(tf.square(clean - tf.sigmoid(logits)), axis=-1)"""


def mean_of_clipped(pixel, factor=ARTICLE['ConvDAE']['noise_factor']):
    """Return the mean of what noise and clipping make of a pixel in [0, 1]: black comes out as grey, white as well."""
    noise = NormalDist(pixel, factor)
    inside = noise.cdf(1) - noise.cdf(0)    # the mean of a truncated normal distribution, and what piles up at 1
    return pixel * inside + factor**2 * (noise.pdf(0) - noise.pdf(1)) + 1 - noise.cdf(1)


def undo(images):
    """Return what clean images must have been if these are the means of noisy ones, taken as linear in between."""
    black, white = map(mean_of_clipped, (0, 1))
    return np.clip((images - black) / (white - black), 0, 1)


class Network:
    """A row of the study: a notebook, its seeds with the epochs of each, and what is changed in its cells."""

    def __init__(self, notebook, seeds, cell='train', changes=(), units=None, after=None, **parameters):
        """Say what is trained.

        cell: its name; it trains. changes: name of a cell, what to look for in it, what to put in its place.
        units: of a dense network in ConvDAE. after: a function of what the network puts out. Others are parameters.
        """
        self.notebook, self.seeds, self.cell, self.changes, self.units = notebook, seeds, cell, changes, units
        self.after, self.more = after, parameters

    def cells(self):
        """Return name -> source of the cells that are run, in the notebook's order, but those that train at the end.

        Raises ValueError when the change no longer fits the notebook and would change nothing.
        """
        wanted = BEFORE + [name for name in CELLS[self.notebook] if name != 'train'] + ['networks', self.cell]
        cells = {name: source for name, source in read_cells(self.notebook).items() if name in wanted}
        for name, old, new in self.changes:
            before = cells[name]
            cells[name] = before.replace(old, new) if isinstance(old, str) else old.sub(new, before)
            if cells[name] == before:
                raise ValueError(f'claims.py looks in the cell {name} of {self.notebook} for this, to put something '
                                 f'else in its place, and does not find it: {getattr(old, "pattern", old)}')
        return {name: cells[name] for name in sorted(cells, key=lambda each: each in TRAINING)}

    def digest(self):
        """Return the SHA-256 of what results depend on: settings, and code without what only describes or prints."""
        trees = [Bare().visit(ast.parse(source.removeprefix('%%time\n')))
                 for name, source in self.cells().items() if name not in BEFORE + WITHOUT.get(self.cell, [])]
        settings = repr([self.parameters(0), NOISE_SEED, self.after and self.after.__name__])
        return hashlib.sha256('\n'.join([settings, *map(ast.unparse, trees)]).encode()).hexdigest()

    def parameters(self, seed):
        """Return the parameters of a run."""
        return {**ARTICLE[self.notebook], **self.more, 'batch_size': BATCH_SIZE, 'seed': seed,
                'skip_epochs' if self.cell == 'skip' else 'epochs': self.seeds[seed],
                **({'dense_units': [self.units]} if self.units else {})}


# Marks and colours of the figure, as in ConvDAE.
LOOKS = {'skip connections': ('v', '#E69F00'), 'convolutional': ('o', '#0072B2'), 'dense 512': ('D', '#CC79A7'),
         'dense 76': ('^', '#009E73'), 'dense 32': ('s', '#D55E00')}
FIVE, THREE = {0: 30, 1: 30, 2: 30, 3: 10, 4: 10}, dict.fromkeys(range(3), 10)    # from a seed to the epochs
STUDY = {
    'convolutional': Network('ConvDAE', FIVE),
    'skip connections': Network('ConvDAE', FIVE, 'skip'),
    'dense 32': Network('ConvDAE', dict.fromkeys(range(5), 30), 'dense', units=32),
    'dense 76': Network('ConvDAE', dict.fromkeys(range(5), 30), 'dense', units=76),
    'dense 512': Network('ConvDAE', {0: 150, 1: 150, 2: 150, 3: 30, 4: 30}, 'dense', units=512),
    'dense 512 with a bypass': Network('ConvDAE', THREE, 'dense', [('dense', SEQUENTIAL, BYPASS)], 512),
    'plain chain': Network('ConvDAE', dict.fromkeys(range(3), 3), changes=[('model', ENCODER_TOO, CHAIN)], fast=False),
    'noisy targets, undone': Network('ConvDAE', THREE, changes=[('batches', TARGET, NOISY_TARGET)], after=undo),
    'transposed convolutions': Network('ConvDAE', THREE, changes=[
        ('model', DECODER, TRANSPOSED), ('faster', FAST_DECODER, LAYERS)]),
    'bilinear upsampling': Network('ConvDAE', THREE, changes=[
        ('model', 'UpSampling2D(2,', "UpSampling2D(2, interpolation='bilinear',"), ('faster', FAST_DECODER, LAYERS)]),
    'EasyDAE, squared error': Network('EasyDAE', dict.fromkeys(range(3), 30), changes=[
        ('compile', 'loss = keras.losses.BinaryCrossentropy(from_logits=True)', SQUARED)]),
    'BasicAE': Network('BasicAE', dict.fromkeys(range(5), 20)),
}


def highest_frequencies(images):
    """Return the share of the power of images (count, 28, 28) at the highest frequency across or down, in per mille.

    A checkerboard, which changes from one pixel to the next, has all its power there. The mean is left out.
    """
    images = np.reshape(images, (-1, 28, 28)).astype('float64')
    power = np.abs(np.fft.fft2(images - images.mean(axis=(1, 2), keepdims=True)))**2
    return 1000 * (power[:, 14].sum() + power[:, :, 14].sum() - power[:, 14, 14].sum()) / power.sum()


def train(name, seed, folder):
    """Train a network of the study with a seed in this process; return what is recorded of it and of the run."""
    from IPython.core.interactiveshell import InteractiveShell
    shell, network = InteractiveShell.instance(), STUDY[name]
    space, cells, run = shell.user_ns, network.cells(), {'losses': [], 'seconds': None, 'measures': {}}
    seconds, quiet = [], []
    process = psutil.Process()

    def clocks():
        """Return seconds on a clock, and those that all programs, and this one, have kept the processors busy."""
        return np.array([time.perf_counter(), busy(), sum(process.cpu_times()[:2])])

    def measure(model):
        """Return the measures of quality of a model for all test images."""
        test_images = space['test_images']
        given = test_images if network.notebook == 'BasicAE' else space['add_noise'](test_images, NOISE_SEED).numpy()
        images = space['reconstruct'](model, given)
        images = network.after(images) if network.after else images
        values = dict(zip(('cross-entropy', 'psnr', 'ssim'), map(float, space['measure'](images))))
        if network.notebook == 'ConvDAE':
            values['highest frequencies'] = highest_frequencies(images)
        return {key: round(float(value), 4) for key, value in values.items()}

    for cell, source in cells.items():
        if cell == 'parameters':
            source += ''.join(f'\n{key} = {value!r}' for key, value in network.parameters(seed).items())
            source += f'\ndata_dir = {folder!r}'
        shell.run_cell(source).raise_error()
        if cell == 'progress':
            class Watch(space['keras'].callbacks.History):
                """Takes the place of what shows how far the training is: records, measures, and counts seconds."""

                def __init__(self):
                    super().__init__()
                    self.history = {'loss': []}    # where ConvDAE looks how many epochs there were

                def on_epoch_begin(self, epoch, logs=None):
                    self.start = clocks()

                def on_epoch_end(self, epoch, logs=None):
                    passed, everything, own = clocks() - self.start
                    run['losses'].append(round(logs['loss'], 5))
                    seconds.append(passed)
                    # Clocks of processors tick in hundredths of a second, which in a short epoch are more than that.
                    quiet.append(everything - own < QUIET * passed * psutil.cpu_count() + 0.04)
                    if epoch + 1 in MEASURED | {self.params['epochs']}:
                        run['measures'][str(epoch + 1)] = measure(self.model)
                    print(f'  epoch {epoch + 1} of {self.params["epochs"]}, loss {logs["loss"]:.4f}, {passed:.1f} s'
                          f'{"" if quiet[-1] else ", while others were at work"}', flush=True)

            if network.notebook == 'ConvDAE':
                space['Progress'] = Watch
            else:
                space['show_loss'] = Watch()
    if any(quiet):    # what was disturbed took as long as the others
        typical = median(second for second, calm in zip(seconds, quiet) if calm)
        run['seconds'] = round(sum(second if calm else typical for second, calm in zip(seconds, quiet)), 1)
    if network.notebook == 'BasicAE':
        high = space['high_rate_model']
        hidden = space['encode'](high, space['test_images'])
        run |= {'losses at 0.01': [round(loss, 5) for loss in space['high_rate_losses']],
                'dead units at 0.01': int((hidden.max(axis=0) == 0).sum())}
    trained = space[{'dense': 'dense', 'skip': 'skip_model'}.get(network.cell, 'model')]
    about = {'weights': trained.count_params(),
             'highest frequencies of clean images': round(float(highest_frequencies(space['test_images'])), 4)}
    return about, run


def train_short(name, project):
    """Return the digest of a network in a folder of the project, and what two epochs on the sample give there."""
    code = f'''import claims, json
network = claims.STUDY[{name!r}]
digest, network.seeds = network.digest(), {{0: 2}}
about, run = claims.train({name!r}, 0, {str(ROOT / 'MNIST_data' / 'sample')!r})
print(json.dumps([digest, {{**about, **run, 'seconds': None}}]))'''
    done = subprocess.run([sys.executable, '-c', code], cwd=Path(project, 'benchmarks'), check=True,
                          stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def keep_alike(record, names, before):
    """Give the runs of networks that train as in the folder `before` the digest of today's cells."""
    for name in names:
        if name in record and record[name]['cells'] != STUDY[name].digest():
            (old, expected), (new, found) = (train_short(name, project) for project in (before, ROOT))
            if old != record[name]['cells']:
                print(f'{name}: the runs are of other cells than those in {before}')
            elif found != expected:
                print(f'{name}: trains otherwise than in {before}')
            else:
                record[name]['cells'] = new
                print(f'{name}: trains as before')


def recorded(network, seed, epochs):
    """Return whether the record of a network has a run with that seed and so many epochs."""
    return len(network['runs'].get(str(seed), {'losses': []})['losses']) == epochs


def pace(network):
    """Return the seconds that an epoch takes, the median of the runs in which they are known, or nothing."""
    paces = [run['seconds'] / len(run['losses']) for run in network['runs'].values() if run['seconds']]
    return median(paces) if paces else None


def spread(values, digits):
    """Return the lowest and the highest of some numbers as text, or the only one."""
    low, high = (f'{value:.{digits}f}' for value in (min(values), max(values)))
    return low if low == high else f'{low} to {high}'


def measures_after(network, epochs, key):
    """Return what the runs of a network measured after so many epochs, or nothing."""
    return [run['measures'][str(epochs)][key] for run in network['runs'].values() if str(epochs) in run['measures']]


def tables(record):
    """Return the record as Markdown: measures after some epochs, last losses beside the original's, dead units."""
    lines = ['| network | weights | epochs | seeds | s an epoch | cross-entropy | PSNR, dB | SSIM | high frequencies |',
             '| --- | --- | --- | --- | --- | --- | --- | --- | --- |']
    clean = None
    for name, network in record.items():
        for epochs in (3, 10, 20, 30, 150) if name != 'BasicAE' else (20,):
            if psnr := measures_after(network, epochs, 'psnr'):
                cross_entropy, ssim = (measures_after(network, epochs, key) for key in ('cross-entropy', 'ssim'))
                pattern = measures_after(network, epochs, 'highest frequencies') if 'AE' not in name else []
                lines.append(f'| {name} | {network["weights"]:,} | {epochs} | {len(psnr)} | '
                             f'{"not known" if pace(network) is None else format(pace(network), ".1f")} | '
                             f'{spread(cross_entropy, 4)} | {spread(psnr, 2)} | {spread(ssim, 3)} | '
                             f'{spread(pattern, 2) if pattern else ""} |')
                clean = network['highest frequencies of clean images']
    if clean is not None:
        lines += [f'| the clean images | | | | | | | | {clean:.2f} |', '',
                  'High frequencies: the share of the power of the denoised test images, in per mille.']
        runs = [run for network in record.values() for run in network['runs'].values()]
        counts = Counter(run.get('processor', 'not recorded') for run in runs)
        lines.append('Processors: ' + ', '.join(f'{cpu} ({count} runs)' for cpu, count in sorted(counts.items())) + '.')
    lines += ['', "| last loss of | the original | ours: lowest | median | highest | higher than the original |",
              '| --- | --- | --- | --- | --- | --- |']
    originals = json.loads(ORIGINAL_LOSSES.read_text())
    for label, name, notebook, key in (('ConvDAE', 'convolutional', 'ConvDAE', 'losses'),
                                       ('EasyDAE', 'dense 32', 'EasyDAE', 'losses'),
                                       ('BasicAE', 'BasicAE', 'BasicAE', 'losses'),
                                       ('BasicAE, at 0.01', 'BasicAE', 'BasicAE', 'losses at 0.01')):
        curve = originals[notebook]['mean_loss_per_epoch']
        if losses := [run[key][len(curve) - 1] for run in record.get(name, {'runs': {}})['runs'].values()]:
            numbers = ' | '.join(f'{number:.4f}' for number in (curve[-1], min(losses), median(losses), max(losses)))
            lines.append(f'| {label} | {numbers} | {sum(loss > curve[-1] for loss in losses)} of {len(losses)} |')
    if dead := sorted((run['losses at 0.01'][-1], run['dead units at 0.01']) for run in
                      record.get('BasicAE', {'runs': {}})['runs'].values()):
        lines += ['', "At the original's learning rate some hidden units die: they put out 0 for every test image.", '',
                  '| loss | ' + ' | '.join(f'{loss:.4f}' for loss, _ in dead) + ' |',
                  '| --- |' + ' --- |' * len(dead),
                  '| dead hidden units | ' + ' | '.join(str(units) for _, units in dead) + ' |']
    return '\n'.join(lines)


def stored_paces():
    """Return the seconds of an epoch of each network in ConvDAE's stored run: one after the other, on one machine."""
    output, = code_cells(nbformat.read(ROOT / 'ConvDAE.ipynb', as_version=4))['table'].outputs
    rows = [line.strip('| ').split(' | ') for line in output.data['text/markdown'].splitlines()[2:-1]]
    return {name: float(seconds) / int(epochs) for name, _, epochs, seconds, *_ in rows}


def draw(record, path):
    """Draw the PSNR over epochs and over seconds, a band from the lowest to the highest seed for each network."""
    import matplotlib as mpl
    mpl.use('agg')
    import matplotlib.pyplot as plt
    plt.style.use(['default', {'font.size': 12}])
    figure, sides = plt.subplots(1, 2, figsize=(10, 4.5), sharey=True, layout='constrained')
    paces = stored_paces()
    for name, (marker, colour) in LOOKS.items():
        runs = record.get(name, {'runs': {}})['runs'].values()
        epochs = sorted({int(each) for run in runs for each in run['measures']})
        for axes, unit in zip(sides, (1, paces[name])):
            if epochs:
                psnr = [measures_after(record[name], each, 'psnr') for each in epochs]
                places = [unit * each for each in epochs]
                axes.fill_between(places, [*map(min, psnr)], [*map(max, psnr)], color=colour, alpha=0.3, lw=0)
                axes.plot(places, [*map(median, psnr)], colour, marker=marker, markersize=4, label=name)
    for axes, label in zip(sides, ('epochs', 'seconds of training, at the pace of ConvDAE')):
        axes.set(xscale='log', xlabel=label)
        axes.xaxis.set_major_formatter('{x:g}')
        axes.grid(alpha=0.3)
    sides[0].set(ylabel='PSNR (dB), higher is better')
    sides[0].legend()
    figure.suptitle('Denoised test images: the median of the seeds, and a band from the lowest to the highest')
    figure.savefig(path, dpi=100)


def main():
    """Train what is asked for and not recorded yet; renew the tables and the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('names', nargs='*', metavar='network', help=f'default: all, {", ".join(STUDY)}')
    parser.add_argument('--tables', action='store_true', help='train nothing')
    parser.add_argument('--like', type=Path, metavar='folder', help='keep the runs of cells that train as those there')
    parser.add_argument('--data', type=Path, default=ROOT / 'MNIST_data', help='folder of the MNIST archives')
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(STUDY):
        parser.error(f'there is no network {", ".join(sorted(unknown))}: choose from {", ".join(STUDY)}')
    record = json.loads(RECORD.read_text())
    if arguments.like:
        keep_alike(record, arguments.names or [*record], arguments.like)
        write(RECORD, record)
        return
    names = [] if arguments.tables else arguments.names or [*STUDY]
    if names and (missing := [file for file in (TRAIN, TEST) if not (arguments.data / file).exists()]):
        parser.error(f'no {" and no ".join(missing)} in {arguments.data}: run a notebook or name a folder with --data')
    for file in (TRAIN, TEST) if names else ():
        if hashlib.sha256((arguments.data / file).read_bytes()).hexdigest() not in read_cells('ConvDAE')['load_images']:
            parser.error(f'{file} in {arguments.data} is not that of MNIST, on which the claims are tested')
    today = {name: record[name] if record.get(name, {}).get('cells') == STUDY[name].digest() else
             {'cells': STUDY[name].digest(), 'runs': {}} for name in names}
    for name in names:
        for seed, epochs in STUDY[name].seeds.items():
            if recorded(today[name], seed, epochs):
                print(f'{name}, seed {seed}: recorded', flush=True)
                continue
            missing = sum(not recorded(today[name], *each) for name in names for each in STUDY[name].seeds.items())
            print(f'{name}, seed {seed}: training for {epochs} epochs; {missing} runs are missing', flush=True)
            with multiprocessing.get_context('spawn').Pool(1) as pool:    # which gives all its memory back
                about, run = pool.apply(train, [name, seed, str(arguments.data.resolve())])
            versions = {package: importlib.metadata.version(package) for package in ('tensorflow', 'keras')}
            today[name] |= about
            today[name]['runs'][str(seed)] = {
                **run, **versions, 'processor': processor(), 'date': datetime.date.today().isoformat()}
            record |= {name: today[name]}    # in place of runs of other cells, now that there is one
            record = {name: record[name] for name in STUDY if name in record}
            write(RECORD, record)
    renew_tables('claims.py', tables(record))
    draw(record, RECORD.with_suffix('.png'))


if __name__ == '__main__':
    main()
