"""Logarithm of softmax over features."""

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
class LogSoftmax(Layer):
    """y_i = x_i - log sum_j exp(x_j) over the features of every row.

    Shapes: x (batch, features) -> y (batch, features). ONNX: LogSoftmax with axis=1.
    """

    def forward(
        self, *inputs: Array, training: bool, workspace: Workspace
    ) -> tuple[Array, Backward]:
        """See Layer."""
        (x,) = inputs
        y = workspace.empty("y", x.shape)
        share = workspace.empty("share", x.shape)  # softmax, which the way back needs
        per_row = workspace.scratch("per_row", x.shape[1:])
        np.maximum.reduce(x, axis=0, out=per_row)
        np.subtract(x, per_row, out=y)  # the largest exponent is 0: no overflow
        np.exp(y, out=share)
        total = np.add.reduce(share, axis=0, out=per_row)
        np.divide(share, total, out=share)
        np.subtract(y, np.log(total, out=total), out=y)

        def backward(dy: Array, *, need_dx: bool = True) -> tuple[Array, ...]:
            total = np.add.reduce(dy, axis=0, out=workspace.scratch("per_row", dy.shape[1:]))
            np.multiply(share, total, out=share)
            return (np.subtract(dy, share, out=dy),)

        return y, backward

    def emit(self, g: GraphBuilder, *inputs: str) -> str:
        """See Layer."""
        return g.node("LogSoftmax", inputs, axis=1)

    def output_shape(self, *shapes: Shape) -> Shape:
        """See Layer."""
        if len(shapes) != 1 or len(shapes[0]) != 1:
            raise ConfigError(
                f"LogSoftmax expects rows of shape (features,), got "
                f"{', '.join(map(str, shapes))}; put a Flatten before it"
            )
        return shapes[0]

    def channel_flow(
        self, flow: ChannelFlow, inputs: Sequence[Channels], shapes: Sequence[Shape]
    ) -> Channels:
        """Every output depends on every input, so no unit may go."""
        flow.protect(inputs[0].ids)
        return inputs[0]
