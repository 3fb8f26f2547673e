"""``cnn:32,64/128``: a plain convolutional network of one's own sizes.

Every number ahead of the slash is a stage: a 3x3 convolution with that many filters, batch
normalization, 2x2 max pooling and ReLU (in this order, as in lenet.py). Every number behind it
is a dense layer with a ReLU; without a slash the outputs follow right behind the last stage.
"""

from __future__ import annotations

from hlserve.nn.architectures.family import Draft, Family, Spec, image_shape, sizes
from hlserve.nn.layer import Shape
from hlserve.nn.layers import BatchNorm, Conv2d, Flatten, Linear, MaxPool2d, ReLU

_EXPECTED = (
    "the filters of each stage and, behind a slash, the sizes of the dense layers, as in "
    "cnn:32,64 or cnn:32,64/128"
)


def _row_shape(spec: Spec) -> Shape:
    stages, _ = _sizes(spec)
    return image_shape(spec, smallest=2 ** len(stages))


def _hidden(spec: Spec, draft: Draft, value: str) -> str:
    stages, dense = _sizes(spec)
    channels, height, width = spec.input_shape
    for filters in stages:
        convolution = Conv2d(channels, filters, 3, padding=1, has_bias=False)
        value = draft.chain([convolution, BatchNorm(filters), MaxPool2d(2), ReLU()], value)
        channels, height, width = filters, height // 2, width // 2
    value = draft.add(Flatten(), value)
    n_features = channels * height * width
    for size in dense:
        value = draft.chain([Linear(n_features, size), ReLU()], value)
        n_features = size
    return draft.add(Linear(n_features, spec.n_outputs), value)


def _sizes(spec: Spec) -> tuple[list[int], list[int]]:
    stages, slash, dense = spec.arguments.partition("/")
    behind = sizes(spec, dense, of=_EXPECTED) if slash else []
    return sizes(spec, stages, of=_EXPECTED), behind


CNN = Family("cnn", "cnn:32,64 (filters of each stage), cnn:32,64/128 (dense)", _row_shape, _hidden)
