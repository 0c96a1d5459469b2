"""Step for step the article's networks: the same weights, batches and noise give the same losses and weights.

Each network is built a second time as the graph of TensorFlow 1 that the article describes, with
placeholders, a session and the optimizer of that time (benchmarks/original.py). The notebook's own cells build the
other one.

Both compute in float64. In float32 the convolutional networks drift apart by rounding alone: Adam makes a full
step of a gradient that is nothing but rounding error.
"""
import numpy as np
import pytest
from compare import DRAWING
from conftest import DATA, execute, read_notebook

STEPS = 20
TRAIN = f"""
# As plain numbers, Keras would round these two to float32.
for name in ('beta_1', 'beta_2'):
    setattr(model.optimizer, name, tf.constant(getattr(model.optimizer, name), 'float64'))
kept['learning rate'] = learning_rate


def as_convolutions():
    # The weights of all layers; a transposed convolution with stride 1 is a convolution with its filter turned.
    turned = {{layer.kernel.path for layer in model.layers if type(layer).__name__ == 'Conv2DTranspose'}}
    return [np.transpose(weight.numpy()[::-1, ::-1], [0, 1, 3, 2]) if weight.path in turned else weight.numpy()
            for weight in model.weights]


for number, weight in enumerate(as_convolutions()):
    kept[f'before {{number}}'] = weight
losses = []
for step, (noisy, clean) in enumerate(train_batches.take({STEPS})):
    kept[f'inputs {{step}}'], kept[f'targets {{step}}'] = noisy, clean
    model.reset_metrics()
    losses.append(model.train_on_batch(noisy, clean))
kept['losses'] = losses
for number, weight in enumerate(as_convolutions()):
    kept[f'after {{number}}'] = weight
"""


def train_original(kept):
    """Train the TensorFlow 1 graph on the batches that were kept; return losses and final weights."""
    from original import Original
    count = sum(name.startswith('before ') for name in kept)
    network = Original([kept[f'before {number}'] for number in range(count)], float(kept['learning rate']))
    losses = [network.step(kept[f'inputs {step}'], kept[f'targets {step}']) for step in range(STEPS)]
    return losses, network.weights()


def compare(notebook, folder, data, parameters=None):
    """Assert that a notebook's network and the original graph learn the same from the same batches."""
    notebook.cells = [cell for cell in notebook.cells if cell.id not in DRAWING]
    for cell in notebook.cells:
        if cell.id in ('setup', 'hardware', 'model', 'decoder'):
            cell.source = cell.source.replace("'float32'", "'float64'")
    parameters = {'data_dir': str(data), 'precision': 'float64', **(parameters or {})}
    _, kept = execute(notebook, folder, parameters, TRAIN, after='batches')
    assert kept['before 0'].dtype == 'float64'
    losses, weights = train_original(kept)
    np.testing.assert_allclose(kept['losses'], losses, rtol=1e-12, err_msg='loss of a step')
    for number, weight in enumerate(weights):
        np.testing.assert_allclose(kept[f'after {number}'], weight, rtol=0, atol=1e-12,
                                   err_msg=f'weights {number} after {STEPS} steps')


@pytest.mark.parametrize(('name', 'parameters'), [
    ('BasicAE', {}), ('EasyDAE', {}),
    ('ConvDAE', {'one_step_upsampling': True}), ('ConvDAE', {'one_step_upsampling': False}),
])
def test_learns_step_for_step_what_the_original_graph_learns(name, parameters, tmp_path):
    compare(read_notebook(name), tmp_path, DATA['full'] or DATA['sample'], parameters)


@pytest.mark.parametrize(('name', 'before', 'after'), [
    ('BasicAE', 'epsilon=1e-8', 'epsilon=1e-7'),
    ('EasyDAE', 'Adam(learning_rate', 'Adam(1.001 * learning_rate'),
    ('ConvDAE', 'Cropping2D(((0, 1), (0, 1))', 'Cropping2D(((1, 0), (1, 0))'),
    ('ConvDAE', "interpolation='nearest'", "interpolation='bilinear'"),
    ('ConvDAE', 'super().call(images), self.bias', 'super().call(images), 2 * self.bias'),
    ('ConvDAE', 'tf.nn.relu(tf.nn.bias_add', 'tf.nn.leaky_relu(tf.nn.bias_add'),
    ('ConvDAE', '[1, 1, 0], [1, 0, 0]]', '[1, 1.001, 0], [1, 0, 0]]'),
    ('ConvDAE', 'meet, meet, self.kernel', 'meet[::-1], meet, self.kernel'),
])
def test_another_network_does_not_pass(name, before, after, tmp_path):
    notebook = read_notebook(name)
    for cell in notebook.cells:
        if cell.id in ('encoder', 'one_step', 'decoder', 'compile'):
            cell.source = cell.source.replace(before, after)
    with pytest.raises(AssertionError, match=r'loss of a step|weights \d+ after'):
        compare(notebook, tmp_path, DATA['sample'])
