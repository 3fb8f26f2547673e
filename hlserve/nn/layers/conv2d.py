"""Convolution over height and width."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Self, final

import numpy as np

from hlserve.errors import ConfigError
from hlserve.nn.channels import ChannelFlow, Channels
from hlserve.nn.graph_builder import GraphBuilder
from hlserve.nn.initializers import he_uniform
from hlserve.nn.layer import Backward, Layer, Shape
from hlserve.nn.layers.lowering import add_columns, lower, row_windows
from hlserve.nn.layers.window import IntOrPair, Window
from hlserve.nn.param import Array, Param
from hlserve.nn.workspace import Workspace

# Rows are lowered in blocks of about this many bytes. What fits into one block (LeNet-5 at 128
# rows takes 2 MB) is kept for backward; a larger convolution lowers again there, which costs a
# few percent, and so never holds kernel-width times its input.
_BLOCK_BYTES = 1 << 23


@final
@dataclass(eq=False)
class Conv2d(Layer):
    """Cross-correlation with a bias and zero padding.

    Shapes: x (batch, in_channels, height, width) -> y (batch, out_channels, out_height,
    out_width) with out = floor((size + 2 padding - kernel) / stride) + 1; W (out_channels,
    in_channels, kernel height, kernel width). ``kernel_size``, ``stride`` and ``padding`` are an
    int or (height, width). ONNX: Conv.

    Each output row, all its columns and the whole batch, is one GEMM over the input lowered
    along the width only; see lowering.py. The gradient of an input row is likewise one GEMM
    over neighbouring rows of dy, whose kernel-width columns are then added up.
    """

    in_channels: int
    out_channels: int
    kernel_size: IntOrPair
    stride: IntOrPair = 1
    padding: IntOrPair = 0
    weight: Param = field(init=False)
    bias: Param = field(init=False)
    window: Window = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if self.in_channels < 1 or self.out_channels < 1:
            raise ConfigError(
                f"in_channels (={self.in_channels}) and out_channels (={self.out_channels}) "
                "must be at least 1"
            )
        self.window = Window.of(self.kernel_size, self.stride, self.padding)
        shape = (self.out_channels, self.in_channels, *self.window.kernel)
        self.weight = Param(np.zeros(shape, np.float32), out_axis=0, in_axis=1)
        self.bias = Param(np.zeros(self.out_channels, np.float32), out_axis=0)

    def forward(
        self, *inputs: Array, training: bool, workspace: Workspace
    ) -> tuple[Array, Backward]:
        """See Layer."""
        x = _with_contiguous_batch(inputs[0], workspace)
        _, height, width, batch = x.shape
        out_height, out_width = self.window.output_size(height, width)
        y = workspace.empty("y", (self.out_channels, out_height, out_width, batch))
        y_rows = y.reshape(self.out_channels, out_height, out_width * batch).transpose(1, 0, 2)
        kernel = self._kernel(workspace)
        for rows, windows in self._lowered(x, workspace):
            np.matmul(kernel, windows, out=y_rows[rows])
            y_rows[rows] += self.bias.value[:, None]

        def backward(dy: Array, *, need_dx: bool = True) -> tuple[Array, ...]:
            by_row = _c_contiguous(dy, "dy", workspace).reshape(y_rows.transpose(1, 0, 2).shape)
            self._add_parameter_gradients(by_row, x, workspace)
            return (self._input_gradient(by_row, x.shape, workspace),) if need_dx else ()

        return y, backward

    def emit(self, g: GraphBuilder, *inputs: str) -> str:
        """See Layer."""
        return g.node(
            "Conv",
            [*inputs, g.param(self.weight), g.param(self.bias)],
            kernel_shape=self.window.kernel,
            strides=self.window.stride,
            pads=self.window.padding * 2,
        )

    def output_shape(self, *shapes: Shape) -> Shape:
        """See Layer."""
        if len(shapes) != 1 or len(shapes[0]) != 3 or shapes[0][0] != self.in_channels:
            raise ConfigError(
                f"Conv2d expects rows of shape ({self.in_channels}, height, width), got "
                f"{', '.join(map(str, shapes))}; change in_channels or put a Reshape before it"
            )
        return (self.out_channels, *self.window.output_size(*shapes[0][1:]))

    def params(self) -> dict[str, Param]:
        """See Layer."""
        return {"weight": self.weight, "bias": self.bias}

    def initialize(self, rng: np.random.Generator) -> None:
        """He uniform weights (He et al. 2015), zero bias."""
        shape = self.weight.value.shape
        self.weight.value[...] = he_uniform(rng, shape, fan_in=prod(shape[1:]))
        self.bias.value[...] = 0

    def macs(self, *shapes: Shape) -> int:
        """See Layer."""
        _, out_height, out_width = self.output_shape(*shapes)
        return out_height * out_width * self.weight.value.size

    def with_arrays(self, arrays: Mapping[str, Array]) -> Self:
        """See Layer."""
        out_channels, in_channels, *kernel = arrays["weight"].shape
        layer = type(self)(in_channels, out_channels, tuple(kernel), self.stride, self.padding)
        layer.weight = self.weight.with_value(arrays["weight"])
        layer.bias = self.bias.with_value(arrays["bias"])
        return layer

    def channel_flow(
        self, flow: ChannelFlow, inputs: Sequence[Channels], shapes: Sequence[Shape]
    ) -> Channels:
        """See Layer."""
        units = flow.new(self.out_channels)
        flow.bind(self.weight, 1, inputs[0].ids, is_producer=False)
        flow.bind(self.weight, 0, units, is_producer=True)
        flow.bind(self.bias, 0, units, is_producer=True)
        return Channels(units)

    # ----- below

    def _kernel(self, workspace: Workspace) -> Array:
        """The weight as (out_channels, kernel height * in_channels * kernel width)."""
        by_row = self.weight.value.transpose(0, 2, 1, 3)
        kernel = workspace.scratch("kernel", by_row.shape)
        np.copyto(kernel, by_row)
        return kernel.reshape(len(kernel), -1)

    def _lowered(
        self, x: Array, workspace: Workspace, *, is_backward: bool = False
    ) -> Iterator[tuple[slice, Array]]:
        """Blocks of output rows, and the matrices that their GEMMs read."""
        channels, height, width, batch = x.shape
        out_height, out_width = self.window.output_size(height, width)
        (reach, taps), step = self.window.kernel, self.window.stride[0]
        row = (channels, taps, out_width, batch)
        fitting = _BLOCK_BYTES // max(1, prod(row) * x.itemsize)
        places = min(out_height, max(0, fitting - reach) // step + 1)
        is_kept = places == out_height
        for first in range(0, out_height, places):
            n = min(places, out_height - first)
            make = workspace.empty if is_kept else workspace.scratch
            lowered = make("lowered", ((n - 1) * step + reach, *row))
            if not (is_kept and is_backward):
                lower(x, self.window, first * step - self.window.padding[0], lowered)
            yield slice(first, first + n), row_windows(lowered, self.window, n)

    def _add_parameter_gradients(self, dy: Array, x: Array, workspace: Workspace) -> None:
        # dy (out_channels, out_height, out_width * batch)
        (reach, taps), out_channels = self.window.kernel, len(dy)
        for rows, windows in self._lowered(x, workspace, is_backward=True):
            # windows @ dy.T is much faster here than dy @ windows.T, which has few rows
            shape = (rows.stop - rows.start, windows.shape[1], out_channels)
            each = workspace.scratch("dw_each", shape)
            np.matmul(windows, dy[:, rows].transpose(1, 2, 0), out=each)
            dw = np.add.reduce(each, axis=0, out=workspace.scratch("dw", shape[1:]))
            dw = dw.reshape(reach, self.in_channels, taps, out_channels)
            self.weight.grad += dw.transpose(3, 1, 0, 2)
        ones = workspace.scratch("ones", dy.shape[2:])
        ones.fill(1)
        self.bias.grad += np.matmul(dy, ones).sum(axis=1)

    def _input_gradient(self, dy: Array, x_shape: Shape, workspace: Workspace) -> Array:
        # dy (out_channels, out_height, out_width * batch)
        channels, height, width, batch = x_shape
        _, out_height, columns = dy.shape
        _, out_width = self.window.output_size(height, width)
        dy_rows = workspace.scratch("dy_rows", (out_height, len(dy), columns))
        np.copyto(dy_rows, dy.transpose(1, 0, 2))
        kernels = self._gradient_kernels(workspace)
        dx = workspace.empty("dx", x_shape)
        dx.fill(0)
        taps = self.window.kernel[1]
        row = channels * taps * columns
        step = max(1, _BLOCK_BYTES // max(1, row * dx.itemsize))
        for first in range(0, height, step):
            n = min(step, height - first)
            lowered = workspace.scratch("lowered", (n, channels * taps, columns))
            for offset in range(n):
                self._gradient_row(first + offset, dy_rows, kernels, lowered[offset])
            by_tap = lowered.reshape(n, channels, taps, out_width, batch)
            add_columns(by_tap, self.window, dx.transpose(1, 0, 2, 3)[first : first + n])
        return dx

    def _gradient_kernels(self, workspace: Workspace) -> list[Array]:
        """For every phase of the stride the weight as (in_channels * kernel width, taps * out).

        An input row meets only the kernel rows of its phase (row modulo stride); they are in
        falling order, so that they run along rising rows of dy.
        """
        stride, kernels = self.window.stride[0], []
        by_column = self.weight.value.transpose(1, 3, 2, 0)
        for phase in range(stride):
            taps = by_column[:, :, phase::stride][:, :, ::-1]
            kernel = workspace.scratch(f"kernel_{phase}", taps.shape)
            np.copyto(kernel, taps)
            channels, columns, rows, out_channels = taps.shape
            kernels.append(kernel.reshape(channels * columns, rows * out_channels))
        return kernels

    def _gradient_row(
        self, row: int, dy_rows: Array, kernels: Sequence[Array], lowered: Array
    ) -> None:
        """One row of the lowered input's gradient: a GEMM over the output rows that saw it."""
        out_height, out_channels, columns = dy_rows.shape
        last, phase = divmod(row + self.window.padding[0], self.window.stride[0])
        kernel = kernels[phase]
        earliest = last + 1 - kernel.shape[1] // out_channels
        start, stop = max(0, earliest), min(out_height, last + 1)
        if start >= stop:
            lowered.fill(0)
            return
        seen = dy_rows[start:stop].reshape((stop - start) * out_channels, columns)
        part = slice((start - earliest) * out_channels, (stop - earliest) * out_channels)
        np.matmul(kernel[:, part], seen, out=lowered)


def _with_contiguous_batch(x: Array, workspace: Workspace) -> Array:
    """The same array, copied where the batch is not its fastest axis, as in a turned view."""
    if x.strides[-1] == x.itemsize or x.shape[-1] == 1:
        return x
    return _c_contiguous(x, "x", workspace)


def _c_contiguous(array: Array, key: str, workspace: Workspace) -> Array:
    if array.flags.c_contiguous:
        return array
    copied = workspace.empty(key, array.shape)
    np.copyto(copied, array)
    return copied
