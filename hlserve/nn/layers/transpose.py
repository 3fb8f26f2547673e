"""Transpose: the two axes of a row, the other way round."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from hlserve.errors import ConfigError
from hlserve.nn.channels import ChannelFlow, Channels
from hlserve.nn.graph_builder import GraphBuilder
from hlserve.nn.layer import Backward, Layer, Shape
from hlserve.nn.param import Array
from hlserve.nn.workspace import Workspace


@final
@dataclass(eq=False)
class Transpose(Layer):
    """Sequences (time, features) as convolutions take them, (channels, length), and back.

    Shapes: x (batch, a, b) -> y (batch, b, a), a view. ONNX: Transpose.
    """

    def forward(
        self, *inputs: Array, training: bool, workspace: Workspace
    ) -> tuple[Array, Backward]:
        """See Layer."""
        (x,) = inputs

        def backward(dy: Array, *, need_dx: bool = True) -> tuple[Array, ...]:
            return (dy.swapaxes(0, 1),)

        return x.swapaxes(0, 1), backward

    def emit(self, g: GraphBuilder, *inputs: str) -> str:
        """See Layer."""
        return g.node("Transpose", inputs, perm=(0, 2, 1))

    def output_shape(self, *shapes: Shape) -> Shape:
        """See Layer."""
        if len(shapes) != 1 or len(shapes[0]) != 2:
            raise ConfigError(
                f"Transpose expects rows of two axes, got {', '.join(map(str, shapes))}"
            )
        return shapes[0][::-1]

    def channel_flow(
        self, flow: ChannelFlow, inputs: Sequence[Channels], shapes: Sequence[Shape]
    ) -> Channels:
        """The same units on the other axis."""
        return Channels(inputs[0].ids, 1 - inputs[0].axis)
