"""The networks, the loss and the optimizer are the article's, step for step; what is faster computes the same."""
import collections
import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import ARTICLE, NOTEBOOKS, ROOT, SAMPLE, cells_up_to, cut_sample, execute, figures
from original import SHAPES, Original, first_weights

# Written from the article, not from the notebooks: kind and output of each layer.
LAYERS = {
    'BasicAE': [('InputLayer', (784,)), ('Dense', (64,)), ('Dense', (784,))],
    'EasyDAE': [('InputLayer', (784,)), ('Dense', (32,)), ('Dense', (784,))],
    'ConvDAE': [('InputLayer', (28, 28, 1)),
                ('Conv2D', (28, 28, 64)), ('MaxPooling2D', (14, 14, 64)),
                ('Conv2D', (14, 14, 64)), ('MaxPooling2D', (7, 7, 64)),
                ('Conv2D', (7, 7, 32)), ('MaxPooling2D', (4, 4, 32)),
                # TensorFlow 1 resizes 4 x 4 to 7 x 7 by taking the pixels 0, 0, 1, 1, 2, 2, 3: doubled, then cropped.
                ('UpSampling2D', (8, 8, 32)), ('Cropping2D', (7, 7, 32)), ('Conv2D', (7, 7, 32)),
                ('UpSampling2D', (14, 14, 32)), ('Conv2D', (14, 14, 64)),
                ('UpSampling2D', (28, 28, 64)), ('Conv2D', (28, 28, 64)),
                ('Conv2D', (28, 28, 1))],
}
README = (ROOT / 'README.md').read_text(encoding='utf-8')
# Lines that the README names, and what they are put above.
SEVERAL_GPUS = 'tf.distribute.experimental_set_strategy(tf.distribute.MirroredStrategy())', 'inputs = keras.Input('
ONE_AGAIN = 'tf.distribute.experimental_set_strategy(None)', 'noisy_images = add_noise(test_images'
TWO_DEVICES = '''
import os
os.environ['TF_CPP_MIN_LOG_LEVEL'] = '3'
import tensorflow as tf
(processor,) = tf.config.list_physical_devices('CPU')
tf.config.set_logical_device_configuration(processor, 2 * [tf.config.LogicalDeviceConfiguration()])
'''
FLOAT64 = {f"{setting}('float32')": f"{setting}('float64')" for setting in ('set_floatx', 'set_dtype_policy')}


def cells(name, last, changes=(), **parameters):
    """Run the cells of a notebook on the sample with what the article sets, and add the network that is trained."""
    space = cells_up_to(name, last, dict(changes), **{'data_dir': str(SAMPLE), **ARTICLE[name], **parameters})
    return space | {'trained': space.get('network', space['model'])}


@pytest.mark.parametrize('name', NOTEBOOKS)
def test_network_is_the_article_s_in_keras_s_own_layers(name):
    space = cells(name, 'compile')
    model, layers = space['model'], space['keras'].layers
    assert [(type(layer).__name__, layer.output.shape[1:]) for layer in model.layers] == LAYERS[name]
    assert all(type(layer) is getattr(layers, type(layer).__name__) for layer in model.layers)
    assert [tuple(weight.shape) for weight in model.weights] == SHAPES[name]    # in the article's order


# Step for step: both sides compute in float64. In float32 the convolutional networks drift apart by rounding alone:
# Adam makes a full step of a gradient that is nothing but rounding error.
def in_float64(name, **parameters):
    """Return a notebook's variables before its training, with weights as the original begins with."""
    space = cells(name, 'batches', FLOAT64, batch_size=16, **parameters)
    space['model'].set_weights(first_weights(name, 0))
    for beta in ('beta_1', 'beta_2'):    # as plain numbers, Keras would round these two to float32
        value = getattr(space['trained'].optimizer, beta)
        setattr(space['trained'].optimizer, beta, space['tf'].constant(value, 'float64'))
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
    for step, (batch, expected) in enumerate(zip(batches, losses)):
        space['trained'].reset_metrics()
        loss = space['trained'].train_on_batch(*batch)
        np.testing.assert_allclose(loss, expected, rtol=1e-12, err_msg=f'loss of step {step}')
    for weight, expected in zip(space['model'].get_weights(), weights):
        assert weight.dtype == 'float64'
        np.testing.assert_allclose(weight, expected, rtol=0, atol=1e-12, err_msg='weights at the end')
    assert (space['trained'] is space['model']) == (not parameters.get('fast'))


SAME = {'padding': 'same', 'activation': 'relu', 'bias_initializer': 'normal'}
FIRST = {**SAME, 'data_format': 'channels_first'}


def chain(images, *layers):
    """Put images through one layer after the other."""
    return functools.reduce(lambda each, layer: layer(each), layers, images)


MODELS = {    # what a reader may make of the model, for images of 12 x 12 pixels and 2 channels
    'filters and kernels': lambda of, images: chain(
        images, of.Conv2D(7, 5, **SAME), of.MaxPooling2D(2), of.UpSampling2D(2), of.Conv2D(3, 5, **SAME),
        of.UpSampling2D(2), of.Conv2D(3, 2, **SAME), of.Conv2D(1, 4, **SAME), of.Conv2D(1, (1, 5), **SAME)),
    'no padding, strides, dilation, groups': lambda of, images: chain(
        images, of.Conv2D(4, 3, activation='relu'), of.MaxPooling2D(2), of.UpSampling2D(2), of.Conv2D(4, 3), of.Conv2D(
            4, 3, strides=2, **SAME), of.Conv2D(4, 3, groups=2, **SAME), of.Conv2D(4, 3, dilation_rate=2, **SAME)),
    'other activations and upsampling': lambda of, images: chain(
        images, of.Conv2D(4, 3, padding='same', activation='tanh'), of.MaxPooling2D(2),
        of.Conv2D(4, 3, padding='same', activation='softmax'), of.MaxPooling2D(2),
        of.UpSampling2D(2, interpolation='bilinear'), of.Conv2D(4, 3, **SAME), of.UpSampling2D(3),
        of.Conv2D(4, 3, **SAME), of.UpSampling2D((2, 1))),
    'other layers, some of which train otherwise than they predict': lambda of, images: chain(
        images, of.Conv2D(4, 3, **SAME), of.Dropout(0.5, seed=1), of.MaxPooling2D(2), of.BatchNormalization(),
        of.UpSampling2D(2), of.LeakyReLU(), of.Conv2D(2, 3, **SAME), of.Flatten(), of.Dense(9),
        of.Reshape((3, 3, 1)), of.UpSampling2D(2), of.Conv2D(3, 3, **SAME)),
    'losses of layers': lambda of, images: chain(
        images, of.Conv2D(4, 3, activity_regularizer='l2', **SAME), of.MaxPooling2D(2, activity_regularizer='l1'),
        of.UpSampling2D(2), of.Conv2D(3, 3, kernel_regularizer='l2', **SAME)),
    'channels first': lambda of, images: chain(
        images, of.Conv2D(4, 3, **FIRST), of.MaxPooling2D(2, data_format='channels_first'),
        of.UpSampling2D(2, data_format='channels_first'), of.Conv2D(1, 3, **FIRST)),
    'open sizes': lambda of, images: chain(
        images, of.Conv2D(4, 3, **SAME), of.MaxPooling2D(2), of.UpSampling2D(2), of.Conv2D(1, 3, **SAME)),
    'precisions of their own': lambda of, images: chain(
        images, of.Conv2D(4, 3, dtype='float32', **SAME), of.MaxPooling2D(2), of.UpSampling2D(2),
        of.Conv2D(4, 3, dtype='mixed_bfloat16', **SAME), of.Conv2D(1, 3, **SAME)),
    'a model inside': lambda of, images: chain(
        images, keras.Sequential([of.Conv2D(4, 3, **SAME), of.MaxPooling2D(2)]), of.UpSampling2D(2),
        of.Conv2D(1, 3, **SAME)),
    'a layer used twice': lambda of, images: chain(images, *2 * [of.Conv2D(2, 3, **SAME)]),
    'two outputs': lambda of, images: [x := of.Conv2D(2, 3, **SAME)(images), of.MaxPooling2D(2)(x)],
}


@pytest.fixture(scope='module')
def faster():
    """Return the class `Faster` of ConvDAE."""
    return cells('ConvDAE', 'faster')['Faster']


@pytest.mark.parametrize('kind', MODELS)
def test_faster_computes_the_same_for_a_reader_s_own_model(kind, faster):
    """Outputs, losses of layers, gradients, and what layers learn or count in training; with the same variables."""
    dtype = 'float32' if kind == 'channels first' else 'float64'    # TensorFlow has no such convolution in float64
    keras.config.set_floatx(dtype)
    keras.config.set_dtype_policy(dtype)
    inputs = keras.Input((None, None, 2) if kind == 'open sizes' else (12, 12, 2))
    model = keras.Model(inputs, MODELS[kind](keras.layers, inputs))
    network, results, first = faster(model), [], [variable.numpy() for variable in model.variables]
    images = tf.random.stateless_normal((3, 12, 12, 2), (0, 1), dtype=dtype)
    for each in (model, network):
        for variable, value in zip(model.variables, first):
            variable.assign(value)
        with tf.GradientTape() as tape:
            outputs = tf.nest.flatten(each(images, training=True))
            total = tf.add_n([tf.reduce_sum(tf.sin(output)) for output in outputs] + each.losses)
        gradients = tape.gradient(total, model.trainable_variables)
        results.append([*outputs, total, *gradients, *(variable.numpy() for variable in model.variables)])
    assert {id(variable) for variable in network.variables} == {id(variable) for variable in model.variables}
    for expected, result in zip(*results, strict=True):
        np.testing.assert_allclose(result, expected, rtol=1e-10, atol=1e-12)


def convolutions(network, images):
    """Return the convolutions that a network computes, with the type of their numbers."""
    operations = tf.function(network).get_concrete_function(images).graph.get_operations()
    return collections.Counter((operation.type, operation.outputs[0].dtype.name) for operation in operations
                               if operation.type.startswith('Conv2D') or operation.type == 'MaxPool')


@pytest.mark.parametrize('precision', ['float32', 'bfloat16'])
def test_faster_computes_the_article_s_network_otherwise_and_in_that_precision(precision):
    """Two convolutions are transposed, and the last is made of two. What it puts out is float32 again."""
    space = cells('ConvDAE', 'fast', precision=precision)
    images = space['test_images'][:2]
    assert convolutions(space['model'], images) == {('Conv2D', 'float32'): 7, ('MaxPool', 'float32'): 3}
    assert convolutions(space['network'], images) == {
        ('Conv2D', precision): 6, ('Conv2DBackpropInput', precision): 2, ('MaxPool', precision): 3}
    assert space['network'](images).dtype == 'float32'


def train(**parameters):
    """Train ConvDAE on five batches; return the loss of each step and the variables."""
    space = cells('ConvDAE', 'batches', batch_size=32, **parameters)
    return [space['trained'].fit(*batch, batch_size=32, shuffle=False, verbose=0).history['loss'][0]
            for batch in space['train_batches'].take(5)], space


def test_trains_in_half_precision_with_weights_in_float32():
    (usual, _), (losses, space) = train(), train(precision='bfloat16')
    assert {weight.dtype.name for weight in space['model'].get_weights()} == {'float32'}
    np.testing.assert_allclose(losses, usual, rtol=0.02)
    assert losses != usual


def test_two_devices_learn_what_one_learns_with_the_lines_of_the_readme(tmp_path):
    """The whole notebook in a kernel of its own, because devices are set before TensorFlow does anything."""
    assert [line for line in (SEVERAL_GPUS, ONE_AGAIN) if f'`{line[0]}`' not in README] == []
    parameters = {'data_dir': str(cut_sample(tmp_path, 300, 50)), 'batch_size': 60, 'epochs': 1, 'dense_units': [5]}
    lines = {above: f'{line}\n{above}' for line, above in (SEVERAL_GPUS, ONE_AGAIN)}
    # Without a GPU this strategy takes one processor, unless it is told which.
    lines = {above: line.replace('Strategy()', "Strategy(['CPU:0', 'CPU:1'])") for above, line in lines.items()}
    run = figures(execute('ConvDAE', tmp_path, changes=lines, before=TWO_DEVICES, **parameters))
    (mirrored,) = (figure['curves'] for title, figure in run.items() if 'original' in title)
    space = cells('ConvDAE', 'batches', **parameters)
    next(iter(space['train_batches']))    # for several devices Keras takes a batch before it trains
    usual = space['network'].fit(space['train_batches'], shuffle=False, verbose=0).history['loss']
    (losses,) = (values for label, values in mirrored.items() if 'this notebook' in label)
    np.testing.assert_allclose(losses, usual, rtol=1e-4)
