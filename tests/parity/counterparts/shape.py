"""Layers that re-index rows."""

from __future__ import annotations

from typing import Any

from torch import nn

from hlserve.nn.layers import Flatten, Pad, Reshape, Slice, Transpose


class _Slice(nn.Module):
    def __init__(self, layer: Slice) -> None:
        super().__init__()
        self.part = slice(layer.start, layer.stop, layer.step)
        self.axis = layer.axis + 1

    def forward(self, x: Any) -> Any:
        return x[(slice(None),) * self.axis + (self.part,)]


class _Transpose(nn.Module):
    def __init__(self, axes: tuple[int, ...]) -> None:
        super().__init__()
        self.axes = axes

    def forward(self, x: Any) -> Any:
        return x.permute(0, *(axis + 1 for axis in self.axes))


def _pad(layer: Any, shapes: Any) -> Any:
    if len(shapes[0]) == 2:  # (channels, length)
        return nn.ConstantPad1d(tuple(layer.padding), layer.value)
    above, left, below, right = layer.padding
    return nn.ConstantPad2d((left, right, above, below), layer.value)


class _Reshape(nn.Module):
    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, x: Any) -> Any:
        return x.reshape(len(x), *self.shape)


COUNTERPARTS: dict[type, Any] = {
    Flatten: lambda layer, shapes: nn.Flatten(),
    Pad: _pad,
    Reshape: lambda layer, shapes: _Reshape(layer.output_shape(*shapes)),
    Slice: lambda layer, shapes: _Slice(layer),
    Transpose: lambda layer, shapes: _Transpose(layer.axes),
}
