"""Plain convolutional networks by spec: ``cnn:32,64/128``."""

from __future__ import annotations

from hlserve.errors import ConfigError
from hlserve.nn.layer import Layer, Shape
from hlserve.nn.layers import Conv2d, Flatten, Linear, MaxPool2d, ReLU


def convolutional(spec: str, input_shape: Shape, n_outputs: int) -> list[Layer]:
    """Stages of a 3x3 convolution, ReLU and a pooling that halves, then dense layers.

    ``cnn:32,64/128`` has two stages of 32 and 64 channels and one dense layer of 128 units;
    ``cnn:32,64`` has none but the closing one. The image keeps its size in a convolution.

    Raises:
        ConfigError: the spec is malformed, or the rows are no images of sufficient size.
    """
    stages, _, dense = spec.removeprefix("cnn:").partition("/")
    channels, widths = _sizes(spec, stages), _sizes(spec, dense) if dense else []
    smallest = 2 ** len(channels)
    if len(input_shape) != 3 or min(input_shape[1:]) < smallest:
        raise ConfigError(
            f"architecture {spec!r} expects images (channels, height, width) of at least "
            f"{smallest}x{smallest}, the rows have shape {input_shape}"
        )
    read, height, width = input_shape
    layers: list[Layer] = []
    for count in channels:
        layers += [Conv2d(read, count, 3, padding=1), ReLU(), MaxPool2d(2)]
        read, height, width = count, height // 2, width // 2
    layers.append(Flatten())
    read *= height * width
    for size in widths:
        layers += [Linear(read, size), ReLU()]
        read = size
    return [*layers, Linear(read, n_outputs)]


def _sizes(spec: str, text: str) -> list[int]:
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdecimal() and int(word) > 0 for word in words):
        raise ConfigError(
            f"architecture {spec!r}: expected channels, then / and dense sizes, as in cnn:32,64/128"
        )
    return [int(word) for word in words]
