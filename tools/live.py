"""The figure on a page that answers: what its script, page/live.js, needs of a notebook's run.

A run keeps its networks as files and ten digits in the notebook's metadata; the page holds both as text.
"""
import base64
import hashlib
import json
import math
import os
from pathlib import Path

import numpy as np

SCRIPT = Path(__file__).resolve().parent / 'page' / 'live.js'
NETWORKS = {    # of each notebook: from the name of a network to the file that keeps it
    'BasicAE': {'BasicAE': 'BasicAE.keras'},
    'EasyDAE': {'EasyDAE': 'EasyDAE.keras'},
    'ConvDAE': {'convolutional': 'ConvDAE.keras', 'skip connections': 'skip_connections.keras',
                'dense 76': 'dense_76.keras'}}
MADE = {'BasicAE': 'rebuilt', 'EasyDAE': 'denoised'}    # the title of what a network makes, where it is not its name
QUESTIONS = {'BasicAE': 'what does the network rebuild', 'EasyDAE': 'what does the network draw',
             'ConvDAE': 'what does each network draw'}


def keep(name, folder):
    """Return code that ends a notebook's run: it keeps the networks in a folder, and displays ten digits in base64.

    The digits are those of the figures, and others up to ten: 28 x 28 bytes each, from 0 (black) to 255 (white).
    """
    return f'''import base64
networks = globals().get('networks') or ({{{name!r}: model}} if 'model' in globals() else {{}})
for name, file in {NETWORKS[name]}.items():
    if name in networks:    # without an optimizer and its state
        keras.Model(networks[name].inputs[0], networks[name].outputs[0]).save({str(folder)!r} + '/' + file)
if networks:
    ten = list(dict.fromkeys([*shown, *range(len(test_images))]))[:10]
    pixels = (255 * test_images[ten]).round().astype('uint8')
    display({{'text/plain': base64.b64encode(pixels.tobytes()).decode()}}, raw=True)'''


def digits(cell):
    """Return what the cell with that code has displayed, or None where a run did not come so far."""
    return next((output.data['text/plain'] for output in cell.outputs if 'data' in output), None)


def files(name, folder):
    """Return the files that keep the networks of a notebook in a folder, by the names of the networks."""
    paths = {network: Path(folder) / file for network, file in NETWORKS[name].items()}
    return {network: path for network, path in paths.items() if path.exists()}


def as_text(numbers, kind):
    """Return numbers as base64 of that kind of numbers, the lowest byte first."""
    return base64.b64encode(np.asarray(numbers).astype(np.dtype(kind).newbyteorder('<')).tobytes()).decode()


def quantize(weights):
    """Return weights as whole numbers from -127 to 127, and the scale of each output, which is the last axis.

    The float weights are nearly whole x scale. One scale for a whole layer would lose four times as much.
    """
    scales = np.abs(weights).max(axis=tuple(range(weights.ndim - 1))) / np.float32(126)
    scales = np.where(scales == 0, np.float32(1), scales)    # an output whose weights are all 0
    exact = (weights / scales).astype(float)
    if weights.ndim == 2:    # pixels and hidden numbers are not negative: what one weight errs, the next makes up for
        return np.diff(np.round(np.cumsum(exact, axis=0)), axis=0, prepend=0).astype(int), scales
    return np.round(exact).astype(int), scales


def check(layer, **wanted):
    """Raise ValueError when a setting of a layer is not the wanted one."""
    for setting, value in wanted.items():
        if (found := getattr(layer, setting)) != value:
            raise ValueError(f'The live figure cannot compute layer {layer.name!r}: {setting} is {found!r}, '
                             f'and tools/page/live.js knows {value!r} alone.')


def weights_of(layer):
    """Return what the script needs of a dense or convolutional layer."""
    if layer.activation.__name__ not in ('relu', 'linear'):
        raise ValueError(f'The live figure cannot compute layer {layer.name!r}: activation is '
                         f'{layer.activation.__name__!r}, and tools/page/live.js knows relu and linear alone.')
    weights, scales = quantize(np.asarray(layer.kernel))
    bias = np.asarray(layer.bias) if layer.use_bias else np.zeros(len(scales))
    return {'relu': layer.activation.__name__ == 'relu', 'size': weights.shape[0] if weights.ndim == 4 else 1,
            'weights': as_text(weights + 128, 'uint8'), 'scales': as_text(scales, 'float32'),
            'bias': as_text(bias, 'float32')}


def describe(model):
    """Return a Keras model as the list of layers that the script computes, one after the other.

    Each has a name, a kind, the names of the layers that go in, and the shape of what comes out: height, width,
    channels. Weights are bytes, of which 128 means 0; biases stay float32: they are few, and an error in
    one moves all pixels.
    Raises ValueError with the name of a layer that the script cannot compute.
    """
    from keras import layers

    settings = {
        layers.InputLayer: {}, layers.Flatten: {}, layers.Reshape: {}, layers.Add: {}, layers.Dense: {},
        layers.Conv2D: {'strides': (1, 1), 'dilation_rate': (1, 1), 'groups': 1, 'padding': 'same'},
        layers.MaxPooling2D: {'pool_size': (2, 2), 'strides': (2, 2), 'padding': 'same'},
        layers.UpSampling2D: {'size': (2, 2), 'interpolation': 'nearest'}, layers.Cropping2D: {}}
    described, makers = [], {}    # makers: from the id of a tensor to the name of the layer that made it
    for layer in model.layers:
        kind = type(layer)
        if kind not in settings:
            raise ValueError(f'The live figure cannot compute layer {layer.name!r}: '
                             f'tools/page/live.js does not know {kind.__name__}.')
        check(layer, **settings[kind])
        if hasattr(layer, 'data_format'):
            check(layer, data_format='channels_last')
        tensors = [] if kind is layers.InputLayer else layer.input if isinstance(layer.input, list) else [layer.input]
        if not all(id(tensor) in makers for tensor in tensors):
            raise ValueError(f'The live figure cannot compute layer {layer.name!r}: what goes in comes from a layer '
                             'that is used twice.')
        if kind is layers.Add and [each.shape for each in tensors] != 2 * [layer.output.shape]:
            raise ValueError(f'The live figure cannot compute layer {layer.name!r}: tools/page/live.js adds two layers '
                             'of the same shape alone.')
        makers[id(layer.output)] = layer.name
        shape = layer.output.shape[1:]
        described.append({'name': layer.name, 'kind': kind.__name__, 'inputs': [makers[id(each)] for each in tensors],
                          'shape': [1] * (3 - len(shape)) + [*shape]})
        if kind is layers.Cropping2D:
            described[-1] |= {'top': layer.cropping[0][0], 'left': layer.cropping[1][0]}
        elif kind is layers.Conv2D:
            check(layer, kernel_size=(layer.kernel_size[0],) * 2)
        if kind in (layers.Conv2D, layers.Dense):
            described[-1] |= weights_of(layer)
    return fold(described)


def fold(described):
    """Return the layers with each upsampling and the 3 x 3 convolution behind it as one, which takes half the time."""
    by_name = {layer['name']: layer for layer in described}
    for layer in described:
        before = by_name.get(layer['inputs'][0]) if layer['kind'] == 'Conv2D' and layer['size'] == 3 else None
        if before and before['kind'] == 'UpSampling2D':
            layer |= {'upsampled': True, 'inputs': before['inputs']}
    used = {described[-1]['name'], *(name for layer in described for name in layer['inputs'])}
    return [layer for layer in described if layer['name'] in used]


def figure(name, notebook, folder):
    """Return what the page of a notebook needs for its live figure, or None when the run has not kept it.

    Reads the networks from a folder, and the digits from the notebook's metadata.
    """
    kept = files(name, folder)
    if not kept or not notebook.metadata.get('digits'):
        return None    # and TensorFlow, which takes seconds, is not imported
    os.environ['KERAS_BACKEND'] = 'tensorflow'
    os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
    import keras
    import tensorflow as tf
    tf.config.set_visible_devices([], 'GPU')    # its memory is for the kernels of the notebooks
    networks = {network: describe(keras.models.load_model(file)) for network, file in kept.items()}
    script = SCRIPT.read_text(encoding='utf-8')
    hidden = [layer['shape'][-1] for layer in networks.get('BasicAE', ()) if layer['name'] == 'hidden']
    return {'script': script, 'digest': base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
            'networks': {network: MADE.get(network, network) for network in networks}, 'question': QUESTIONS[name],
            'hidden': {'count': hidden[0], 'side': math.ceil(math.sqrt(hidden[0]))} if hidden else None,
            'noise_factor': 0 if name == 'BasicAE' else 0.5,    # BasicAE learns without noise
            'data': json.dumps({'networks': networks, 'digits': notebook.metadata['digits']}).replace('<', r'\u003c')}
