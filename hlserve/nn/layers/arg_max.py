"""Which feature is the largest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np

from hlserve.errors import ConfigError
from hlserve.nn.channels import ChannelFlow, Channels
from hlserve.nn.graph_builder import GraphBuilder
from hlserve.nn.layer import Backward, Layer, Shape
from hlserve.nn.param import Array
from hlserve.nn.workspace import Workspace


@final
@dataclass(eq=False)
class ArgMax(Layer):
    """The index of the largest feature, of equal ones the first: a class's label.

    Shapes: x (batch, features) -> y (batch,), int64. Its gradient is zero. ONNX: ArgMax.
    """

    output_dtype: ClassVar[str] = "int64"

    def forward(
        self, *inputs: Array, training: bool, workspace: Workspace
    ) -> tuple[Array, Backward]:
        """See Layer."""
        (x,) = inputs
        y = workspace.empty("y", x.shape[1:], np.int64)
        np.argmax(x, axis=0, out=y)

        def backward(dy: Array, *, need_dx: bool = True) -> tuple[Array, ...]:
            if not need_dx:
                return ()
            dx = workspace.empty("dx", x.shape)
            dx.fill(0)
            return (dx,)

        return y, backward

    def emit(self, g: GraphBuilder, *inputs: str) -> str:
        """See Layer."""
        return g.node("ArgMax", inputs, axis=1, keepdims=0)

    def output_shape(self, *shapes: Shape) -> Shape:
        """See Layer."""
        if len(shapes) != 1 or len(shapes[0]) != 1:
            raise ConfigError(
                f"ArgMax expects rows of shape (features,), got {', '.join(map(str, shapes))}; "
                "put a Flatten before it"
            )
        return ()

    def channel_flow(
        self, flow: ChannelFlow, inputs: Sequence[Channels], shapes: Sequence[Shape]
    ) -> Channels:
        """No feature may go: the index of the others would change."""
        flow.protect(inputs[0].ids)
        return Channels(flow.new(1))
