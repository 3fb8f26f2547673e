"""Padding as a layer of its own."""

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
class Pad(Layer):
    """The same ``value`` around every channel, where a convolution does not pad itself.

    ``padding`` is (before, behind) for rows of shape (channels, length), (above, left, below,
    right) for (channels, height, width). ONNX: Pad.
    """

    padding: Sequence[int]
    value: float = 0.0

    def __post_init__(self) -> None:
        self.padding, self.value = tuple(self.padding), float(self.value)
        is_plain = all(isinstance(n, int) and n >= 0 for n in self.padding)
        if len(self.padding) not in (2, 4) or not is_plain or not np.isfinite(self.value):
            raise ConfigError(
                f"padding (={self.padding}) must be two or four ints, none below 0, and value "
                f"(={self.value}) finite"
            )

    def forward(
        self, *inputs: Array, training: bool, workspace: Workspace
    ) -> tuple[Array, Backward]:
        """See Layer."""
        (x,) = inputs
        y = workspace.empty("y", (*self.output_shape(x.shape[:-1]), x.shape[-1]))
        first = self.padding[: len(self.padding) // 2]
        sizes = zip(first, x.shape[1:-1], strict=True)
        inside = (slice(None), *(slice(start, start + n) for start, n in sizes))
        y.fill(self.value)
        np.copyto(y[inside], x)

        def backward(dy: Array, *, need_dx: bool = True) -> tuple[Array, ...]:
            return (dy[inside],)

        return y, backward

    def emit(self, g: GraphBuilder, *inputs: str) -> str:
        """See Layer."""
        half = len(self.padding) // 2
        pads = [0, 0, *self.padding[:half], 0, 0, *self.padding[half:]]
        value = g.constant(np.array(self.value, np.float32), "value")
        return g.node("Pad", [*inputs, g.constant(np.array(pads, np.int64), "pads"), value])

    def output_shape(self, *shapes: Shape) -> Shape:
        """See Layer."""
        shape, half = only_shape("Pad", shapes), len(self.padding) // 2
        if len(shape) != 1 + half:
            raise ConfigError(
                f"Pad with {self.padding} expects rows of {1 + half} axes, got {shape}"
            )
        ends = zip(self.padding[:half], self.padding[half:], shape[1:], strict=True)
        return (shape[0], *(before + n + behind for before, behind, n in ends))

    def channel_flow(
        self, flow: ChannelFlow, inputs: Sequence[Channels], shapes: Sequence[Shape]
    ) -> Channels:
        """The units of the channels."""
        return Channels(flow.along(inputs[0], 0, shapes[0][0]))
