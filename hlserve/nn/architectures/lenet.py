"""``lenet5`` and ``lenet5-caffe``: the convolutional networks that began it.

ReLU stands behind the pooling, where it has a quarter of the numbers to look at: the maximum of
what ReLU leaves is what ReLU leaves of the maximum, and the gradients are the same.
"""

from __future__ import annotations

from hlserve.nn.architectures.family import Draft, Family, Spec, image_shape, no_arguments
from hlserve.nn.layer import Shape
from hlserve.nn.layers import Conv2d, Flatten, Linear, MaxPool2d, ReLU


def _lenet5_rows(spec: Spec) -> Shape:
    no_arguments(spec)
    return image_shape(spec, smallest=12)


def _lenet5(spec: Spec, draft: Draft, value: str) -> str:
    """LeCun et al. 1998; ReLU and max pooling where the paper has tanh and trained averages."""
    channels, height, width = spec.input_shape
    flat = 16 * ((height // 2 - 4) // 2) * ((width // 2 - 4) // 2)
    layers = [
        *(Conv2d(channels, 6, 5, padding=2), MaxPool2d(2), ReLU()),
        *(Conv2d(6, 16, 5), MaxPool2d(2), ReLU()),
        *(Flatten(), Linear(flat, 120), ReLU()),
        *(Linear(120, 84), ReLU(), Linear(84, spec.n_outputs)),
    ]
    return draft.chain(layers, value)


def _caffe_rows(spec: Spec) -> Shape:
    no_arguments(spec)
    return image_shape(spec, smallest=16)


def _caffe(spec: Spec, draft: Draft, value: str) -> str:
    """Caffe's variant for MNIST, with ReLU behind each pooling, where Caffe's has none."""
    channels, height, width = spec.input_shape
    flat = 50 * (((height - 4) // 2 - 4) // 2) * (((width - 4) // 2 - 4) // 2)
    layers = [
        *(Conv2d(channels, 20, 5), MaxPool2d(2), ReLU()),
        *(Conv2d(20, 50, 5), MaxPool2d(2), ReLU()),
        *(Flatten(), Linear(flat, 500), ReLU(), Linear(500, spec.n_outputs)),
    ]
    return draft.chain(layers, value)


LENET5 = Family("lenet5", "lenet5", _lenet5_rows, _lenet5)
LENET5_CAFFE = Family("lenet5-caffe", "lenet5-caffe", _caffe_rows, _caffe)
