"""A part of every row along one axis."""

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
class Slice(Layer):
    """Every ``step``-th index of an axis from ``start`` on, below ``stop``.

    Shapes: x (batch, ...) -> y of the same but for the size along ``axis``, which counts the
    axes of a row. A view. Several of them split a row. ONNX: Slice.
    """

    start: int
    stop: int
    axis: int = 0
    step: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.stop or self.step < 1 or self.axis < 0:
            raise ConfigError(
                f"start (={self.start}) must lie from 0 to below stop (={self.stop}), step "
                f"(={self.step}) be at least 1 and axis (={self.axis}) not below 0"
            )

    def forward(
        self, *inputs: Array, training: bool, workspace: Workspace
    ) -> tuple[Array, Backward]:
        """See Layer."""
        (x,) = inputs
        part = (slice(None),) * self.axis + (slice(self.start, self.stop, self.step),)

        def backward(dy: Array, *, need_dx: bool = True) -> tuple[Array, ...]:
            dx = workspace.empty("dx", x.shape)
            dx.fill(0)
            np.copyto(dx[part], dy)
            return (dx,)

        return x[part], backward

    def emit(self, g: GraphBuilder, *inputs: str) -> str:
        """See Layer."""
        numbers = {"start": self.start, "stop": self.stop, "axis": self.axis + 1, "step": self.step}
        operands = [g.constant(np.array([n], np.int64), name) for name, n in numbers.items()]
        return g.node("Slice", [*inputs, *operands])

    def output_shape(self, *shapes: Shape) -> Shape:
        """See Layer."""
        shape = only_shape("Slice", shapes)
        if len(shape) <= self.axis or shape[self.axis] < self.stop:
            raise ConfigError(
                f"Slice expects rows with at least {self.stop} on axis {self.axis}, got {shape}"
            )
        n = len(range(self.start, self.stop, self.step))
        return (*shape[: self.axis], n, *shape[self.axis + 1 :])

    def channel_flow(
        self, flow: ChannelFlow, inputs: Sequence[Channels], shapes: Sequence[Shape]
    ) -> Channels:
        """Along the channels none may go, since the others would move."""
        (channels,) = inputs
        if channels.axis != self.axis:
            return channels
        flow.protect(channels.ids)
        return Channels(channels.ids[self.start : self.stop : self.step], channels.axis)
