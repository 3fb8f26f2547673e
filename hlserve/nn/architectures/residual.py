"""``resnet:8``: residual networks for small images (He et al. 2016, arXiv:1512.03385, 4.2).

Depth 6 n + 2: a stem, three stages of n blocks with 16, 32 and 64 filters, each stage but the
first at half the size, then the mean over all places and one dense layer. As in the paper every
convolution is followed by batch normalization and has no bias, and a shortcut that changes size
is a 1x1 convolution (the paper's option B). Unlike there the stem has stride 2, which leaves a
quarter of the work.
"""

from __future__ import annotations

from hlserve.errors import ConfigError
from hlserve.nn.architectures.family import Draft, Family, Spec, image_shape
from hlserve.nn.layer import Layer, Shape
from hlserve.nn.layers import Add, BatchNorm, Conv2d, GlobalAvgPool, Linear, ReLU

_WIDTHS = (16, 32, 64)


def _row_shape(spec: Spec) -> Shape:
    _blocks_a_stage(spec)
    return image_shape(spec, smallest=8)


def _hidden(spec: Spec, draft: Draft, value: str) -> str:
    channels = _WIDTHS[0]
    stem = [*_convolution(spec.input_shape[0], channels, 3, stride=2), ReLU()]
    value = draft.chain(stem, value)
    for width in _WIDTHS:
        for block in range(_blocks_a_stage(spec)):
            stride = 2 if block == 0 and width != _WIDTHS[0] else 1
            value = _block(draft, value, channels, width, stride)
            channels = width
    return draft.chain([GlobalAvgPool(), Linear(channels, spec.n_outputs)], value)


def _block(draft: Draft, value: str, channels: int, width: int, stride: int) -> str:
    body = [
        *_convolution(channels, width, 3, stride=stride),
        ReLU(),
        *_convolution(width, width, 3),
    ]
    shortcut = value
    if stride > 1 or channels != width:
        shortcut = draft.chain(_convolution(channels, width, 1, stride=stride), value)
    return draft.chain([ReLU()], draft.add(Add(), draft.chain(body, value), shortcut))


def _convolution(channels: int, width: int, kernel: int, *, stride: int = 1) -> list[Layer]:
    padding = kernel // 2
    convolution = Conv2d(channels, width, kernel, stride, padding, has_bias=False)
    return [convolution, BatchNorm(width)]


def _blocks_a_stage(spec: Spec) -> int:
    text = spec.arguments
    depth = int(text) if text.isdecimal() else 0
    if depth < 8 or (depth - 2) % 6:
        raise ConfigError(
            f"architecture {spec.text!r}: expected a depth of 6 n + 2, as in resnet:8, resnet:14 "
            "or resnet:20"
        )
    return (depth - 2) // 6


RESNET = Family("resnet", "resnet:8 (or 14, 20, ...: 6 n + 2)", _row_shape, _hidden)
