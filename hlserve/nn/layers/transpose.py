"""Transpose: the axes of a row in another order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np

from hlserve.errors import ConfigError
from hlserve.nn.channels import ChannelFlow, Channels
from hlserve.nn.graph_builder import GraphBuilder
from hlserve.nn.layer import Backward, Layer, Shape, only_shape
from hlserve.nn.param import Array
from hlserve.nn.workspace import Workspace


@final
@dataclass(eq=False)
class Transpose(Layer):
    """Sequences (time, features) as convolutions take them, (channels, length), and back.

    ``axes`` says for every axis of a row of y which axis of x it is; by default two are
    exchanged. (1, 2, 0) makes (height, width, channels) of images. Shapes: x (batch, a, b) -> y
    (batch, b, a), a view. ONNX: Transpose.
    """

    axes: Sequence[int] = (1, 0)

    def __post_init__(self) -> None:
        self.axes = tuple(self.axes)
        if sorted(self.axes) != list(range(len(self.axes))) or not self.axes:
            raise ConfigError(
                f"axes (={self.axes}) must name every axis of a row once, counted from 0"
            )

    def forward(
        self, *inputs: Array, training: bool, workspace: Workspace
    ) -> tuple[Array, Backward]:
        """See Layer."""
        (x,) = inputs
        back = np.argsort(self.axes).tolist()

        def backward(dy: Array, *, need_dx: bool = True) -> tuple[Array, ...]:
            return (dy.transpose(*back, len(back)),)

        return x.transpose(*self.axes, len(self.axes)), backward

    def emit(self, g: GraphBuilder, *inputs: str) -> str:
        """See Layer."""
        return g.node("Transpose", inputs, perm=(0, *(axis + 1 for axis in self.axes)))

    def output_shape(self, *shapes: Shape) -> Shape:
        """See Layer."""
        shape, n = only_shape("Transpose", shapes), len(self.axes)
        if len(shape) != n:
            axes = "two axes" if n == 2 else f"{n} axes"  # the default
            raise ConfigError(f"Transpose expects rows of {axes}, got {shape}")
        return tuple(shape[axis] for axis in self.axes)

    def channel_flow(
        self, flow: ChannelFlow, inputs: Sequence[Channels], shapes: Sequence[Shape]
    ) -> Channels:
        """The same units on the axis that they have become."""
        return Channels(inputs[0].ids, self.axes.index(inputs[0].axis))
