"""Noise, networks, loss and optimizer are the article's, step for step; what is faster computes the same."""
import functools
from statistics import NormalDist

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import NOTEBOOKS, SAMPLE, cells_up_to, cut_sample, execute, figures, read_notebook
from original import SHAPES, Original, first_weights

ARTICLE = {'BasicAE': {'hidden_units': 64}, 'EasyDAE': {'hidden_units': 32, 'noise_factor': 0.5},
           'ConvDAE': {'noise_factor': 0.5}}    # set here, so that a change of it in a notebook is no fault
LAYERS = {    # written from the article, not from the notebooks: kind and output of each layer
    'BasicAE': 'InputLayer 784, Dense 64, Dense 784',
    'EasyDAE': 'InputLayer 784, Dense 32, Dense 784',
    # TensorFlow 1 resizes 4 x 4 to 7 x 7 by taking the pixels 0, 0, 1, 1, 2, 2, 3: doubled, then cropped.
    'ConvDAE': 'InputLayer 28x28x1, Conv2D 28x28x64, MaxPooling2D 14x14x64, Conv2D 14x14x64, MaxPooling2D 7x7x64, '
               'Conv2D 7x7x32, MaxPooling2D 4x4x32, UpSampling2D 8x8x32, Cropping2D 7x7x32, Conv2D 7x7x32, '
               'UpSampling2D 14x14x32, Conv2D 14x14x64, UpSampling2D 28x28x64, Conv2D 28x28x64, Conv2D 28x28x1',
}
FLOAT64 = {f"{setting}('float32')": f"{setting}('float64')" for setting in ('set_floatx', 'set_dtype_policy')}


def cells(name, last, changes=(), **parameters):
    """Run the cells of a notebook on the sample with what the article sets, and add the network that is trained."""
    parameters = {'data_dir': str(SAMPLE), 'learning_rate': 0.001, **ARTICLE[name], **parameters}
    space = cells_up_to(name, last, changes, **parameters)
    return space | {'trained': space.get('network', space['model'])}


@pytest.mark.parametrize('name', NOTEBOOKS)
def test_network_is_the_article_s_in_keras_s_own_layers(name):
    model = cells(name, 'compile')['model']
    found = [f'{type(layer).__name__} {"x".join(map(str, layer.output.shape[1:]))}' for layer in model.layers]
    assert ', '.join(found) == LAYERS[name]
    assert {type(layer).__module__.split('.')[0] for layer in model.layers} == {'keras'}
    assert [tuple(weight.shape) for weight in model.weights] == SHAPES[name]    # in the article's order


def in_float64(name, **parameters):
    """Return a notebook's variables before its training. In float32, Adam makes full steps of rounding errors."""
    space = cells(name, 'batches', FLOAT64, batch_size=16, **parameters)
    space['model'].set_weights(first_weights(name, 0))
    optimizer = space['trained'].optimizer    # as plain numbers, Keras would round these two to float32
    optimizer.beta_1, optimizer.beta_2 = (tf.constant(beta, 'float64') for beta in (0.9, 0.999))
    return space


@functools.cache
def train_original(name):
    """Train the graph of TensorFlow 1; return 20 batches, the loss of each step and the weights at the end."""
    batches = [tuple(map(np.array, batch)) for batch in in_float64(name)['train_batches'].take(20)]
    original = Original([weight.astype('float64') for weight in first_weights(name, 0)], 0.001)
    return batches, [original.step(*batch) for batch in batches], original.weights()


@pytest.mark.parametrize(('name', 'parameters'), [
    ('BasicAE', {}), ('EasyDAE', {}), ('ConvDAE', {'fast': False}), ('ConvDAE', {'fast': True})])
def test_learns_step_for_step_what_the_original_graph_learns(name, parameters):
    """With `fast` the weights of `model` are trained through another network, and end the same."""
    batches, losses, weights = train_original(name)
    space = in_float64(name, **parameters)
    for batch, expected in zip(batches, losses):
        space['trained'].reset_metrics()
        np.testing.assert_allclose(space['trained'].train_on_batch(*batch), expected, rtol=1e-12)
    for weight, expected in zip(space['model'].get_weights(), weights):
        np.testing.assert_allclose(weight, expected, rtol=0, atol=1e-12)
    assert (space['trained'] is space['model']) == (not parameters.get('fast'))


@pytest.mark.parametrize('name', ['EasyDAE', 'ConvDAE'])
def test_noise_is_gaussian_with_the_given_factor_and_clipped(name):
    add_noise = cells(name, 'compile', noise_factor=0.3)['add_noise']
    noisy = add_noise(np.full((500, 784), 0.5, 'float32'), (3, 4)).numpy()
    assert (noisy.min(), noisy.max()) == (0, 1)
    for level in np.linspace(0, 0.99, 34):
        assert np.mean(noisy <= level) == pytest.approx(NormalDist(0.5, 0.3).cdf(level), abs=0.005)


def two_epochs(name):
    """Return the variables of a notebook before its training, and for each of two epochs its batches of flat images."""
    space = cells(name, 'batches', batch_size=500)
    return space, [[[np.reshape(images, (-1, 784)) for images in batch] for batch in space['train_batches']]
                   for _ in range(2)]


@pytest.mark.parametrize('name', NOTEBOOKS)
def test_batches_hold_all_images_in_a_new_order(name):
    """The size of a batch stays open: where TensorFlow knows it, it may add up gradients in varying order."""
    space, epochs = two_epochs(name)
    assert space['train_batches'].element_spec[0].shape[0] is None
    sums = [np.concatenate([clean for _, clean in batches]).sum(axis=1) for batches in epochs]
    expected = np.reshape(space['train_images'], (-1, 784)).sum(axis=1) / 255
    np.testing.assert_allclose(np.sort(sums), [np.sort(expected)] * 2, rtol=1e-5)
    assert not np.array_equal(*sums)


@pytest.mark.parametrize('name', ['EasyDAE', 'ConvDAE'])
def test_noise_is_new_in_each_batch(name):
    ((noisy, clean), following, *_), (anew, *_) = two_epochs(name)[1]
    for other_noisy, other_clean in (following, anew):    # the next, and the first of the next epoch
        black = (clean == 0) & (other_clean == 0)
        assert np.mean(noisy[black] > 0.5) == pytest.approx(1 - NormalDist().cdf(1), abs=0.01)
        assert abs(np.corrcoef(noisy[black], other_noisy[black])[0, 1]) < 0.02


def test_linear_maps_have_the_least_squared_difference(tmp_path):
    """Of all, and of those of rank hidden_units: numpy's own least squares say so, on the very batches."""
    parameters = {'data_dir': cut_sample(tmp_path / 'own', 2000), 'batch_size': 500, 'epochs': 1}
    found = cells('EasyDAE', 'narrow', **parameters)
    batches = cells('EasyDAE', 'train', **parameters)['train_batches']    # of the second epoch, as there
    noisy, clean = (np.concatenate(each).astype(float) for each in zip(*batches))
    with_one = np.pad(noisy, ((0, 0), (0, 1)), constant_values=1)
    linear, best = with_one @ found['linear_map'], with_one @ np.linalg.lstsq(with_one, clean, rcond=None)[0]
    narrow = found['mean'] + (linear - found['mean']) @ found['directions'] @ found['directions'].T
    rows, strengths, columns = np.linalg.svd(best - (mean := best.mean(axis=0)), full_matrices=False)
    best_narrow = mean + (rows[:, :32] * strengths[:32]) @ columns[:32]
    for images, expected in ((linear, best), (narrow, best_narrow)):
        least = np.mean((expected - clean)**2)
        assert least <= np.mean((images - clean)**2) <= 1.01 * least


layers, pool, up = keras.layers, keras.layers.MaxPooling2D, keras.layers.UpSampling2D
conv = functools.partial(layers.Conv2D, padding='same', activation='relu', bias_initializer='normal')
MODELS = {    # what a reader may make of the model: layers one after the other, for images of 12 x 12 x 2
    'filters, kernels and no bias': lambda: [
        conv(7, 5, use_bias=False), pool(2), up(2), conv(3, 5), up(2), conv(3, 2), conv(1, 4), conv(1, (1, 5))],
    'no padding, strides, dilation, groups': lambda: [
        conv(4, 3, padding='valid'), pool(2), up(2), conv(4, 3, padding='valid'), conv(4, 3, strides=2),
        conv(4, 3, groups=2), conv(4, 3, dilation_rate=2)],
    'odd sizes and other pooling': lambda: [
        layers.Cropping2D(((0, 1), (0, 5))), conv(4, 3), pool(2, padding='same'), up(2), conv(4, 3), pool(3, 2)],
    'other activations and upsampling': lambda: [
        conv(4, 3, activation='tanh'), pool(2), conv(4, 3, activation='softmax'), pool(2),
        up(2, interpolation='bilinear'), conv(4, 3), up(3), conv(4, 3), up((2, 1))],
    'other layers, some of which train otherwise than they predict': lambda: [
        conv(4, 3), layers.Dropout(0.5, seed=1), pool(2), layers.BatchNormalization(), up(2), layers.LeakyReLU(),
        conv(2, 3), layers.Flatten(), layers.Dense(9), layers.Reshape((3, 3, 1)), up(2), conv(3, 3)],
    'losses of layers': lambda: [conv(4, 3, activity_regularizer='l2'), pool(2, activity_regularizer='l1'), up(2),
                                 conv(3, 3, kernel_regularizer='l2')],
    'open sizes': lambda: [conv(4, 3), pool(2), up(2), conv(1, 3)],
    'precisions of their own': lambda: [
        conv(4, 3, dtype='float32'), pool(2), up(2), conv(4, 3, dtype='mixed_bfloat16'), conv(1, 3)],
    'a model inside': lambda: [keras.Sequential([conv(4, 3), pool(2)]), up(2), conv(1, 3)],
    'a layer used twice': lambda: 2 * [conv(2, 3)],
    'a skip connection': lambda: [lambda images: layers.Add()([images, conv(2, 3)(images)])],
    'two outputs': lambda: [conv(2, 3), lambda images: [images, pool(2)(images)]],
}
faster = functools.cache(lambda: cells('ConvDAE', 'faster', FLOAT64)['Faster'])    # the class, the same for all


@pytest.mark.parametrize('kind', MODELS)
def test_faster_computes_the_same_for_a_reader_s_own_model(kind):
    """Outputs, losses of layers, gradients, and what layers learn or count in training; with the same variables."""
    keras.config.set_floatx('float64')
    keras.config.set_dtype_policy('float64')
    inputs = keras.Input((None, None, 2) if kind == 'open sizes' else (12, 12, 2))
    model = keras.Model(inputs, functools.reduce(lambda images, layer: layer(images), MODELS[kind](), inputs))
    network, results, values = faster()(model), [], [variable.numpy() for variable in model.variables]
    images = tf.random.stateless_normal((3, 12, 12, 2), (0, 1), dtype='float64')
    for each in (model, network):
        for variable, value in zip(model.variables, values):
            variable.assign(value)
        with tf.GradientTape() as tape:
            outputs = tf.nest.flatten(each(images, training=True))
            total = tf.add_n([tf.reduce_sum(tf.sin(output)) for output in outputs] + each.losses)
        gradients = tape.gradient(total, model.trainable_variables)
        results.append([*outputs, total, *gradients, *(variable.numpy() for variable in model.variables)])
    assert {id(variable) for variable in network.variables} == {id(variable) for variable in model.variables}
    for expected, result in zip(*results, strict=True):
        np.testing.assert_allclose(result, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize('precision', ['float32', 'bfloat16'])
def test_faster_transposes_two_convolutions_and_computes_in_that_precision(precision):
    """What it puts out is float32 again, and so are the weights."""
    space = cells('ConvDAE', 'fast', precision=precision)
    graph = tf.function(space['network']).get_concrete_function(space['some']).graph
    found = [each.outputs[0].dtype.name for each in graph.get_operations() if each.type == 'Conv2DBackpropInput']
    assert found == [precision] * 2
    assert {graph.outputs[0].dtype.name, *(weight.dtype for weight in space['model'].weights)} == {'float32'}


def test_two_devices_learn_what_one_learns_with_the_lines_of_the_notebook(tmp_path):
    """The whole notebook in a kernel of its own, because devices are set before TensorFlow does anything."""
    before, after, anew = ('tf.distribute.experimental_set_strategy(tf.distribute.MirroredStrategy())',
                           'tf.distribute.experimental_set_strategy(None)', 'model = keras.Model(inputs, logits)')
    text = '\n'.join(cell.source for cell in read_notebook('ConvDAE').cells if cell.cell_type == 'markdown')
    assert [line for line in (before, after, anew) if f'`{line}`' not in text] == []
    devices = ("tf.config.set_logical_device_configuration(tf.config.list_physical_devices('CPU')[0], "
               '2 * [tf.config.LogicalDeviceConfiguration()])')
    lines = {'tf.get_logger()': devices, 'noisy_images = add_noise(test_images': f'{after}\n{anew}',
             'inputs = keras.Input(': before.replace('gy()', "gy(['CPU:0', 'CPU:1'])")}    # unless told, it takes GPUs
    parameters = {'data_dir': cut_sample(tmp_path / 'tiny'), 'batch_size': 60, 'epochs': 1, 'dense_units': [5],
                  'distances': [2], 'shown': [3]}    # also fewer images than devices
    changes = {above: f'{line}\n{above}' for above, line in lines.items()}
    run = figures(execute('ConvDAE', tmp_path, changes, **parameters))
    (losses,) = (values for figure in run.values() for label, values in figure['curves'].items() if 'this' in label)
    space = cells('ConvDAE', 'batches', **parameters)
    next(iter(space['train_batches']))    # for several devices Keras takes a batch before it trains
    usual = space['network'].fit(space['train_batches'], shuffle=False, verbose=0).history['loss']
    np.testing.assert_allclose(losses, usual, rtol=1e-4)
