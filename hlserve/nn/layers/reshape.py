"""Layers that only say the shape of a row anew."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import final

import numpy as np

from hlserve.errors import ConfigError
from hlserve.nn.channels import ChannelFlow, ChannelIds, Channels
from hlserve.nn.graph_builder import GraphBuilder
from hlserve.nn.layer import Backward, Layer, Shape, only_shape
from hlserve.nn.param import Array
from hlserve.nn.workspace import Workspace


@final
@dataclass(eq=False)
class Flatten(Layer):
    """Rows as plain vectors, the last axis fastest.

    Shapes: x (batch, ...) -> y (batch, features). ONNX: Flatten with axis=1.
    """

    def forward(
        self, *inputs: Array, training: bool, workspace: Workspace
    ) -> tuple[Array, Backward]:
        """See Layer."""
        (x,) = inputs
        return _reshaped(x, (prod(x.shape[:-1]),), workspace)

    def emit(self, g: GraphBuilder, *inputs: str) -> str:
        """See Layer."""
        return g.node("Flatten", inputs, axis=1)

    def output_shape(self, *shapes: Shape) -> Shape:
        """See Layer."""
        return (prod(only_shape("Flatten", shapes)),)

    def channel_flow(
        self, flow: ChannelFlow, inputs: Sequence[Channels], shapes: Sequence[Shape]
    ) -> Channels:
        """Every feature belongs to the channel that it comes from."""
        return Channels(_ids_of_elements(inputs[0], shapes[0]).reshape(-1))


@final
@dataclass(eq=False)
class Reshape(Layer):
    """Rows of another shape with the same numbers in the same order.

    Shapes: x (batch, ...) -> y (batch, *shape). One size may be -1: it follows from the others.
    Channels stay removable through a reshape only where their axis is -1 and each keeps its
    numbers together. ONNX: Reshape, the batch kept by a 0.
    """

    shape: Sequence[int]

    def __post_init__(self) -> None:
        self.shape = tuple(self.shape)
        free = [n for n in self.shape if n == -1]
        if len(free) > 1 or any(n < 1 and n != -1 for n in self.shape) or not self.shape:
            raise ConfigError(
                f"shape (={self.shape}) must hold sizes of at least 1, and -1 at most once"
            )

    def forward(
        self, *inputs: Array, training: bool, workspace: Workspace
    ) -> tuple[Array, Backward]:
        """See Layer."""
        (x,) = inputs
        return _reshaped(x, self.output_shape(x.shape[:-1]), workspace)

    def emit(self, g: GraphBuilder, *inputs: str) -> str:
        """See Layer."""
        target = g.constant(np.array([0, *self.shape], np.int64), "shape")
        return g.node("Reshape", [*inputs, target])

    def output_shape(self, *shapes: Shape) -> Shape:
        """See Layer."""
        size = prod(only_shape("Reshape", shapes))
        known = prod(n for n in self.shape if n != -1)
        fits = size % known == 0 if -1 in self.shape else size == known
        if not fits:
            raise ConfigError(
                f"rows of shape {shapes[0]} hold {size} numbers, which do not make {self.shape}"
            )
        return tuple(size // known if n == -1 else n for n in self.shape)

    def channel_flow(
        self, flow: ChannelFlow, inputs: Sequence[Channels], shapes: Sequence[Shape]
    ) -> Channels:
        """The same units where each becomes whole channels of a free size, else new, kept ones."""
        usual = 1 if len(self.shape) == 2 else 0
        axis = self.shape.index(-1) if -1 in self.shape else usual
        shape = self.output_shape(*shapes)
        by_channel = np.moveaxis(_ids_of_elements(inputs[0], shapes[0]).reshape(shape), axis, 0)
        by_channel = by_channel.reshape(shape[axis], -1)
        if -1 in self.shape and (by_channel == by_channel[:, :1]).all():
            return Channels(by_channel[:, 0], axis)
        units = flow.new(shape[usual])
        flow.protect(inputs[0].ids)
        flow.protect(units)
        return Channels(units, usual)


def _reshaped(x: Array, shape: Shape, workspace: Workspace) -> tuple[Array, Backward]:
    """The rows in another shape, and the way back."""
    batch = x.shape[-1]
    y = _viewable(x, "y", workspace).reshape(*shape, batch)

    def backward(dy: Array, *, need_dx: bool = True) -> tuple[Array, ...]:
        return (_viewable(dy, "dx", workspace).reshape(x.shape),)

    return y, backward


def _viewable(x: Array, key: str, workspace: Workspace) -> Array:
    """The same array, copied where its memory order would make a reshape allocate."""
    if x.flags.c_contiguous or np.moveaxis(x, -1, 0).flags.c_contiguous:
        return x
    copied = workspace.empty(key, x.shape)
    np.copyto(copied, x)
    return copied


def _ids_of_elements(channels: Channels, shape: Shape) -> ChannelIds:
    """The unit of every number of one row, in the row's shape."""
    along = [-1 if axis == channels.axis else 1 for axis in range(len(shape))]
    return np.broadcast_to(channels.ids.reshape(along), shape)
