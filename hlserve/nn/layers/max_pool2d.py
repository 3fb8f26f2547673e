"""Max pooling over height and width."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import final

from hlserve.errors import ConfigError
from hlserve.nn.graph_builder import GraphBuilder
from hlserve.nn.layer import Backward, Layer, Shape
from hlserve.nn.layers.max_pooling import max_pool
from hlserve.nn.layers.window import IntOrPair, Pads, Window
from hlserve.nn.param import Array
from hlserve.nn.workspace import Workspace


@final
@dataclass(eq=False)
class MaxPool2d(Layer):
    """The largest value of every window.

    Shapes: x (batch, channels, height, width) -> y (batch, channels, out_height, out_width) with
    out = floor((size + 2 padding - kernel) / stride) + 1; rows and columns that fill no window
    are left out. ``kernel_size``, ``stride`` and ``padding`` are an int or (height, width);
    ``stride=None`` is the kernel size; padding never wins. ONNX: MaxPool, ceil_mode 0.

    Of equal values the first in reading order gets the gradient, all of it, as in PyTorch. Exact
    ties are common in flat image areas, and a gradient that each of them got would be counted
    several times.
    """

    kernel_size: IntOrPair = 2
    stride: IntOrPair | None = None
    padding: Pads = 0
    window: Window = field(init=False, repr=False)

    def __post_init__(self) -> None:
        stride = self.kernel_size if self.stride is None else self.stride
        self.window = Window.of(self.kernel_size, stride, self.padding)
        self.window.check_pooling_padding()

    def forward(
        self, *inputs: Array, training: bool, workspace: Workspace
    ) -> tuple[Array, Backward]:
        """See Layer."""
        return max_pool(inputs[0], self.window, workspace)

    def emit(self, g: GraphBuilder, *inputs: str) -> str:
        """See Layer."""
        window = self.window
        return g.node(
            "MaxPool",
            inputs,
            kernel_shape=window.kernel,
            strides=window.stride,
            pads=window.pads,
        )

    def output_shape(self, *shapes: Shape) -> Shape:
        """See Layer."""
        if len(shapes) != 1 or len(shapes[0]) != 3:
            raise ConfigError(
                f"MaxPool2d expects rows of shape (channels, height, width), got "
                f"{', '.join(map(str, shapes))}"
            )
        channels, height, width = shapes[0]
        return (channels, *self.window.output_size(height, width))
