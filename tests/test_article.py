"""The networks, the loss and the optimizer are those of the article, and a change to any of them is noticed."""
import json

import nbformat
import pytest
from conftest import NOTEBOOKS, code_cell, execute, read_notebook, stream_text

# Written from the article, not from the notebooks: kind of layer, shape of its output, settings.
CONVOLUTION = {'kernel_size': [3, 3], 'strides': [1, 1], 'padding': 'same', 'use_bias': True}
RELU, LINEAR = {**CONVOLUTION, 'activation': 'relu'}, {**CONVOLUTION, 'activation': 'linear'}
FILTERS = {**LINEAR, 'use_bias': False}    # the bias and ReLU come after the pooling, which gives the same result
POOLING = {'pool_size': [2, 2], 'strides': [2, 2], 'padding': 'same'}
UPSAMPLING = {'size': [2, 2], 'interpolation': 'nearest'}


def dense_network(hidden_units):
    """Return the layers of a dense autoencoder."""
    return [('InputLayer', [784], {}),
            ('Dense', [hidden_units], {'activation': 'relu', 'use_bias': True}),
            ('Dense', [784], {'activation': 'linear', 'use_bias': True})]


LAYERS = {
    'BasicAE': dense_network(64),
    'EasyDAE': dense_network(32),
    'ConvDAE': [
        ('InputLayer', [28, 28, 1], {}),
        ('Conv2D', [28, 28, 64], FILTERS),
        ('MaxPoolingBiasReLU', [14, 14, 64], POOLING),
        ('Conv2D', [14, 14, 64], FILTERS),
        ('MaxPoolingBiasReLU', [7, 7, 64], POOLING),
        ('Conv2D', [7, 7, 32], FILTERS),
        ('MaxPoolingBiasReLU', [4, 4, 32], POOLING),
        # TensorFlow 1 resizes 4 x 4 to 7 x 7 by taking the pixels 0, 0, 1, 1, 2, 2, 3: doubled, then cropped.
        ('UpSampling2D', [8, 8, 32], UPSAMPLING),
        ('Cropping2D', [7, 7, 32], {'cropping': [[0, 1], [0, 1]]}),
        ('Conv2D', [7, 7, 32], RELU),
        ('UpSampling2D', [14, 14, 32], UPSAMPLING),
        ('Conv2D', [14, 14, 64], RELU),
        ('UpSampling2D', [28, 28, 64], UPSAMPLING),
        ('Conv2D', [28, 28, 64], RELU),
        ('Conv2D', [28, 28, 1], LINEAR),
    ],
}
PARAMETER_COUNTS = {'BasicAE': 101200, 'EasyDAE': 50992, 'ConvDAE': 121281}
OPTIMIZER = {'name': 'adam', 'learning_rate': 0.001, 'beta_1': 0.9, 'beta_2': 0.999, 'epsilon': 1e-8,
             'amsgrad': False, 'weight_decay': None, 'clipnorm': None, 'clipvalue': None}
LOSS = {'name': 'binary_crossentropy', 'reduction': 'sum_over_batch_size', 'from_logits': True,
        'label_smoothing': 0.0}
BUILDING = {'parameters', 'hardware', 'model', 'encoder', 'two_steps', 'one_step', 'decoder', 'compile'}

DESCRIBE = """
import json
print('DESCRIPTION ' + json.dumps({
    'layers': [(layer.name, type(layer).__name__, list(layer.output.shape[1:]), layer.get_config())
               for layer in model.layers],
    'parameters': sum(int(np.prod(weight.shape)) for weight in model.trainable_weights),
    'optimizer': model.optimizer.get_config(),
    'loss': model.loss.get_config() if isinstance(model.loss, keras.Loss) else {'name': str(model.loss)},
}, default=str))
"""


def describe(name, changes, folder):
    """Build a notebook's model once for each change, in one kernel; return what was built each time.

    A change is pairs of texts, one behind the other, of which the first is replaced by the second in the cells
    that build the model.
    """
    notebook = read_notebook(name)
    building = [cell for cell in notebook.cells if cell.id in BUILDING]
    notebook.cells = [code_cell(notebook, 'setup'), nbformat.v4.new_code_cell('train_images = range(60000)')]
    for number, change in enumerate(changes):
        sources = {cell.id: cell.source for cell in building}
        for before, after in zip(change[::2], change[1::2]):
            assert any(before in source for source in sources.values()), f'{before} is not there to be changed'
            sources = {cell_id: source.replace(before, after) for cell_id, source in sources.items()}
        notebook.cells += [nbformat.v4.new_code_cell(source, id=f'{cell_id}-{number}')
                           for cell_id, source in sources.items()]
        notebook.cells.append(nbformat.v4.new_code_cell(DESCRIBE, id=f'describe-{number}'))
    notebook, _ = execute(notebook, folder)
    printed = stream_text(cell for cell in notebook.cells if cell.id.startswith('describe'))
    return [json.loads(line.removeprefix('DESCRIPTION ')) for line in printed.splitlines()]


def differences(name, description, article_layers=None):
    """Return a sentence for everything in which a network is not the article's."""
    found = []
    layers, article_layers = description['layers'], article_layers or LAYERS[name]
    kinds, article_kinds = [layer[1] for layer in layers], [layer[0] for layer in article_layers]
    if kinds != article_kinds:
        found.append(f'layers: {kinds}, in the article {article_kinds}')
    for (layer, _, shape, settings), (_, article_shape, article_settings) in zip(layers, article_layers):
        if shape != article_shape:
            found.append(f'{layer}: output {shape}, in the article {article_shape}')
        for setting, value in article_settings.items():
            if settings.get(setting) != value:
                found.append(f'{layer}: {setting} {settings.get(setting)}, in the article {value}')
    if description['parameters'] != PARAMETER_COUNTS[name]:
        found.append(f'parameters: {description["parameters"]}, in the article {PARAMETER_COUNTS[name]}')
    for setting, value in OPTIMIZER.items():
        actual = description['optimizer'].get(setting)
        if isinstance(actual, float):
            actual = float(f'{actual:.6g}')    # Keras keeps it in float32
        if actual != value:
            found.append(f'optimizer: {setting} {actual}, in the article {value}')
    for setting, value in LOSS.items():
        if description['loss'].get(setting) != value:
            found.append(f'loss: {setting} {description["loss"].get(setting)}, in the article {value}')
    return found


TWO_STEPS = ['one_step_upsampling = True ', 'one_step_upsampling = False ']
CHANGES = {    # what is changed, and how the sentence begins that says so
    'BasicAE': [
        ('hidden_units = 64 ', 'hidden_units = 63 ', 'hidden: output [63]'),
        ("activation='relu'", "activation='tanh'", 'hidden: activation tanh'),
        ('epsilon=1e-8', 'epsilon=1e-7', 'optimizer: epsilon 1e-07'),
    ],
    'EasyDAE': [
        ('learning_rate = 0.001', 'learning_rate = 0.01', 'optimizer: learning_rate 0.01'),
        ('keras.optimizers.Adam(learning_rate, epsilon=1e-8)', "'sgd'", 'optimizer: name sgd'),
        ('from_logits=True', 'from_logits=False', 'loss: from_logits False'),
        ('keras.losses.BinaryCrossentropy(from_logits=True)', "'mean_squared_error'", 'loss: name mean_squared_error'),
    ],
    'ConvDAE': [
        ("upsample_then_convolve(x, 64, name='conv5')", "upsample_then_convolve(x, 48, name='conv5')",
         'conv5: output [14, 14, 48]'),
        ("3, padding='same', use_bias=False, name='conv2'",
         "5, padding='same', use_bias=False, name='conv2'", 'conv2: kernel_size [5, 5]'),
        ("MaxPoolingBiasReLU(2, padding='same', name='pool1')", "layers.MaxPooling2D(2, padding='same', name='pool1')",
         'layers: '),
        ("interpolation='nearest', name=f'{name}_", "interpolation='bilinear', name=f'{name}_",
         'conv6_upsample: interpolation bilinear'),
        ('Cropping2D(((0, 1), (0, 1))', 'Cropping2D(((1, 0), (1, 0))', 'crop: cropping [[1, 0], [1, 0]]'),
        ("x = layers.Cropping2D(((0, 1), (0, 1)), name='crop')(x)\n", '', 'layers: '),
    ],
}


@pytest.mark.parametrize('name', NOTEBOOKS)
def test_network_is_that_of_the_article_and_any_change_is_named(name, tmp_path):
    article = TWO_STEPS if name == 'ConvDAE' else []
    changes = [article, *([*article, *change[:2]] for change in CHANGES[name])]
    found = [differences(name, description) for description in describe(name, changes, tmp_path)]
    assert found[0] == []
    for sentences, (_, _, expected) in zip(found[1:], CHANGES[name]):
        assert any(sentence.startswith(expected) for sentence in sentences), f'{expected} is not among {sentences}'


def test_default_joins_two_upsamplings_with_their_convolutions_and_turns_the_last(tmp_path):
    (description,) = describe('ConvDAE', [[]], tmp_path)
    layers = LAYERS['ConvDAE']
    joined = [*layers[:10], ('UpsampleConv2D', [14, 14, 64], RELU), ('UpsampleConv2D', [28, 28, 64], RELU),
              ('Conv2DTranspose', *layers[-1][1:])]
    assert differences('ConvDAE', description, joined) == []
