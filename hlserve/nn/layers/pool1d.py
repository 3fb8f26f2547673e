"""Pooling over one axis, such as time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import final

from hlserve.errors import ConfigError
from hlserve.nn.channels import ChannelFlow, Channels
from hlserve.nn.graph_builder import GraphBuilder
from hlserve.nn.layer import Backward, Layer, Shape
from hlserve.nn.layers.average_pooling import average_pool
from hlserve.nn.layers.max_pooling import max_pool
from hlserve.nn.layers.window import Pads, Window
from hlserve.nn.param import Array
from hlserve.nn.workspace import Workspace


@final
@dataclass(eq=False)
class MaxPool1d(Layer):
    """The largest value of every window; as MaxPool2d over images of height 1.

    Shapes: x (batch, channels, length) -> y (batch, channels, out_length) with out =
    floor((length + 2 padding - kernel) / stride) + 1; ``stride=None`` is the kernel size.
    ONNX: MaxPool, ceil_mode 0.
    """

    kernel_size: int = 2
    stride: int | None = None
    padding: Pads = 0
    window: Window = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.window = _window(self.kernel_size, self.stride, self.padding)

    def forward(
        self, *inputs: Array, training: bool, workspace: Workspace
    ) -> tuple[Array, Backward]:
        """See Layer."""
        return _without_height(*max_pool(inputs[0][:, None], self.window, workspace))

    def emit(self, g: GraphBuilder, *inputs: str) -> str:
        """See Layer."""
        return g.node(
            "MaxPool",
            inputs,
            kernel_shape=[self.window.kernel[1]],
            strides=[self.window.stride[1]],
            pads=self.window.pads[1::2],
        )

    def output_shape(self, *shapes: Shape) -> Shape:
        """See Layer."""
        return _output_shape("MaxPool1d", self.window, shapes)

    def channel_flow(
        self, flow: ChannelFlow, inputs: Sequence[Channels], shapes: Sequence[Shape]
    ) -> Channels:
        """The units of the channels."""
        return Channels(flow.along(inputs[0], 0, shapes[0][0]))


@final
@dataclass(eq=False)
class AvgPool1d(Layer):
    """The mean of every window, as AvgPool2d over images of height 1.

    Shapes: x (batch, channels, length) -> y (batch, channels, out_length) with out =
    floor((length + 2 padding - kernel) / stride) + 1; ``stride=None`` is the kernel size.
    ONNX: AveragePool, ceil_mode 0.
    """

    kernel_size: int = 2
    stride: int | None = None
    padding: Pads = 0
    counts_padding: bool = True
    window: Window = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.window = _window(self.kernel_size, self.stride, self.padding)

    def forward(
        self, *inputs: Array, training: bool, workspace: Workspace
    ) -> tuple[Array, Backward]:
        """See Layer."""
        image = inputs[0][:, None]
        return _without_height(
            *average_pool(image, self.window, workspace, counts_padding=self.counts_padding)
        )

    def emit(self, g: GraphBuilder, *inputs: str) -> str:
        """See Layer."""
        return g.node(
            "AveragePool",
            inputs,
            kernel_shape=[self.window.kernel[1]],
            strides=[self.window.stride[1]],
            pads=self.window.pads[1::2],
            count_include_pad=int(self.counts_padding),
        )

    def output_shape(self, *shapes: Shape) -> Shape:
        """See Layer."""
        return _output_shape("AvgPool1d", self.window, shapes)

    def channel_flow(
        self, flow: ChannelFlow, inputs: Sequence[Channels], shapes: Sequence[Shape]
    ) -> Channels:
        """The units of the channels."""
        return Channels(flow.along(inputs[0], 0, shapes[0][0]))


def _window(kernel_size: int, stride: int | None, padding: Pads) -> Window:
    window = Window.along_width(kernel_size, kernel_size if stride is None else stride, padding)
    window.check_pooling_padding()
    return window


def _without_height(y: Array, backward: Backward) -> tuple[Array, Backward]:
    def of_length(dy: Array, *, need_dx: bool = True) -> tuple[Array, ...]:
        return tuple(dx[:, 0] for dx in backward(dy[:, None], need_dx=need_dx))

    return y[:, 0], of_length


def _output_shape(kind: str, window: Window, shapes: Sequence[Shape]) -> Shape:
    if len(shapes) != 1 or len(shapes[0]) != 2:
        raise ConfigError(
            f"{kind} expects rows of shape (channels, length), got {', '.join(map(str, shapes))}"
        )
    channels, length = shapes[0]
    return channels, window.output_size(1, length)[1]
