"""Softmax over features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np

from hlserve.errors import ConfigError
from hlserve.nn.channels import ChannelFlow, Channels
from hlserve.nn.graph_builder import GraphBuilder
from hlserve.nn.layer import Backward, Layer, Shape
from hlserve.nn.param import Array
from hlserve.nn.workspace import Workspace


@final
@dataclass(eq=False)
class Softmax(Layer):
    """y_i = exp(x_i) / sum_j exp(x_j) over the features of every row.

    Shapes: x (batch, features) -> y (batch, features). ONNX: Softmax with axis=1.
    """

    def forward(
        self, *inputs: Array, training: bool, workspace: Workspace
    ) -> tuple[Array, Backward]:
        """See Layer."""
        (x,) = inputs
        y = workspace.empty("y", x.shape)
        per_row = workspace.scratch("per_row", x.shape[1:])
        np.maximum.reduce(x, axis=0, out=per_row)
        np.subtract(x, per_row, out=y)  # the largest exponent is 0: no overflow
        np.exp(y, out=y)
        np.divide(y, np.add.reduce(y, axis=0, out=per_row), out=y)

        def backward(dy: Array, *, need_dx: bool = True) -> tuple[Array, ...]:
            dx = np.multiply(dy, y, out=workspace.empty("dx", y.shape))
            total = np.add.reduce(dx, axis=0, out=workspace.scratch("per_row", y.shape[1:]))
            np.multiply(y, total, out=dy)
            return (np.subtract(dx, dy, out=dx),)

        return y, backward

    def emit(self, g: GraphBuilder, *inputs: str) -> str:
        """See Layer."""
        return g.node("Softmax", inputs, axis=1)

    def output_shape(self, *shapes: Shape) -> Shape:
        """See Layer."""
        if len(shapes) != 1 or len(shapes[0]) != 1:
            raise ConfigError(
                f"Softmax expects rows of shape (features,), got {', '.join(map(str, shapes))}; "
                "put a Flatten before it"
            )
        return shapes[0]

    def channel_flow(
        self, flow: ChannelFlow, inputs: Sequence[Channels], shapes: Sequence[Shape]
    ) -> Channels:
        """Every output depends on every input, so no unit may go."""
        flow.protect(inputs[0].ids)
        return inputs[0]
