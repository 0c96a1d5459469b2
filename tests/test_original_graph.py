"""Step for step the article's networks: the same weights, batches and noise give the same losses and weights.

Each network is built a second time as the graph of TensorFlow 1 that the article describes, with
placeholders, a session and the optimizer of that time. The notebook's own cells build the other one.

Both compute in float64. In float32 the convolutional networks drift apart by rounding alone: Adam makes a full
step of a gradient that is nothing but rounding error.
"""
import nbformat
import numpy as np
import pytest
from conftest import DATA, NOTEBOOKS, code_cell, execute, read_notebook

STEPS = 20
TRAIN = f"""
# As plain numbers, Keras would round these two to float32.
for name in ('beta_1', 'beta_2'):
    setattr(model.optimizer, name, tf.constant(getattr(model.optimizer, name), 'float64'))
kept['learning rate'] = learning_rate
for number, weight in enumerate(model.get_weights()):
    kept[f'before {{number}}'] = weight
losses = []
for step, (noisy, clean) in enumerate(train_batches.take({STEPS})):
    kept[f'inputs {{step}}'], kept[f'targets {{step}}'] = noisy, clean
    model.reset_metrics()
    losses.append(model.train_on_batch(noisy, clean))
kept['losses'] = losses
for number, weight in enumerate(model.get_weights()):
    kept[f'after {{number}}'] = weight
"""


def dense_logits(tf, images, variables):
    """Return the logits of the dense networks, from images of shape (count, 784)."""
    weights1, bias1, weights2, bias2 = variables
    hidden = tf.nn.relu(tf.nn.bias_add(tf.matmul(images, weights1), bias1))
    return tf.nn.bias_add(tf.matmul(hidden, weights2), bias2)


def convolutional_logits(tf, images, variables):
    """Return the logits of the convolutional network, from images of shape (count, 28, 28, 1)."""
    kernels, biases = variables[::2], variables[1::2]

    def convolve(tensor, number):
        tensor = tf.nn.conv2d(tensor, kernels[number], strides=[1, 1, 1, 1], padding='SAME')
        return tf.nn.bias_add(tensor, biases[number])

    tensor = images
    for number in range(3):
        tensor = tf.nn.relu(convolve(tensor, number))
        tensor = tf.nn.max_pool2d(tensor, ksize=[1, 2, 2, 1], strides=[1, 2, 2, 1], padding='SAME')
    for number, size in ((3, 7), (4, 14), (5, 28)):
        tensor = tf.compat.v1.image.resize_nearest_neighbor(tensor, (size, size))
        tensor = tf.nn.relu(convolve(tensor, number))
    return convolve(tensor, 6)


def train_original(network, kept):
    """Train the TensorFlow 1 graph on the batches that were kept; return losses and final weights."""
    import tensorflow as tf
    v1 = tf.compat.v1
    count = sum(name.startswith('before ') for name in kept)
    with tf.Graph().as_default(), v1.Session() as session:
        shape = (None, *kept['inputs 0'].shape[1:])
        inputs, targets = v1.placeholder(tf.float64, shape), v1.placeholder(tf.float64, shape)
        variables = [v1.Variable(kept[f'before {number}']) for number in range(count)]
        logits = network(tf, inputs, variables)
        cost = tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(labels=targets, logits=logits))
        # The defaults of this optimizer, written out: as plain numbers they would be rounded to float32.
        constants = [tf.constant(value, tf.float64) for value in (kept['learning rate'], 0.9, 0.999, 1e-8)]
        optimizer = v1.train.AdamOptimizer(*constants).minimize(cost)
        session.run(v1.global_variables_initializer())
        losses = []
        for step in range(STEPS):
            batch = {inputs: kept[f'inputs {step}'], targets: kept[f'targets {step}']}
            losses.append(session.run([cost, optimizer], feed_dict=batch)[0])
        return losses, session.run(variables)


def compare(notebook, folder, data):
    """Assert that a notebook's network and the original graph learn the same from the same batches."""
    notebook.cells.remove(code_cell(notebook, 'plot_network'))
    notebook.cells.remove(code_cell(notebook, 'network'))
    setup = notebook.cells.index(code_cell(notebook, 'setup'))
    notebook.cells.insert(setup + 1, nbformat.v4.new_code_cell("keras.config.set_floatx('float64')"))
    _, kept = execute(notebook, folder, {'data_dir': str(data)}, TRAIN, after='batches')
    assert kept['before 0'].dtype == 'float64'
    network = convolutional_logits if kept['inputs 0'].ndim == 4 else dense_logits
    losses, weights = train_original(network, kept)
    np.testing.assert_allclose(kept['losses'], losses, rtol=1e-12, err_msg='loss of a step')
    for number, weight in enumerate(weights):
        np.testing.assert_allclose(kept[f'after {number}'], weight, rtol=0, atol=1e-12,
                                   err_msg=f'weights {number} after {STEPS} steps')


@pytest.mark.parametrize('name', NOTEBOOKS)
def test_learns_step_for_step_what_the_original_graph_learns(name, tmp_path):
    compare(read_notebook(name), tmp_path, DATA['full'] or DATA['sample'])


@pytest.mark.parametrize(('name', 'before', 'after'), [
    ('BasicAE', 'epsilon=1e-8', 'epsilon=1e-7'),
    ('EasyDAE', 'Adam(learning_rate', 'Adam(1.001 * learning_rate'),
    ('ConvDAE', 'Cropping2D(((0, 1), (0, 1))', 'Cropping2D(((1, 0), (1, 0))'),
    ('ConvDAE', "interpolation='nearest'", "interpolation='bilinear'"),
])
def test_another_network_does_not_pass(name, before, after, tmp_path):
    notebook = read_notebook(name)
    for cell in notebook.cells:
        if cell.id in ('decoder', 'compile'):
            cell.source = cell.source.replace(before, after)
    with pytest.raises(AssertionError, match=r'loss of a step|weights \d+ after'):
        compare(notebook, tmp_path, DATA['sample'])
