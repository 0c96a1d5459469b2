"""Noise, networks, loss and optimizer are the article's, step for step; what is faster computes the same."""
import functools
from statistics import NormalDist

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import DRAWING, NOTEBOOKS, SAMPLE, cells_up_to
from original import Original, first_weights

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


def cells(name, last, changes=(), **parameters):
    """Run the cells of a notebook on the sample with what the article sets, and add the network that is trained."""
    parameters = {'data_dir': str(SAMPLE), 'learning_rate': 0.001, **ARTICLE[name], **parameters}
    space = cells_up_to(name, last, changes, **parameters)
    space.trained = getattr(space, 'network', getattr(space, 'model', None))
    return space


@pytest.fixture
def float64():
    """Have Keras compute in float64 during a test. In float32, Adam makes full steps of rounding errors."""
    for kind in ('float64', 'float32'):
        keras.config.set_floatx(kind)
        keras.config.set_dtype_policy(kind)
        if kind == 'float64':
            yield


@pytest.mark.parametrize('name', NOTEBOOKS)
def test_network_is_the_article_s_in_keras_s_own_layers(name):
    model = cells(name, 'model').model
    found = [f'{type(layer).__name__} {"x".join(map(str, layer.output.shape[1:]))}' for layer in model.layers]
    assert ', '.join(found) == LAYERS[name]
    assert {type(layer).__module__.split('.')[0] for layer in model.layers} == {'keras'}


def prepare(name, **parameters):
    """Return a notebook's variables before its training, with weights that all ways to train begin with."""
    space = cells(name, 'batches', batch_size=16, **parameters)
    space.model.set_weights(first_weights(name, 0))
    optimizer = space.trained.optimizer    # as plain numbers, Keras would round these two to float32
    optimizer.beta_1, optimizer.beta_2 = (tf.constant(beta, 'float64') for beta in (0.9, 0.999))
    return space


@functools.cache
def train_original(name):
    """Train the graph of TensorFlow 1; return 20 batches, the loss of each step and the weights at the end."""
    batches = [tuple(map(np.array, batch)) for batch in prepare(name).train_batches().take(20)]
    original = Original([weight.astype('float64') for weight in first_weights(name, 0)], 0.001)
    return batches, [original.step(*batch) for batch in batches], original.weights()


@pytest.mark.parametrize(('name', 'parameters'), [
    ('BasicAE', {}), ('EasyDAE', {}), ('ConvDAE', {'fast': False}), ('ConvDAE', {'fast': True})])
def test_learns_step_for_step_what_the_original_graph_learns(name, parameters, float64):
    """With `fast` the weights of `model` are trained through another network, and end the same."""
    batches, losses, weights = train_original(name)
    space = prepare(name, **parameters)
    for batch, expected in zip(batches, losses):
        space.trained.reset_metrics()
        np.testing.assert_allclose(space.trained.train_on_batch(*batch), expected, rtol=1e-12)
    for weight, expected in zip(space.model.get_weights(), weights):
        np.testing.assert_allclose(weight, expected, rtol=0, atol=1e-12)
    assert (space.trained is space.model) == (not parameters.get('fast'))


def test_faster_computes_the_logits_and_gradients_of_the_network_with_skip_connections(float64):
    space = cells('ConvDAE', 'faster')
    model, images = space.denoiser(skip=True), tf.random.stateless_uniform((3, 28, 28, 1), (0, 1), dtype='float64')
    assert sum(isinstance(layer, keras.layers.Add) for layer in model.layers) == 3
    results = []
    for network in (model, space.Faster(model)):
        with tf.GradientTape() as tape:
            logits = network(images, training=True)
            total = tf.reduce_sum(tf.sin(logits))
        results.append([logits, *tape.gradient(total, model.trainable_variables)])
    for expected, result in zip(*results, strict=True):
        np.testing.assert_allclose(result, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(('fast', 'precision'), [(True, 'float32'), ('bfloat16', 'bfloat16')])
def test_faster_transposes_two_convolutions_and_computes_in_that_precision(fast, precision):
    """What it puts out is float32 again, and so are the weights."""
    space = cells('ConvDAE', 'fast', fast=fast)
    graph = tf.function(space.network).get_concrete_function(space.test_images[:5]).graph
    found = [each.outputs[0].dtype.name for each in graph.get_operations() if each.type == 'Conv2DBackpropInput']
    assert found == [precision] * 2
    assert {graph.outputs[0].dtype.name, *(weight.dtype for weight in space.model.weights)} == {'float32'}


CONV6 = "64, 3, padding='same', activation='relu', name='conv6')(x)"


@pytest.mark.parametrize('changed', [
    CONV6.replace('relu', 'tanh'), CONV6.replace('3', '5'), f'{CONV6}\n    x = layers.Dropout(0.5)(x)',
    f'{CONV6}\n    x = layers.Conv2D({CONV6.replace("conv6", "conv7")}'], ids=['tanh', '5 x 5', 'dropout', 'one more'])
def test_who_changes_a_layer_is_told_to_set_fast_to_false(changed):
    """And with False the notebook runs: test_parameters.py has a layer of one's own."""
    with pytest.raises(ValueError, match=r'^Faster knows the layers of the article[^\n]*: set fast = False\.$'):
        cells('ConvDAE', 'fast', {CONV6: changed}, fast=True)


@pytest.mark.parametrize('name', ['EasyDAE', 'ConvDAE'])
def test_noise_is_gaussian_with_the_given_factor_and_clipped(name):
    add_noise = cells_up_to(name, 'add_noise', data_dir=str(SAMPLE), noise_factor=0.3).add_noise
    images = np.full((501, 783), 0.5, 'float32')    # of an odd number of pixels: Box and Muller's come in pairs
    noisy = add_noise(images, (3, 4)).numpy()
    assert (noisy.min(), noisy.max()) == (0, 1)
    for level in np.linspace(0, 0.99, 34):
        assert np.mean(noisy <= level) == pytest.approx(NormalDist(0.5, 0.3).cdf(level), abs=0.005)
    inner = np.ravel(np.where((noisy > 0) & (noisy < 1), noisy - 0.5, 0))
    for distance in (1, 783, len(inner) // 2, len(inner) // 2 + 1):    # no pixel tells of another
        assert abs(np.corrcoef(inner[:-distance], inner[distance:])[0, 1]) < 0.01
        assert abs(np.corrcoef(inner[:-distance]**2, inner[distance:]**2)[0, 1]) < 0.01


@pytest.mark.parametrize('name', NOTEBOOKS)
def test_batches_hold_all_images_in_a_new_order_and_new_noise(name):
    space = cells_up_to(name, 'batches', without=['model', 'faster', 'fast', 'compile', *DRAWING],
                        data_dir=str(SAMPLE), batch_size=500)
    batches = space.train_batches()
    first, second, again = (np.array([[np.reshape(images, (-1, 784)) for images in batch] for batch in each])
                            for each in (batches, batches, space.train_batches()))
    sums = [each[:, 1].sum(axis=2).ravel() for each in (first, second)]
    expected = np.reshape(space.train_images, (-1, 784)).sum(axis=1) / 255
    np.testing.assert_allclose(np.sort(sums), [np.sort(expected)] * 2, rtol=1e-5)
    assert not np.array_equal(*sums)
    np.testing.assert_array_equal(again, first)    # the next network gets the same
    noisy, clean = first[0]
    for other_noisy, other_clean in (first[1], second[0]):    # the next, and the first of the next epoch
        black = (clean == 0) & (other_clean == 0)
        if name == 'BasicAE':
            np.testing.assert_array_equal(noisy, clean)
        else:
            assert np.mean(noisy[black] > 0.5) == pytest.approx(1 - NormalDist().cdf(1), abs=0.01)
            assert abs(np.corrcoef(noisy[black], other_noisy[black])[0, 1]) < 0.02
