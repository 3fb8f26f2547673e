"""Max pooling over height and width."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import final

import numpy as np

from hlserve.errors import ConfigError
from hlserve.nn.graph_builder import GraphBuilder
from hlserve.nn.layer import Backward, Layer, Shape
from hlserve.nn.layers.window import IntOrPair, Window
from hlserve.nn.param import Array
from hlserve.nn.workspace import Workspace

_HEIGHT, _WIDTH = 1, 2  # axes of (channels, height, width, batch)


@final
@dataclass(eq=False)
class MaxPool2d(Layer):
    """The largest value of every window.

    Shapes: x (batch, channels, height, width) -> y (batch, channels, out_height, out_width) with
    out = floor((size - kernel) / stride) + 1; rows and columns that fill no window are left out.
    ``kernel_size`` and ``stride`` are an int or (height, width); ``stride=None`` is the kernel
    size. ONNX: MaxPool, ceil_mode 0.

    Of equal values the first in reading order gets the gradient, all of it, as in PyTorch. Exact
    ties are common in flat image areas, and a gradient that each of them got would be counted
    several times.

    Taken along the width, then along the height: the first row that holds the maximum, and the
    first column in it, are the same element that reading order finds.
    """

    kernel_size: IntOrPair = 2
    stride: IntOrPair | None = None
    window: Window = field(init=False, repr=False)

    def __post_init__(self) -> None:
        stride = self.kernel_size if self.stride is None else self.stride
        self.window = Window.of(self.kernel_size, stride, 0)

    def forward(
        self, *inputs: Array, training: bool, workspace: Workspace
    ) -> tuple[Array, Backward]:
        """See Layer."""
        (x,) = inputs
        channels, height, width, batch = x.shape
        out_height, out_width = self.window.output_size(height, width)
        by_row = workspace.empty("by_row", (channels, height, out_width, batch))
        y = workspace.empty("y", (channels, out_height, out_width, batch))
        _maximum(self._taps(x, _WIDTH, out_width), by_row)
        _maximum(self._taps(by_row, _HEIGHT, out_height), y)

        def backward(dy: Array, *, need_dx: bool = True) -> tuple[Array, ...]:
            if not need_dx:
                return ()
            by_row_grad = self._gradient(_HEIGHT, dy, y, by_row, workspace)
            return (self._gradient(_WIDTH, by_row_grad, by_row, x, workspace),)

        return y, backward

    def emit(self, g: GraphBuilder, *inputs: str) -> str:
        """See Layer."""
        window = self.window
        return g.node("MaxPool", inputs, kernel_shape=window.kernel, strides=window.stride)

    def output_shape(self, *shapes: Shape) -> Shape:
        """See Layer."""
        if len(shapes) != 1 or len(shapes[0]) != 3:
            raise ConfigError(
                f"MaxPool2d expects rows of shape (channels, height, width), got "
                f"{', '.join(map(str, shapes))}"
            )
        channels, height, width = shapes[0]
        return (channels, *self.window.output_size(height, width))

    # ----- below

    def _taps(self, x: Array, axis: int, places: int) -> list[Array]:
        """For every offset in the window the view of ``x`` that lies there, along one axis."""
        stride = self.window.stride[axis - _HEIGHT]
        before = (slice(None),) * axis
        last = (places - 1) * stride + 1
        return [
            x[(*before, slice(tap, tap + last, stride))]
            for tap in range(self.window.kernel[axis - _HEIGHT])
        ]

    def _gradient(self, axis: int, dy: Array, y: Array, x: Array, workspace: Workspace) -> Array:
        """dL/dx for ``y``, the maximum of ``x`` along one axis; overwrites ``dy``."""
        kernel, stride = self.window.kernel[axis - _HEIGHT], self.window.stride[axis - _HEIGHT]
        places = y.shape[axis]
        dx = workspace.empty(f"dx_{axis}", x.shape)
        if kernel != stride or kernel * places != x.shape[axis]:
            dx.fill(0)
        values, grads = (self._taps(array, axis, places) for array in (x, dx))
        for tap, value in enumerate(values[:-1]):
            is_first = workspace.scratch("is_first", y.shape, np.bool_)
            np.equal(value, y, out=is_first)
            # What a tap takes is gone for those behind it; the last one gets the rest.
            if stride >= kernel:
                np.multiply(dy, is_first, out=grads[tap])
                np.subtract(dy, grads[tap], out=grads[-1] if tap == kernel - 2 else dy)
            else:  # windows overlap, gradients add up
                taken = np.multiply(dy, is_first, out=workspace.scratch("taken", y.shape))
                np.add(grads[tap], taken, out=grads[tap])
                np.subtract(dy, taken, out=dy)
        if stride < kernel:
            np.add(grads[-1], dy, out=grads[-1])
        elif kernel == 1:
            np.copyto(grads[0], dy)
        return dx


def _maximum(taps: list[Array], out: Array) -> None:
    if len(taps) == 1:
        np.copyto(out, taps[0])
        return
    np.maximum(taps[0], taps[1], out=out)
    for tap in taps[2:]:
        np.maximum(out, tap, out=out)
