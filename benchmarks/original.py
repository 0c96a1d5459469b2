"""The networks of the article as graphs of TensorFlow 1: placeholders, variables, a session, its Adam.

The tests compare the notebooks with them step for step, and benchmarks/compare.py measures their speed.
"""
import itertools

import numpy as np
import tensorflow as tf

v1 = tf.compat.v1

CHANNELS = [1, 64, 64, 32, 32, 64, 64, 1]    # of the images between the layers of ConvDAE
SHAPES = {'BasicAE': [(784, 64), (64,), (64, 784), (784,)],
          'EasyDAE': [(784, 32), (32,), (32, 784), (784,)],
          'ConvDAE': [shape for before, after in itertools.pairwise(CHANNELS)
                      for shape in ((3, 3, before, after), (after,))]}


def first_weights(name, seed):
    """Return weights to begin with, kernel and bias of each layer in turn, float32.

    Kernels are uniform within the limits of Glorot and Bengio 2010, which tf.layers takes by default; biases are 0.
    """
    generator = np.random.default_rng(seed)
    weights = []
    for shape in SHAPES[name]:
        window = np.prod(shape[:-2], dtype=int)
        limit = np.sqrt(6 / (window * (shape[-2] + shape[-1]))) if len(shape) > 1 else 0
        weights.append(generator.uniform(-limit, limit, shape).astype('float32'))
    return weights


def dense_logits(images, variables):
    """Return the logits of the dense networks, from images of shape (count, 784)."""
    weights1, bias1, weights2, bias2 = variables
    hidden = tf.nn.relu(tf.nn.bias_add(tf.matmul(images, weights1), bias1))
    return tf.nn.bias_add(tf.matmul(hidden, weights2), bias2)


def convolutional_logits(images, variables):
    """Return the logits of the convolutional network, from images of shape (count, 28, 28, 1)."""
    kernels, biases = variables[::2], variables[1::2]

    def convolve(tensor, number):
        return tf.nn.bias_add(tf.nn.conv2d(tensor, kernels[number], 1, 'SAME'), biases[number])

    tensor = images
    for number in range(3):
        tensor = tf.nn.max_pool2d(tf.nn.relu(convolve(tensor, number)), 2, 2, 'SAME')
    for number, size in ((3, 7), (4, 14), (5, 28)):
        tensor = v1.image.resize_nearest_neighbor(tensor, (size, size))
        tensor = tf.nn.relu(convolve(tensor, number))
    return convolve(tensor, 6)


class Original:
    """A network of the article, ready to be trained in a session of its own.

    The loss is the mean, as in the notebooks; the article's dense networks took the sum.
    """

    def __init__(self, weights, learning_rate):
        """Build the graph. weights: kernel and bias of each layer in turn, all float32 or all float64."""
        dtype = weights[0].dtype
        convolutional = weights[0].ndim == 4
        with tf.Graph().as_default():
            shape = (None, 28, 28, 1) if convolutional else (None, 784)
            self.inputs, self.targets = v1.placeholder(dtype, shape), v1.placeholder(dtype, shape)
            self.variables = [v1.Variable(array) for array in weights]
            logits = (convolutional_logits if convolutional else dense_logits)(self.inputs, self.variables)
            self.cost = tf.reduce_mean(
                tf.nn.sigmoid_cross_entropy_with_logits(labels=self.targets, logits=logits))
            # The defaults of this optimizer, written out: as plain numbers they would be rounded to float32.
            constants = [tf.constant(value, dtype) for value in (learning_rate, 0.9, 0.999, 1e-8)]
            self.minimize = v1.train.AdamOptimizer(*constants).minimize(self.cost)
            self.session = v1.Session()
            self.session.run(v1.global_variables_initializer())

    def step(self, inputs, targets):
        """Train on one batch and return its loss."""
        feed = {self.inputs: inputs, self.targets: targets}
        return self.session.run([self.cost, self.minimize], feed_dict=feed)[0]

    def weights(self):
        """Return the weights as they are now."""
        return self.session.run(self.variables)
