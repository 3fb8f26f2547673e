"""Convolution of batch-last arrays: what layers that slide over one axis or two share."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from hlserve.errors import ConfigError
from hlserve.nn.channels import ChannelFlow, Channels
from hlserve.nn.layers import dense_convolution, depthwise_convolution
from hlserve.nn.layers.contiguous import contiguous_batch
from hlserve.nn.layers.window import Window
from hlserve.nn.param import Array, Param
from hlserve.nn.workspace import Workspace


@dataclass(frozen=True, slots=True)
class Convolution:
    """Cross-correlation in ``groups`` parts, each of which sees its own input channels alone.

    Shapes: x (in_channels, height, width, batch), y (out_channels, out_height, out_width,
    batch), w (out_channels, in_channels / groups, kernel height, kernel width).
    """

    window: Window
    groups: int

    def output(self, x: Array, w: Array, bias: Array | None, workspace: Workspace) -> Array:
        """y; it lives in the workspace, with what the gradient of w needs of x."""
        x = contiguous_batch(x, "x", workspace)
        places = self.window.output_size(*x.shape[1:3])
        y = workspace.empty("y", (len(w), *places, x.shape[-1]))
        if self._is_depthwise(w):
            depthwise_convolution.output(x, w, self.window, y, workspace)
        else:
            window, w = self._without_holes(w, workspace)
            for ins, outs, part in self._parts(len(x), len(w), workspace):
                dense_convolution.output(x[ins], w[outs], window, y[outs], part)
        if bias is not None:
            y += bias[:, None, None, None]
        return y

    def add_weight_gradient(self, dw: Array, dy: Array, x: Array, workspace: Workspace) -> None:
        """Adds dL/dw for the pass that ``output`` made last in this workspace."""
        x = contiguous_batch(x, "x", workspace)
        if self._is_depthwise(dw):
            depthwise_convolution.add_weight_gradient(dw, dy, x, self.window, workspace)
            return
        window, spread = self.window, dw
        if window.dilation[0] > 1:
            window, spread = self._without_holes(dw, workspace)
            spread.fill(0)
        for ins, outs, part in self._parts(len(x), len(dw), workspace):
            dense_convolution.add_weight_gradient(spread[outs], dy[outs], x[ins], window, part)
        if spread is not dw:
            dw += spread[:, :, :: self.window.dilation[0]]

    def input_gradient(
        self, dy: Array, w: Array, x_shape: tuple[int, ...], workspace: Workspace
    ) -> Array:
        """dL/dx, in the workspace."""
        dx = workspace.empty("dx", x_shape)
        if self._is_depthwise(w):
            depthwise_convolution.input_gradient(dy, w, self.window, dx, workspace)
            return dx
        window, w = self._without_holes(w, workspace)
        for ins, outs, part in self._parts(len(dx), len(w), workspace):
            dense_convolution.input_gradient(dy[outs], w[outs], window, dx[ins], part)
        return dx

    # ----- what structured pruning asks

    def channel_flow(
        self, flow: ChannelFlow, source: Channels, w: Param, bias: Param | None
    ) -> Channels:
        """The units of the output channels; binds the axes of weight and bias.

        Depthwise, an output channel belongs to the unit of the one input channel that it reads.
        Other groups must keep equal sizes, so none of their channels may go.
        """
        out_channels, is_depthwise = len(w.value), self._is_depthwise(w.value)
        if is_depthwise:
            units = np.repeat(flow.along(source, 0, self.groups), out_channels // self.groups)
        else:
            units = flow.new(out_channels)
        if self.groups == 1:
            flow.bind(w, 1, flow.along(source, 0, w.value.shape[1]), is_producer=False)
        elif not is_depthwise:
            flow.protect(source.ids)
            flow.protect(units)
        for param in [w] if bias is None else [w, bias]:
            flow.bind(param, 0, units, is_producer=not is_depthwise)
        return Channels(units)

    def groups_of(self, old: Array, new: Array) -> int:
        """How many groups a weight of another size has: depthwise, one an input channel."""
        return len(new) * self.groups // len(old) if self._is_depthwise(old) else self.groups

    # ----- below

    def _without_holes(self, w: Array, workspace: Workspace) -> tuple[Window, Array]:
        """The same along the height with rows of zeros in the kernel where it is dilated.

        The GEMMs read neighbouring rows in place; dilated kernels are rare.
        """
        window = self.window
        if window.dilation[0] == 1:
            return window, w
        height = window.reach[0]
        spread = workspace.scratch("spread", (*w.shape[:2], height, w.shape[3]))
        spread.fill(0)
        spread[:, :, :: window.dilation[0]] = w
        solid = replace(window, kernel=(height, window.kernel[1]), dilation=(1, window.dilation[1]))
        return solid, spread

    def _is_depthwise(self, w: Array) -> bool:
        return self.groups > 1 and w.shape[1] == 1

    def _parts(
        self, in_channels: int, out_channels: int, workspace: Workspace
    ) -> Iterator[tuple[slice, slice, Workspace]]:
        """Every group's input and output channels, and a workspace of its own."""
        ins, outs = in_channels // self.groups, out_channels // self.groups
        for group in range(self.groups):
            part = workspace if self.groups == 1 else workspace.scope(f"group_{group}")
            first_in, first_out = group * ins, group * outs
            yield slice(first_in, first_in + ins), slice(first_out, first_out + outs), part


def add_bias_gradient(grad: Array, dy: Array, workspace: Workspace) -> None:
    """Adds dL/db, the sum of dy (channels, height, width, batch) over all other axes."""
    columns = dy.reshape(len(dy), dy.shape[1], dy.shape[2] * dy.shape[3])
    ones = workspace.scratch("ones", columns.shape[2:])
    ones.fill(1)
    grad += np.matmul(columns, ones).sum(axis=1)  # a quarter of the time of dy.sum


def check_channels(in_channels: int, out_channels: int, groups: int) -> None:
    """Refuses what no convolution can have.

    Raises:
        ConfigError: a number is below 1, or ``groups`` does not divide the channels.
    """
    if in_channels < 1 or out_channels < 1:
        raise ConfigError(
            f"in_channels (={in_channels}) and out_channels (={out_channels}) must be at least 1"
        )
    if groups < 1 or in_channels % groups or out_channels % groups:
        raise ConfigError(
            f"groups (={groups}) must be at least 1 and divide in_channels (={in_channels}) "
            f"and out_channels (={out_channels})"
        )
