"""Average pooling over height and width, and over everything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod
from typing import final

import numpy as np

from hlserve.errors import ConfigError
from hlserve.nn.channels import ChannelFlow, Channels
from hlserve.nn.graph_builder import GraphBuilder
from hlserve.nn.layer import Backward, Layer, Shape
from hlserve.nn.layers.average_pooling import average_pool
from hlserve.nn.layers.contiguous import c_contiguous
from hlserve.nn.layers.window import IntOrPair, Pads, Window
from hlserve.nn.param import Array
from hlserve.nn.workspace import Workspace


@final
@dataclass(eq=False)
class AvgPool2d(Layer):
    """The mean of every window, zeros of the padding counted where ``counts_padding``.

    Shapes: x (batch, channels, height, width) -> y (batch, channels, out_height, out_width) with
    out = floor((size + 2 padding - kernel) / stride) + 1. ``kernel_size``, ``stride`` and
    ``padding`` are an int or (height, width); ``stride=None`` is the kernel size. ONNX:
    AveragePool, ceil_mode 0; to count the padding is PyTorch's default, not ONNX's.
    """

    kernel_size: IntOrPair = 2
    stride: IntOrPair | None = None
    padding: Pads = 0
    counts_padding: bool = True
    window: Window = field(init=False, repr=False)

    def __post_init__(self) -> None:
        stride = self.kernel_size if self.stride is None else self.stride
        self.window = Window.of(self.kernel_size, stride, self.padding)
        self.window.check_pooling_padding()

    def forward(
        self, *inputs: Array, training: bool, workspace: Workspace
    ) -> tuple[Array, Backward]:
        """See Layer."""
        return average_pool(inputs[0], self.window, workspace, counts_padding=self.counts_padding)

    def emit(self, g: GraphBuilder, *inputs: str) -> str:
        """See Layer."""
        window = self.window
        return g.node(
            "AveragePool",
            inputs,
            kernel_shape=window.kernel,
            strides=window.stride,
            pads=window.pads,
            count_include_pad=int(self.counts_padding),
        )

    def output_shape(self, *shapes: Shape) -> Shape:
        """See Layer."""
        if len(shapes) != 1 or len(shapes[0]) != 3:
            raise ConfigError(
                f"AvgPool2d expects rows of shape (channels, height, width), got "
                f"{', '.join(map(str, shapes))}"
            )
        channels, height, width = shapes[0]
        return (channels, *self.window.output_size(height, width))


@final
@dataclass(eq=False)
class GlobalAvgPool(Layer):
    """The mean of every channel over all its places.

    Shapes: x (batch, channels, length) or (batch, channels, height, width) -> y (batch,
    channels). ONNX: GlobalAveragePool, then Reshape.
    """

    def forward(
        self, *inputs: Array, training: bool, workspace: Workspace
    ) -> tuple[Array, Backward]:
        """See Layer."""
        x = c_contiguous(inputs[0], "x", workspace)
        channels, batch, places = len(x), x.shape[-1], prod(x.shape[1:-1])
        y = workspace.empty("y", (channels, batch))
        np.add.reduce(x.reshape(channels, places, batch), axis=1, out=y)
        np.multiply(y, 1.0 / places, out=y)

        def backward(dy: Array, *, need_dx: bool = True) -> tuple[Array, ...]:
            if not need_dx:
                return ()
            np.multiply(dy, 1.0 / places, out=dy)
            dx = workspace.empty("dx", (channels, places, batch))
            np.copyto(dx, dy[:, None])
            return (dx.reshape(x.shape),)

        return y, backward

    def emit(self, g: GraphBuilder, *inputs: str) -> str:
        """See Layer."""
        # Integers pass through a Reshape in ONNX Runtime, which they do not through a Flatten.
        rows = g.constant(np.array([0, -1], np.int64), "rows")
        return g.node("Reshape", [g.node("GlobalAveragePool", inputs), rows])

    def output_shape(self, *shapes: Shape) -> Shape:
        """See Layer."""
        if len(shapes) != 1 or len(shapes[0]) not in (2, 3):
            raise ConfigError(
                "GlobalAvgPool expects rows of shape (channels, length) or (channels, height, "
                f"width), got {', '.join(map(str, shapes))}"
            )
        return shapes[0][:1]

    def channel_flow(
        self, flow: ChannelFlow, inputs: Sequence[Channels], shapes: Sequence[Shape]
    ) -> Channels:
        """One number a channel: the units of the channels."""
        return Channels(flow.along(inputs[0], 0, shapes[0][0]))
