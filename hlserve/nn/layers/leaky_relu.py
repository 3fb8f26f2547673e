"""Leaky rectified linear units: a fixed slope below zero, or a trained one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self, final

import numpy as np

from hlserve.errors import ConfigError
from hlserve.nn.channels import ChannelFlow, Channels
from hlserve.nn.graph_builder import GraphBuilder
from hlserve.nn.layer import Backward, Layer, Shape, only_shape
from hlserve.nn.param import Array, Param
from hlserve.nn.workspace import Workspace

_START = 0.25  # He et al. 2015, section 2.1


@final
@dataclass(eq=False)
class LeakyReLU(Layer):
    """y = x above 0, slope x below (Maas et al. 2013); the gradient at 0 is ``slope``.

    Shapes: any, kept. ONNX: LeakyRelu.
    """

    slope: float = 0.01

    def __post_init__(self) -> None:
        self.slope = float(self.slope)
        if not 0 <= self.slope <= 1:
            raise ConfigError(f"slope (={self.slope}) must be between 0 and 1")

    def forward(
        self, *inputs: Array, training: bool, workspace: Workspace
    ) -> tuple[Array, Backward]:
        """See Layer."""
        (x,) = inputs
        y = np.multiply(x, self.slope, out=workspace.empty("y", x.shape))
        np.maximum(x, y, out=y)

        def backward(dy: Array, *, need_dx: bool = True) -> tuple[Array, ...]:
            is_open = np.greater(y, 0, out=workspace.scratch("is_open", y.shape, np.bool_))
            factor = workspace.scratch("slope", y.shape)
            np.multiply(is_open, 1 - self.slope, out=factor, dtype=factor.dtype)
            factor += self.slope
            return (np.multiply(dy, factor, out=dy),)

        return y, backward

    def emit(self, g: GraphBuilder, *inputs: str) -> str:
        """See Layer."""
        return g.node("LeakyRelu", inputs, alpha=self.slope)

    def output_shape(self, *shapes: Shape) -> Shape:
        """See Layer."""
        return only_shape("LeakyReLU", shapes)


@final
@dataclass(eq=False)
class PReLU(Layer):
    """y = x above 0, slope x below, the slope trained (He et al. 2015, arXiv:1502.01852).

    Shapes: any, kept; slope (channels,), or one number for all where ``channels`` is 1. The
    channels lie on ``axis`` of a row: 0 in (features,), (channels, length) and (channels,
    height, width), 1 in (time, features). The gradient at 0 is ``slope``. ONNX: PRelu.
    """

    channels: int = 1
    axis: int = 0
    slope: Param = field(init=False)

    def __post_init__(self) -> None:
        if self.channels < 1 or self.axis not in (0, 1):
            raise ConfigError(
                f"channels (={self.channels}) must be at least 1 and axis (={self.axis}) 0 or 1"
            )
        is_shared = self.channels == 1
        start = np.full(self.channels, _START, np.float32)
        self.slope = Param(start, out_axis=None if is_shared else 0)

    def forward(
        self, *inputs: Array, training: bool, workspace: Workspace
    ) -> tuple[Array, Backward]:
        """See Layer."""
        (x,) = inputs
        slope = self.slope.value.reshape(self._along(x.ndim))
        below = np.minimum(x, 0, out=workspace.empty("below", x.shape))
        y = np.multiply(below, slope, out=workspace.empty("y", x.shape))
        y += np.maximum(x, 0, out=workspace.scratch("positive", x.shape))

        def backward(dy: Array, *, need_dx: bool = True) -> tuple[Array, ...]:
            product = np.multiply(dy, below, out=workspace.scratch("product", x.shape))
            self.slope.grad += np.add.reduce(product, axis=self._shared_axes(x.ndim))
            is_open = np.greater(x, 0, out=workspace.scratch("is_open", x.shape, np.bool_))
            np.multiply(is_open, 1 - slope, out=product, dtype=product.dtype)
            product += slope
            return (np.multiply(dy, product, out=dy),)

        return y, backward

    def emit(self, g: GraphBuilder, *inputs: str) -> str:
        """See Layer."""
        n_axes = len(g.row_shapes[inputs[0]])
        shape = g.constant(np.array(self._along(n_axes + 1)[:-1], np.int64), "shape")
        return g.node("PRelu", [*inputs, g.node("Reshape", [g.param(self.slope), shape])])

    def output_shape(self, *shapes: Shape) -> Shape:
        """See Layer."""
        shape = only_shape("PReLU", shapes)
        if self.channels > 1 and shape[self.axis : self.axis + 1] != (self.channels,):
            raise ConfigError(
                f"PReLU expects rows with {self.channels} channels on axis {self.axis}, got {shape}"
            )
        return shape

    def params(self) -> dict[str, Param]:
        """See Layer."""
        return {"slope": self.slope}

    def initialize(self, rng: np.random.Generator) -> None:
        """Slopes of 0.25, as in the paper."""
        self.slope.value[...] = _START

    def with_arrays(self, arrays: Mapping[str, Array]) -> Self:
        """See Layer."""
        layer = type(self)(len(arrays["slope"]), self.axis)
        layer.slope = self.slope.with_value(arrays["slope"])
        return layer

    def channel_flow(
        self, flow: ChannelFlow, inputs: Sequence[Channels], shapes: Sequence[Shape]
    ) -> Channels:
        """A slope goes with its channel."""
        if self.channels > 1:
            units = flow.along(inputs[0], self.axis, self.channels)
            flow.bind(self.slope, 0, units, is_producer=True)
        return inputs[0]

    def _along(self, n_axes: int) -> tuple[int, ...]:
        """The slope's shape beside an array of so many axes, the batch among them."""
        return tuple(self.channels if i == self.axis else 1 for i in range(n_axes))

    def _shared_axes(self, n_axes: int) -> tuple[int, ...] | None:
        return None if self.channels == 1 else tuple(i for i in range(n_axes) if i != self.axis)
