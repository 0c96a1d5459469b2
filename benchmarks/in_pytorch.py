"""The networks of the notebooks in PyTorch, for compare.py."""
import queue
import threading

import numpy as np
import torch
import torch._inductor.config
from compare import LEARNING_RATE, NOISE_FACTOR, TRAIN, read_pixels
from torch import nn
from torch.nn import functional

# As in the cell `faster` of ConvDAE: which weights of a 3 x 3 filter meet the same pixel after an upsampling by 2.
MEET = torch.tensor([[0., 0., 1.], [0., 1., 1.], [1., 1., 0.], [1., 0., 0.]])


def rewrite(stack):
    """Return what computes the convolutional layers as the notebook does, which is less work, with their weights."""
    def forward(images):
        layers = list(stack)
        while layers:
            layer, following = layers.pop(0), layers[:1]
            if isinstance(layer, nn.Upsample) and layer.size[0] > 7:    # to 7 pixels it does not double
                convolution = layers.pop(0)
                sums = torch.einsum('ay,bx,oiyx->ioab', MEET, MEET, convolution.weight)
                images = functional.conv_transpose2d(images, sums, convolution.bias, stride=2, padding=1)
            elif isinstance(layer, nn.Conv2d) and not following:    # to one channel: products, then their sums
                products = (images.permute(0, 2, 3, 1) @ layer.weight[0].flatten(1)).permute(0, 3, 1, 2)
                images = functional.conv2d(products, torch.eye(9).reshape(1, 9, 3, 3), layer.bias, padding=1)
            elif isinstance(layer, nn.ReLU) and following and isinstance(following[0], nn.MaxPool2d):
                images = layer(layers.pop(0)(images))
            else:
                images = layer(images)
        return images

    return forward


def build(name):
    """Return the layers of a notebook's network, convolutions in channels_last."""
    if name != 'ConvDAE':
        units = 64 if name == 'BasicAE' else 32
        return nn.Sequential(nn.Linear(784, units), nn.ReLU(inplace=True), nn.Linear(units, 784))
    stack = []
    for before, after in ((1, 64), (64, 64), (64, 32)):
        stack += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(2, ceil_mode=True)]
    for side, before, after in ((7, 32, 32), (14, 32, 64), (28, 64, 64)):
        stack += [nn.Upsample((side, side)), nn.Conv2d(before, after, 3, padding=1), nn.ReLU(inplace=True)]
    return nn.Sequential(*stack, nn.Conv2d(64, 1, 3, padding=1)).to(memory_format=torch.channels_last)


def train(name, folder, batch_size=128, threads=0, precision='float32', fused=None, compiled=False, rewritten=False,
          ahead=False):
    """Train, an epoch at each next(): images in memory; no loss is read.

    threads: 0, the default. compiled: network and loss, and through them the gradient; compiled noise is slower.
    ahead: a thread makes the next batches and their noise.
    """
    torch.set_num_threads(threads or torch.get_num_threads())
    torch.set_flush_denormal(True)    # as TensorFlow does; denormal numbers are slow
    # Or else the compiled gradient of a convolution is not in channels_last (github.com/pytorch/pytorch/issues/189239).
    torch._inductor.config.force_layout_optimization = name == 'ConvDAE'
    images = torch.from_numpy(read_pixels(f'{folder}/{TRAIN}') / np.float32(255))
    if name == 'ConvDAE':
        images = images.reshape(-1, 1, 28, 28).contiguous(memory_format=torch.channels_last)
    model = build(name)
    network = rewrite(model) if rewritten else model
    optimizer = torch.optim.Adam(model.parameters(), LEARNING_RATE, fused=fused)

    def prepare(indices):
        clean = noisy = images.index_select(0, indices)
        if name != 'BasicAE':
            noisy = (clean + NOISE_FACTOR * torch.randn_like(clean)).clamp(0, 1)
        return noisy, clean

    def prepare_ahead(batches):
        ready = queue.Queue(16)
        threading.Thread(target=lambda: [ready.put(prepare(indices)) for indices in batches]).start()
        return (ready.get() for _ in batches)

    def loss(noisy, clean):
        with torch.autocast('cpu', torch.bfloat16, enabled=precision == 'bfloat16'):
            logits = network(noisy)
        return functional.binary_cross_entropy_with_logits(logits.float(), clean)

    loss = torch.compile(loss) if compiled else loss
    while True:
        batches = torch.randperm(len(images))[:len(images) // batch_size * batch_size].split(batch_size)
        for noisy, clean in prepare_ahead(batches) if ahead else map(prepare, batches):
            optimizer.zero_grad()
            loss(noisy, clean).backward()
            optimizer.step()
        yield
