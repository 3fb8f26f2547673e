"""Sum of several activations, as residual connections take it."""

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
class Add(Layer):
    """y = x1 + x2 + ... for two inputs or more of one shape, which is kept. ONNX: Add, chained."""

    def forward(
        self, *inputs: Array, training: bool, workspace: Workspace
    ) -> tuple[Array, Backward]:
        """See Layer."""
        y = np.add(inputs[0], inputs[1], out=workspace.empty("y", inputs[0].shape))
        for x in inputs[2:]:
            y += x

        def backward(dy: Array, *, need_dx: bool = True) -> tuple[Array, ...]:
            copies = [workspace.empty(f"dx{i}", dy.shape) for i in range(1, len(inputs))]
            for dx in copies:
                np.copyto(dx, dy)
            return (dy, *copies)

        return y, backward

    def emit(self, g: GraphBuilder, *inputs: str) -> str:
        """See Layer."""
        y, *rest = inputs
        for x in rest:
            y = g.node("Add", [y, x])
        return y

    def output_shape(self, *shapes: Shape) -> Shape:
        """See Layer."""
        if len(shapes) < 2 or len(set(shapes)) != 1:
            raise ConfigError(
                f"Add takes two inputs or more of one shape, got {', '.join(map(str, shapes))}"
            )
        return shapes[0]

    def channel_flow(
        self, flow: ChannelFlow, inputs: Sequence[Channels], shapes: Sequence[Shape]
    ) -> Channels:
        """Units that are added go together or not at all."""
        first, *others = inputs
        for other in others:
            if other.axis == first.axis:
                flow.couple(first.ids, other.ids)
            else:
                flow.protect(first.ids)
                flow.protect(other.ids)
        return first
