"""The networks, the loss and the optimizer are the article's, step for step; what is faster computes the same."""
import functools
import multiprocessing

import numpy as np
import pytest
from conftest import ARTICLE, ROOT, SAMPLE, Cells, import_tensorflow
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
HALF_PRECISION = "keras.config.set_dtype_policy('mixed_bfloat16')"    # lines that the README names
SEVERAL_GPUS = 'tf.distribute.experimental_set_strategy(tf.distribute.MirroredStrategy())'
ONE_AGAIN = 'tf.distribute.experimental_set_strategy(None)'


def test_network_is_the_article_s_in_keras_s_own_layers(name):
    space = Cells(name, data_dir=str(SAMPLE), **ARTICLE[name]).run_to('compile')
    model, layers = space['model'], space['keras'].layers
    assert [(type(layer).__name__, layer.output.shape[1:]) for layer in model.layers] == LAYERS[name]
    assert all(type(layer) is getattr(layers, type(layer).__name__) for layer in model.layers)
    assert [tuple(weight.shape) for weight in model.weights] == SHAPES[name]    # in the article's order


# Step for step: both sides compute in float64. In float32 the convolutional networks drift apart by rounding alone:
# Adam makes a full step of a gradient that is nothing but rounding error.
def in_float64(name, **parameters):
    """Return the cells of a notebook, run until its training, with weights as the original begins with."""
    cells = Cells(name, data_dir=str(SAMPLE), batch_size=16, **ARTICLE[name], **parameters)
    cells.change("floatx('float32')", "floatx('float64')")
    space = cells.run_to('batches')
    space['model'].set_weights(first_weights(name, 0))
    for beta in ('beta_1', 'beta_2'):    # as plain numbers, Keras would round these two to float32
        value = getattr(cells.trained.optimizer, beta, 0)
        setattr(cells.trained.optimizer, beta, space['tf'].constant(value, 'float64'))
    return cells


@functools.cache
def train_original(name):
    """Train the graph of TensorFlow 1; return 20 batches, the loss of each step and the weights at the end."""
    batches = [tuple(map(np.array, batch)) for batch in in_float64(name).space['train_batches'].take(20)]
    original = Original([weight.astype('float64') for weight in first_weights(name, 0)], 0.001)
    return batches, [original.step(*batch) for batch in batches], original.weights()


@pytest.mark.parametrize(('name', 'parameters'), [
    ('BasicAE', {}), ('EasyDAE', {}), ('ConvDAE', {'fast': False}), ('ConvDAE', {'fast': True})])
def test_learns_step_for_step_what_the_original_graph_learns(name, parameters):
    """With `fast` the weights of `model` are trained through another network, and end the same."""
    batches, losses, weights = train_original(name)
    cells = in_float64(name, **parameters)
    for step, (batch, expected) in enumerate(zip(batches, losses)):
        cells.trained.reset_metrics()
        loss = cells.trained.train_on_batch(*batch)
        np.testing.assert_allclose(loss, expected, rtol=1e-12, err_msg=f'loss of step {step}')
    for weight, expected in zip(cells.space['model'].get_weights(), weights):
        assert weight.dtype == 'float64'
        np.testing.assert_allclose(weight, expected, rtol=0, atol=1e-12, err_msg='weights at the end')
    assert (cells.trained is cells.space['model']) == (not parameters.get('fast'))


SAME = {'padding': 'same', 'activation': 'relu', 'bias_initializer': 'normal'}
MODELS = {    # what a reader may make of the model, for images of 12 x 12 pixels and 2 channels
    'filters and kernels': lambda of: [
        of.Conv2D(7, 5, **SAME), of.MaxPooling2D(2), of.UpSampling2D(2), of.Conv2D(3, 5, **SAME),
        of.UpSampling2D(2), of.Conv2D(3, 2, **SAME), of.Conv2D(1, 4, **SAME), of.Conv2D(1, (1, 5), **SAME)],
    'odd sizes and other pooling': lambda of: [
        of.Cropping2D(((0, 1), (0, 5))), of.Conv2D(4, 3, **SAME), of.MaxPooling2D(2, padding='same'),
        of.UpSampling2D(2), of.Conv2D(4, 3, **SAME), of.MaxPooling2D(3, strides=2), of.AveragePooling2D(2)],
    'no padding, strides, dilation, groups': lambda of: [
        of.Conv2D(4, 3, activation='relu'), of.MaxPooling2D(2), of.UpSampling2D(2), of.Conv2D(4, 3), of.Conv2D(
            4, 3, strides=2, **SAME), of.Conv2D(4, 3, groups=2, **SAME), of.Conv2D(4, 3, dilation_rate=2, **SAME)],
    'no bias': lambda of: [of.Conv2D(4, 3, use_bias=False, **SAME), of.MaxPooling2D(2), of.UpSampling2D(2),
                           of.Conv2D(1, 3, padding='same', use_bias=False)],
    'other activations and upsampling': lambda of: [
        of.Conv2D(4, 3, padding='same', activation='tanh'), of.MaxPooling2D(2),
        of.Conv2D(4, 3, padding='same', activation='softmax'), of.MaxPooling2D(2),
        of.UpSampling2D(2, interpolation='bilinear'), of.Conv2D(4, 3, **SAME), of.UpSampling2D(3),
        of.Conv2D(4, 3, **SAME), of.UpSampling2D((2, 1))],
    'more layers': lambda of: [
        of.Conv2D(4, 3, **SAME), of.Dropout(0.0), of.MaxPooling2D(2), of.BatchNormalization(), of.UpSampling2D(2),
        of.LeakyReLU(), of.Conv2D(2, 3, **SAME), of.Flatten(), of.Dense(9), of.Reshape((3, 3, 1)),
        of.UpSampling2D(2), of.Conv2D(3, 3, **SAME)],
}


@functools.cache
def faster_in_float64():
    """Return `faster` of ConvDAE, Keras and TensorFlow, in float64."""
    cells = Cells('ConvDAE')
    cells.change("floatx('float32')", "floatx('float64')")
    space = cells.run('setup', 'parameters', 'encoder', 'faster')
    return space['faster'], space['keras'], space['tf']


@pytest.mark.parametrize('change', MODELS)
def test_faster_computes_the_same_for_a_reader_s_own_model(change):
    """Outputs, gradients, and what a batch normalization learns while it trains."""
    faster, keras, tf = faster_in_float64()
    keras.config.set_dtype_policy('float64')
    model = keras.Sequential([keras.Input((12, 12, 2)), *MODELS[change](keras.layers)])
    network = faster(model)
    assert network is not model
    assert {id(variable) for variable in network.variables} == {id(variable) for variable in model.variables}
    images, first = tf.random.stateless_normal((3, 12, 12, 2), (0, 1), dtype='float64'), model.get_weights()
    results = []
    for each in (model, network):
        model.set_weights(first)
        with tf.GradientTape() as tape:
            outputs = each(images, training=True)
            total = tf.reduce_sum(outputs * tf.sin(outputs + 1))
        gradients = tape.gradient(total, model.trainable_variables)
        results.append([outputs, *gradients, *map(tf.constant, model.get_weights())])
    for expected, result in zip(*results):
        np.testing.assert_allclose(result, expected, rtol=1e-10, atol=1e-12)


def test_faster_returns_what_is_no_chain_of_layers_unchanged():
    """A model with a skip connection, with a layer used twice, with two outputs."""
    faster, keras, _ = faster_in_float64()
    inputs, convolution = keras.Input((12, 12, 2)), keras.layers.Conv2D(2, 3, padding='same')
    images = convolution(inputs)
    for outputs in (keras.layers.Add()([inputs, images]), convolution(images), [images, keras.layers.ReLU()(images)]):
        model = keras.Model(inputs, outputs)
        assert faster(model) is model


def train(name, *changes, data_dir=SAMPLE, **parameters):
    """Train on five batches; return the cells and the loss of each step."""
    cells = Cells(name, data_dir=str(data_dir), batch_size=32, **parameters)
    for before, after in changes:
        cells.change(before, after)
    cells.run_to('batches')
    losses = [cells.trained.fit(*batch, batch_size=32, shuffle=False, verbose=0).history['loss'][0]
              for batch in cells.space['train_batches'].take(5)]
    return cells, losses


def test_trains_in_half_precision_and_whether_or_not_xla_compiles_the_step(name):
    """As the README says; weights, and what ConvDAE puts out, stay float32. On a GPU Keras compiles ConvDAE too."""
    _, usual = train(name)
    if name == 'ConvDAE':
        cells, losses = train(name, precision='bfloat16')
        halved = [layer for layer in cells.trained.layers if hasattr(layer, 'convolution')]
        assert [type(layer).__name__ for layer in cells.trained.layers[1:]] == [
            *3 * ['ConvolvePool'], 'UpSampling2D', 'Cropping2D', 'Convolve', *2 * ['UpsampleConvolve'],
            'MultiplyShift', 'Activation']
        assert cells.trained(cells.space['test_images'][:2]).dtype == 'float32'
    else:
        cells, losses = train(name, ('result_handle = display(', f'{HALF_PRECISION}\nresult_handle = display('))
        halved = cells.trained.layers[1:]
    assert {layer.compute_dtype for layer in halved} == {'bfloat16'}
    assert {weight.dtype.name for weight in cells.space['model'].get_weights()} == {'float32'}
    np.testing.assert_allclose(losses, usual, rtol=0.02)
    assert losses != usual
    compiled = {'ConvDAE': ('.compile(optimizer', '.compile(jit_compile=True, optimizer')}
    _, otherwise = train(name, compiled.get(name, (', jit_compile=True', '')))
    np.testing.assert_allclose(otherwise, usual, rtol=1e-4)


def train_on_two_devices(data_dir):
    """Train ConvDAE on one and on two processors of one computer, and go on to its end; return the losses of both."""
    import_tensorflow()
    import tensorflow as tf
    (processor,) = tf.config.list_physical_devices('CPU')
    tf.config.set_logical_device_configuration(processor, [tf.config.LogicalDeviceConfiguration()] * 2)
    parameters = {'data_dir': data_dir, 'epochs': 1, 'dense_epochs': 1, 'dense_units': [8]}
    begin = SEVERAL_GPUS.replace('Strategy()', "Strategy(['CPU:0', 'CPU:1'])")
    _, usual = train('ConvDAE', **parameters)
    cells, mirrored = train('ConvDAE', ('inputs = keras.Input(', f'{begin}\ninputs = keras.Input('),
                            ('noisy_images = add_noise(', f'{ONE_AGAIN}\nnoisy_images = add_noise('), **parameters)
    assert cells.trained.distribute_strategy.num_replicas_in_sync == 2
    cells.run('train', 'measure', 'denoise', 'dense', 'linear', 'table')
    return usual, mirrored


def test_two_devices_learn_what_one_learns_with_the_lines_of_the_readme(tiny):
    """In a process of its own, because devices are set before TensorFlow does anything."""
    with multiprocessing.get_context('spawn').Pool(1) as pool:
        usual, mirrored = pool.apply(train_on_two_devices, [tiny])
    np.testing.assert_allclose(mirrored, usual, rtol=1e-4)
    assert [line for line in (HALF_PRECISION, SEVERAL_GPUS, ONE_AGAIN) if f'`{line}`' not in README] == []
