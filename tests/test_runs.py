"""Each notebook, run top to bottom: what it prints, draws and measures is what it says, computed here a second way."""
import copy
import functools
import json
import math
import os
import re
from collections import Counter
from statistics import NormalDist
from types import SimpleNamespace
from unittest import mock

import keras
import numpy as np
import pytest
import tensorflow as tf
from compare import TEST, TRAIN, code_cells, read_pixels
from helpers import NOTEBOOKS, ROOT, assert_clean, cut_sample, execute, figures, prepared, printed, run_cells
from helpers import table as read_table
from original import SHAPES

tf.config.threading.set_intra_op_parallelism_threads(1)    # as the dense notebooks do in a kernel of their own

OTHER = {'batch_size': 100, 'learning_rate': 0.002, 'seed': 3, 'shown': [5, 9, 2]}
PARAMETERS = {    # each is another than in the notebook
    'BasicAE': {**OTHER, 'epochs': 2, 'hidden_units': 37, 'original_learning_rate': 0.05, 'sizes': [2, 30],
                'size_epochs': 1},
    'EasyDAE': {**OTHER, 'epochs': 2, 'hidden_units': 37, 'noise_factor': 0.3, 'average_of': 7,
                'average_factors': [0.8, 0.3], 'sizes': [2, 30], 'size_epochs': 1},
    'ConvDAE': {**OTHER, 'epochs': 2, 'noise_factor': 0.3, 'dense_units': [37], 'skip_epochs': 1, 'distances': [0, 4],
                'noise_factors': [0.7, 0.0], 'model_file': '~/kept.keras'},
}
IMAGES = {'BasicAE': (4000, 1000), 'EasyDAE': (4000, 1000), 'ConvDAE': (1000, 300)}    # of the sample
MADE = ('reconstructed', 'denoised', 'EasyDAE,\n37 numbers')    # names of rows that the notebook's own network makes


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
    """Return a function from a name to what came of short runs of that notebook, which are made once."""
    @functools.cache
    def run_once(name):
        folder = tmp_path_factory.mktemp('my notebooks, Übung 数字')
        data = cut_sample(folder / 'MNIST_data', *IMAGES[name])
        with mock.patch.dict(os.environ, HOME=str(folder)):
            notebook = execute(name, folder, **PARAMETERS[name])
            cells = code_cells(prepared(name, data_dir=data, **PARAMETERS[name]))
            space = run_cells(cells.values())
            first = copy.deepcopy(cells)
            run_cells([cell for each, cell in cells.items() for _ in range(2 - (each == 'train'))], space)
        train, test = (read_pixels(folder / 'MNIST_data' / each) / 255 for each in (TRAIN, TEST))
        networks = {**getattr(space, 'networks', {}), **dict.fromkeys(MADE, space.model)}
        return SimpleNamespace(name=name, folder=folder, notebook=notebook, first=first, cells=cells, space=space,
                               networks=networks, train=train, test=test.reshape(-1, 28, 28))
    return run_once


@pytest.fixture(params=NOTEBOOKS)
def run(request, runs):
    return runs(request.param)


# Fixtures for what only one of the notebooks has.
basic, easy, conv = (pytest.fixture(lambda runs, name=name: runs(name)) for name in NOTEBOOKS)


def drawn(run, cell, number=0):
    """Return what a figure of a cell shows."""
    return SimpleNamespace(**figures(run.cells[cell])[number])


def steady(cells):
    """Return what cells put out, but for seconds."""
    seconds = r'(CPU times|Wall time).*|\| \d+ (?=\| 0\.)'    # the column of that name comes before the cross-entropy
    return {name: (re.sub(seconds, '', printed(cell)), [{**figure, 'peak': 0} for figure in figures(cell)])
            for name, cell in cells.items() if name != 'time_curve'}


def noisy(run, images, factor=0.3):
    """Return images under the noise that a notebook puts on all that it tests with; test_article.py is on its kind."""
    shape = (-1, 28, 28, 1) if run.name == 'ConvDAE' else (-1, 784)
    return run.space.add_noise(np.float32(images).reshape(shape), (3, 0), factor).numpy().reshape(np.shape(images))


def rebuild(model, images):
    """Return what a model makes of images, shape (count, height, width)."""
    logits = model.predict(np.reshape(images, (-1, *model.input_shape[1:])), verbose=0).astype(float)
    return 1 / (1 + np.exp(-logits.reshape(np.shape(images))))


def hidden_numbers(model, images):
    """Return the hidden numbers of a dense network for images."""
    weights, biases = model.get_weights()[:2]
    return np.maximum(images.reshape(-1, 784) @ weights + biases, 0)


def psnr(clean, images):
    """Return the mean peak signal-to-noise ratio of images."""
    squares = np.mean((np.reshape(clean, (-1, 784)) - np.reshape(images, (-1, 784)))**2, axis=1)
    with np.errstate(divide='ignore'):
        return np.mean(-10 * np.log10(squares))


def measures(clean, images):
    """Return cross-entropy, PSNR and SSIM of images."""
    images = np.reshape(images, clean.shape).astype(float)
    pixels = np.clip(images, np.float32(1e-7), 1 - np.float32(1e-7))    # as Keras does, in float32
    cross_entropy = -np.mean(clean * np.log(pixels) + (1 - clean) * np.log(1 - pixels))
    ssim = tf.image.ssim(clean[..., np.newaxis], images[..., np.newaxis], max_val=1)
    return cross_entropy, psnr(clean, images), np.mean(ssim)


def close(found, expected, atol=1e-4):
    """Fail where numbers or images of the same shape differ by more; images may be flat."""
    np.testing.assert_allclose(*(np.asarray(each, float).ravel() for each in (found, expected)), rtol=0, atol=atol)


def test_runs_clean(run):
    """No warnings, redrawn lines, or paths of this machine, nor the reader's colours; only the network is written."""
    assert_clean(run.notebook)
    looks = [each['look'] for cell in code_cells(run.notebook).values() for each in figures(cell) if each['rows']]
    assert looks == [[0, 1, 'Greys_r', [1, 1, 1, 1]]] * len(looks) != []
    written = {path.name for path in run.folder.glob('[!.]*')} - {'MNIST_data', f'{run.name}.ipynb', 'run.ipynb'}
    assert written == ({'kept.keras'} if run.name == 'ConvDAE' else set())


def test_cells_run_twice_give_what_they_gave(run):
    """All cells again in the same process, and each two times in a row but `train`, which goes on where it stopped."""
    np.testing.assert_equal(steady(run.cells), steady(run.first))


@pytest.mark.parametrize('run', ['BasicAE', 'EasyDAE'], indirect=True)
def test_another_process_with_other_settings_gives_the_same_run(run):
    """To the last bit; the run in the kernel was under settings of a reader, with the data in the usual folder."""
    found, expected = (steady(cells) for cells in (code_cells(run.notebook), run.first))
    for name in ('setup', 'images', 'model'):    # which say where, and with which process, they run
        del found[name], expected[name]
    np.testing.assert_equal(found, expected)


def again(run, *names, **changes):
    """Return cells run once more, with variables changed for that time."""
    cells = {name: copy.deepcopy(run.cells[name]) for name in names}
    with mock.patch.multiple(run.space, **changes):
        run_cells(cells.values(), run.space)
    return cells


NUMBERS = {'BasicAE': '10 4,000 3 37 2 30', 'EasyDAE': '0.3 0.3', 'ConvDAE': '10 1,000 0.3 0.3 3'}    # in titles


def test_counts_and_titles_name_the_numbers_of_this_run(run):
    train, test = IMAGES[run.name]
    assert printed(run.cells['images']).startswith(f'{train:,} training images and {test:,} test images from ')
    titles = [figure['title'] for name, cell in run.cells.items() for figure in figures(cell) if name != 'page']
    assert re.findall(r'\d[\d.,]*\b', ' '.join(titles)) == NUMBERS[run.name].split()
    for row, images in drawn(run, 'look').rows.items() if run.name != 'EasyDAE' else ():
        close(images, noisy(run, run.train[:10]) if row == 'noisy' else run.train[:10])


def test_every_network_is_trained_at_the_rate_and_for_the_epochs_of_the_parameters(run):
    wanted = {'BasicAE': {'model': (0.002, 2), 'size_model': (0.002, 1), 'high_rate_model': (0.05, 2)},
              'EasyDAE': {'model': (0.002, 2), 'size_model': (0.002, 1)},
              'ConvDAE': {'network': (0.002, 2), 'dense': (0.002, 2), 'skip_network': (0.002, 1)}}[run.name]
    for network, expected in ((getattr(run.space, name), each) for name, each in wanted.items()):
        assert (round(float(network.optimizer.learning_rate), 6), network.history.params['epochs']) == expected


def test_prints_and_draws_the_falling_losses_of_its_epochs(run):
    cells = code_cells(run.notebook)
    (curve,) = figures(cells['curve'])
    epochs, losses = curve['curves']['convolutional' if run.name == 'ConvDAE' else run.name]
    assert [*epochs] == [1, 2] and np.all(np.diff([math.log(2), *losses]) < 0)    # from that of guessing on
    assert re.search(f'epoch +2(/2 | of 2, step 10 of 10,) loss {losses[1]:.4f}', printed(cells['train']))
    close(losses, run.space.history.history['loss'], 2e-4)


def test_the_original_s_curve_is_drawn_only_for_its_data_and_settings(run):
    original = json.loads((ROOT / 'tests' / 'original_losses.json').read_text())[run.name]['mean_loss_per_epoch']
    assert run.cells['curve'].outputs[-1].metadata['as_original'] is False    # for the tool that stores runs
    (curves,) = (figure['curves'] for figure in figures(again(run, 'curve', as_original=True)['curve']))
    assert curves.keys() - drawn(run, 'curve').curves.keys() == {'the original, 2017'}
    close(curves['the original, 2017'], [range(1, len(original) + 1), original], 0)


def test_a_curve_has_the_same_colour_in_all_figures_and_looks_like_no_other(run):
    later = {'time_curve', 'noise_curve'} & run.cells.keys()    # where the original, or the average of digits, is too
    cells = [*run.cells.values(), *again(run, 'curve', *later, as_original=True).values()]
    seen = {}
    for looks in (figure['looks'] for cell in cells for figure in figures(cell)):
        assert len({*map(str, looks.values())}) == len(looks)
        assert [name for name, (colour, _) in looks.items() if seen.setdefault(name, colour) != colour] == []


def test_rows_show_what_the_networks_make_of_the_very_digits_above(run):
    """In all figures. The original drew noisy digits and fed clean ones."""
    count = Counter()
    for name, cell in run.cells.items():
        for figure in figures(cell):
            rows = {re.sub(r',\n[\d.]+( dB)?$', '', label): images for label, images in figure['rows'].items()}
            fed = [rows[row] for row in ('noisy', 'noise alone', 'salt and pepper', 'original') if row in rows]
            for label in run.networks.keys() & rows.keys():
                close(rows[label], rebuild(run.networks[label], fed[0]))
                count[name] += 1
            if name in ('rows', 'denoise', 'compare', 'salt'):
                close(rows['original'], run.test[OTHER['shown']])
                if 'noisy' in rows:
                    close(rows['noisy'], noisy(run, run.test)[OTHER['shown']])
    assert count == {    # a new figure with a row of a network belongs here
        'BasicAE': {'rows': 1}, 'EasyDAE': {'denoise': 1, 'compare': 1},
        'ConvDAE': {'denoise': 1, 'compare': 3, 'moved_rows': 3, 'salt': 3, 'nothing': 3, 'picture': 1}}[run.name]


def measured(run):
    """Return what a notebook measures: from the name of a row in its table to all test images, as they come out."""
    if run.name == 'BasicAE':
        mean = np.broadcast_to(run.train.mean(axis=0).reshape(28, 28), run.test.shape)
        return {'what BasicAE rebuilds': rebuild(run.space.model, run.test), 'the same images': run.test,
                'the mean of all': mean}
    under_noise = noisy(run, run.test)
    if run.name == 'ConvDAE':
        return {'noisy': under_noise, **{name: rebuild(run.networks[name], under_noise)
                                         for name in ('convolutional', 'dense 37', 'skip connections')}}
    padded = np.pad(under_noise, ((0, 0), (1, 1), (1, 1)), 'edge')
    nine = [padded[:, row:row + 28, column:column + 28] for row in range(3) for column in range(3)]
    return {'noisy': under_noise, 'median filter': np.sort(nine, axis=0)[4],
            'EasyDAE, 37 numbers': rebuild(run.space.model, under_noise),
            'linear map, 37 numbers': reduced_rank(run, 37), 'full linear map': reduced_rank(run, 784)}


DENSE_37, CONVOLUTIONAL = 2 * 784 * 37 + 37 + 784, sum(map(math.prod, SHAPES['ConvDAE']))
WEIGHTS = {'BasicAE': [], 'EasyDAE': [0, 0, DENSE_37, DENSE_37, 785 * 784],    # of the rows of the table
           'ConvDAE': [CONVOLUTIONAL, DENSE_37, CONVOLUTIONAL, 0]}


def test_measures_of_quality_are_those_of_all_test_images(run):
    """In all rows of the table; and the rows of images, where these are of filters."""
    rows, expected = read_table(run.cells['results' if run.name == 'BasicAE' else 'table']), measured(run)
    assert rows.keys() == expected.keys()
    for name, images in expected.items():
        found = [rows[name][head] for head in ('cross-entropy', 'PSNR (dB)', 'SSIM')]
        for value, measure, atol in zip(found, measures(run.test, images), (1e-4, 6e-3, 6e-4)):
            close(value, measure, atol)
        if run.name == 'EasyDAE':
            row = drawn(run, 'compare').rows[name.replace(', ', ',\n')]
            close(row, images.reshape(-1, 28, 28)[OTHER['shown']], 1e-3)
    assert [row['weights'] for row in rows.values() if 'weights' in row] == WEIGHTS[run.name]


def test_cross_entropy_is_least_where_the_network_draws_the_very_pixel(basic):
    for x, (y, values) in zip((0, 0.5, 1), drawn(basic, 'loss').curves.values()):
        close(values, [-x * math.log(each) - (1 - x) * math.log(1 - each) for each in y], 1e-9)
        assert abs(y[values.argmin()] - x) < 0.01


def test_hidden_vectors_are_drawn_number_by_number_in_a_square(basic):
    vectors = hidden_numbers(basic.space.model, basic.test[OTHER['shown']])
    squares = drawn(basic, 'rows').rows[f'hidden vector,\n0 to {vectors.max():.1f}'].reshape(3, 49)
    close(squares[:, :37], vectors / vectors.max())
    assert np.isnan(squares[:, 37:]).all()


def test_digits_with_most_and_least_of_the_numbers_that_vary_most(basic):
    vectors, figure = hidden_numbers(basic.space.model, basic.test), drawn(basic, 'holds')
    assert figure.headings == 6 * ['most'] + 3 * ['least']
    assert [*figure.rows] == [f'number {number}' for number in np.argsort(-vectors.std(axis=0))[:5]]
    for row, images in figure.rows.items():
        values = vectors[:, int(row.split()[1])]
        places = [np.flatnonzero(np.abs(basic.test - image).max(axis=(1, 2)) < 1e-6)[0] for image in images]
        close(values[places], np.sort(values)[[-1, -2, -3, -4, -5, -6, 2, 1, 0]])


def test_digit_is_painted_by_its_numbers_from_the_strongest_on_over_the_biases(basic):
    (vector,), figure = hidden_numbers(basic.space.model, basic.test[OTHER['shown'][:1]]), drawn(basic, 'painted')
    counts = np.array([0, 1, 2, 3, 4, 6, 8, 16, 32, 37])
    assert figure.headings == ['biases', *map(str, counts[1:])]
    _, _, weights, biases = basic.space.model.get_weights()
    order = np.argsort(-vector * np.abs(weights).sum(axis=1))
    painted = np.vstack([biases, (vector[:, np.newaxis] * weights)[order]])
    close(figure.rows['this number'], (1 + painted[counts] / np.abs(painted[counts]).max()) / 2)
    close(figure.rows['sum so far'], 1 / (1 + np.exp(-painted.cumsum(axis=0)[counts])))


def test_invented_vectors_take_each_number_from_a_digit_of_its_own(basic):
    """Each is one that this number has in some test digit, yet no digit has the vector."""
    vectors, invented = hidden_numbers(basic.space.model, basic.test), basic.space.shuffled
    close(np.sort(invented, axis=0), np.sort(vectors, axis=0))
    assert min(np.abs(vectors - vector).max(axis=1).min() for vector in invented[:10]) > 0.1
    _, _, weights, biases = basic.space.model.get_weights()
    close(drawn(basic, 'invented').rows['drawn'], 1 / (1 + np.exp(-(invented[:10] @ weights + biases))))


def test_pca_is_that_of_the_training_images(basic):
    mean, test = basic.train.mean(axis=0), basic.test.reshape(-1, 784)
    directions = np.linalg.svd(basic.train - mean, full_matrices=False)[2]
    pictures = drawn(basic, 'directions').rows['PCA'].reshape(8, 784) - 0.5
    signs = np.sign(np.sum(pictures * directions[:8], axis=1, keepdims=True))    # an axis has no sign
    close(pictures, signs * directions[:8] / (2 * np.abs(directions[:8]).max()), 2e-3)
    projected = [np.clip(mean + (test - mean) @ directions[:size].T @ directions[:size], 0, 1) for size in (2, 30)]
    close(drawn(basic, 'size_curve').curves['PCA'], [[2, 30], [psnr(test, images) for images in projected]], 0.01)


def test_networks_of_other_sizes_rebuild_digits_and_what_is_none(basic):
    """These are a typed R, even noise, and the first digit with black for white."""
    rows, curve = drawn(basic, 'sizes').rows, drawn(basic, 'size_curve').curves['BasicAE']
    *digits, letter, noise, negative = rows.pop('original')
    close(digits, basic.test[OTHER['shown']])
    close(negative, 1 - digits[0])
    network = basic.space.size_model    # the last
    assert network.get_layer('hidden').units == 30
    assert [*rows] == [f'{size:.0f} numbers,\n{value:.1f} dB' for size, value in curve.T]
    close([*rows.values()][1], rebuild(network, np.array([*digits, letter, noise, negative])))
    close(curve[:, 1], [30, psnr(basic.test, rebuild(network, basic.test))], 1e-3)


def test_dead_units_put_out_nothing_for_any_test_image(basic):
    said, curves, space, counts = printed(basic.cells['dead']), drawn(basic, 'curve').curves, basic.space, []
    for rate, network, curve in ((0.002, space.model, 'BasicAE'), (0.05, space.high_rate_model, 'rate 0.05')):
        counts.append(sum(not unit.any() for unit in hidden_numbers(network, basic.test).T))
        assert (f'learning rate {rate}: loss {curves[curve][1][-1]:.4f} at the end, {counts[-1]} of 37 hidden units '
                'put out 0 for every test image') in said
    assert 0 <= counts[0] < counts[1] < 37


def test_five_draws_of_noise_are_five(easy):
    clean, *five = drawn(easy, 'noise').rows['one digit']
    assert drawn(easy, 'noise').headings == ['clean', *5 * ['noisy']]
    close(clean, easy.test[5])
    close(five, [easy.space.add_noise(np.float32(clean.ravel()), (3, draw), 0.3) for draw in range(5)])


def likelihoods(run, image, factor):
    """Return for each training image the probability that it was the one, by the density of each pixel."""
    levels = [NormalDist(value / 255, factor) for value in range(256)]
    black, white = [math.log(each.cdf(0)) for each in levels], [math.log(1 - each.cdf(1)) for each in levels]
    table = np.array([black if value == 0 else white if value == 1 else [
        -(float(value) - each.mean)**2 / (2 * factor**2) for each in levels] for value in image.ravel()])
    return tf.nn.softmax(table[range(784), np.round(run.train * 255).astype(int)].sum(axis=1)).numpy()


def test_one_noisy_digit_may_have_been_the_likeliest_and_their_average(easy):
    figure = drawn(easy, 'average')
    assert figure.headings == ['noisy', *5 * ['likely'], 'average']
    for row, factor in zip(figure.rows, (0.8, 0.3), strict=True):
        noisy_image, *likeliest, average = figure.rows[row]
        close(noisy_image, noisy(easy, easy.test[7], factor))
        chances = likelihoods(easy, noisy_image, factor)
        order = np.argsort(-chances)[:5]
        close(likeliest, easy.train[order])
        assert row == f'factor {factor}:\n{", ".join(f"{100 * chance:.0f}" for chance in chances[order])} %'
        close(average, chances @ easy.train)


def test_table_of_averages_holds_what_the_first_test_images_give(easy):
    rows, clean = read_table(easy.cells['average_table']), easy.test[:100]
    for factor in (0.8, 0.3):
        images = noisy(easy, clean, factor)
        chances = np.array([likelihoods(easy, image, factor) for image in images])
        entropy = [-sum(chance * math.log(chance) for chance in each if chance > 0) for each in chances]
        expected = (psnr(clean, chances @ easy.train), psnr(clean, easy.train[chances.argmax(axis=1)]),
                    psnr(clean, rebuild(easy.space.model, images)))
        close([*rows[str(factor)].values()], [*expected, math.exp(np.mean(entropy))], 0.06)


def reduced_rank(run, count):
    """Return what numpy's own linear map of that rank makes of the noisy test images."""
    if not hasattr(run, 'solution'):    # least squares on the very batches that the notebook took
        images, clean = (np.concatenate(each).astype(float) for each in zip(*run.space.train_batches()))
        images, tested = (np.pad(each.reshape(-1, 784), ((0, 0), (0, 1)), constant_values=1)
                          for each in (images, noisy(run, run.test)))
        small = np.eye(785), np.zeros((785, 784))    # rows that keep the weights small, as the notebook's + 1 does
        weights = np.linalg.lstsq(*map(np.concatenate, zip((images, clean), small)), rcond=None)[0]
        mean = clean.mean(axis=0)
        run.solution = mean, np.linalg.svd(images @ weights - mean, full_matrices=False)[2], tested @ weights
    mean, directions, predicted = run.solution
    return np.clip(mean + (predicted - mean) @ directions[:count].T @ directions[:count], 0.001, 0.999)


def test_curves_over_the_size_are_of_networks_and_linear_maps_of_these_sizes(easy):
    curves, images = drawn(easy, 'sizes').curves, noisy(easy, easy.test)
    close(curves['EasyDAE'][:, 1], [30, psnr(easy.test, rebuild(easy.space.size_model, images))], 1e-3)
    close(curves['linear map'], [[2, 30], [psnr(easy.test, reduced_rank(easy, size)) for size in (2, 30)]], 1e-3)


def test_hand_made_filters_give_the_mean_and_the_edges_below_and_right(conv):
    figure, digit = drawn(conv, 'filters'), conv.test[5]
    assert figure.headings == ['mean', 'edge below', 'edge right']
    close(figure.rows['one digit'], 3 * [digit])
    mean, below, right = figure.rows['filter'] - 0.5    # drawn with 0 as grey
    close(mean, np.full((3, 3), 1 / 9))
    close(below, np.outer([-1, 0, 1], np.ones(3)) / 3)
    close(right, below.T)
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(digit, 1), (3, 3))
    made = [np.maximum(np.sum(windows * each, axis=(2, 3)), 0) for each in (mean, below, right)]
    close(figure.rows['after it'], made)
    products = np.stack([windows[np.unravel_index(made[1].argmax(), (28, 28))], below], axis=-1)
    close(re.findall(r'-?[\d.]+', printed(conv.cells['filters'])), [*products.ravel(), made[1].max()], 1e-3)


def test_inside_shows_the_channels_that_vary_most_the_strongest_first_and_their_filters(conv):
    images, rows, found = noisy(conv, conv.test)[5][np.newaxis, ..., np.newaxis], drawn(conv, 'inside').rows, []
    for layer in conv.space.model.layers[1:]:
        images = layer(images)
        channels = np.moveaxis(images[0].numpy(), 2, 0)
        order = sorted(range(len(channels)), key=lambda channel: -channels[channel].std())[:5]
        if layer.name == 'conv1':
            filters = np.moveaxis(layer.get_weights()[0], -1, 0)[order, :, :, 0]
            close(rows['filters of\nconv1'], (1 + filters / np.abs(filters).max()) / 2)
        if (row := f'{layer.name},\n{channels.shape[1]} x {channels.shape[2]}') in rows:
            close(rows[row], channels[order] / channels.max())
            found.append(layer.name)
    assert found == ['conv1', 'pool2', 'encoded', 'conv4', 'conv6']


def test_epochs_and_seconds_in_table_and_curves_are_those_of_each_training(conv):
    over_epochs, over_time = (figure['curves'] for figure in figures(conv.cells['time_curve']))
    for (name, kept), count in zip(conv.space.histories.items(), (2, 2, 1), strict=True):
        losses, seconds, row = kept.history['loss'], kept.history['seconds'], read_table(conv.cells['table'])[name]
        assert len(losses) == len(seconds) == count and 0 < seconds[0] <= seconds[-1] < 600
        close(over_epochs[name], [range(1, count + 1), losses])
        close(over_time[name], [seconds, losses])
        assert (row['epochs'], row['seconds']) == (count, round(seconds[-1]))


def test_decibels_beside_the_rows_are_those_of_that_network(conv):
    rows = [*drawn(conv, 'compare').rows, *drawn(conv, 'salt').rows]
    fed = 3 * [(conv.test, noisy(conv, conv.test))] + 3 * [(conv.test[::5], conv.space.salted[::5].squeeze(axis=3))]
    for row, (clean, images) in zip((row for row in rows if 'dB' in row), fed, strict=True):
        name, value = re.fullmatch(r'(.*),\n([\d.]+) dB', row).groups()
        close(float(value), psnr(clean, rebuild(conv.networks[name], images)), 0.06)


def test_salt_and_pepper_are_a_tenth_each_and_leave_the_rest(conv):
    salted = conv.space.salted.squeeze(axis=3)
    close(drawn(conv, 'salt').rows['salt and pepper'], salted[OTHER['shown']])
    close(np.mean(salted[conv.test == 0] == 1), 0.1, 0.01)
    close(np.mean(salted[conv.test > 0.5] == 0), 0.1, 0.01)
    assert {*salted[np.abs(salted - conv.test) > 1e-6]} == {0, 1}


def moved(images, distance):
    """Return images moved up and left, over black."""
    return np.pad(images, ((0, 0), (0, distance), (0, distance)))[:, distance:, distance:]


def test_moved_digits_are_moved_up_and_left(conv):
    figure, expected = drawn(conv, 'moved_rows'), [conv.test[5], *moved(conv.test[[5]], 4)]
    assert figure.headings == ['0', '4']
    close(figure.rows['moved'], expected)
    close(figure.rows['noisy'], noisy(conv, expected))


def test_curves_over_distance_and_noise_have_each_network_at_each_place(conv):
    part = conv.test[::5]
    for cell, fed in (('moved', {0: (part, 0.3), 4: (moved(part, 4), 0.3)}),
                      ('noise_curve', {0.7: (part, 0.7), 0: (part, 0)})):
        curves = drawn(conv, cell).curves
        assert curves.keys() == {'convolutional', 'dense 37', 'skip connections'}    # averages are those of all MNIST
        for name, curve in curves.items():
            made = [rebuild(conv.networks[name], noisy(conv, *each)) for each in fed.values()]
            close(curve, [[*fed], [psnr(clean, images) for (clean, _), images in zip(fed.values(), made)]], 1e-3)


def test_page_of_digits_is_denoised_in_one_piece_and_in_tiles(conv):
    figure = drawn(conv, 'page')
    (page, fed), (whole, tiled) = figure.rows.values()
    pages = np.reshape([page, fed, tiled], (3, 4, 28, 4, 28)).swapaxes(2, 3)
    digits, noisy_digits, tiles = pages.reshape(3, 16, 28, 28)
    close(digits, conv.test[:16])
    close(noisy_digits, noisy(conv, conv.test)[:16])
    close(tiles, rebuild(conv.space.model, noisy_digits))
    uncropped = keras.Sequential([layer for layer in conv.space.model.layers[1:] if layer.name != 'crop'])
    close(whole, tf.sigmoid(uncropped(fed[np.newaxis, ..., np.newaxis])))
    squares = np.mean((page - np.array([whole, tiled]))**2, axis=(1, 2))
    close(re.findall(r'[\d.]+(?= dB in)', figure.title), -10 * np.log10(squares), 0.01)


def test_noise_without_a_digit_is_noise_alone_and_labels_say_how_bright_the_results_are(conv):
    rows = drawn(conv, 'nothing').rows
    close(rows.pop('noise alone'), (nothing := noisy(conv, np.zeros((100, 28, 28))))[:10])
    for row, name in zip(rows, conv.space.networks, strict=True):
        bright = np.mean([image.max() for image in rebuild(conv.networks[name], nothing)])
        assert row.split(',\n')[0] == name
        close(float(row.split(',\n')[1]), bright, 0.006)


def test_the_saved_network_is_the_one_that_was_trained_and_needs_no_notebook(conv):
    assert printed(conv.cells['save']) == f'kept.keras holds {CONVOLUTIONAL:,} weights\n'
    saved, images = keras.models.load_model(conv.folder / 'kept.keras'), noisy(conv, conv.test[:3])
    close(rebuild(saved, images), rebuild(conv.space.model, images), 1e-6)    # plain Keras has loaded it
