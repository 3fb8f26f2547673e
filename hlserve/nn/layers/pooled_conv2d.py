"""Convolution, rectifier and 2x2 max pooling in one: what training runs in their place."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import final

import numpy as np

from hlserve.nn.graph_builder import GraphBuilder
from hlserve.nn.layer import Backward, Layer, Shape
from hlserve.nn.layers.conv2d import Conv2d
from hlserve.nn.layers.convolution import Convolution, add_bias_gradient
from hlserve.nn.param import Array, Param
from hlserve.nn.workspace import Workspace

_CORNERS = ((0, 0), (0, 1), (1, 0), (1, 1))  # of a pooling window, in reading order
_N = len(_CORNERS)


@final
@dataclass(eq=False)
class PooledConv2d(Layer):
    """y = the largest of every 2x2 window of max(conv(x), 0); the parameters are ``conv``'s own.

    Every window of the pooling reads a patch of kernel + 1 inputs a side, at stride 2. One
    convolution of that geometry computes the window's four candidates as four planes of output
    channels, whose kernels are ``conv``'s kernel at the four corners of the patch and zeros
    beside it. For a 5x5 kernel that is 1.44 times the multiplications, but the GEMM has four
    times as many rows, and it is slow on few; the input is lowered to a third of the size; and
    pooling is the maximum of four contiguous planes, with the bias added to their maximum. Of
    equal candidates the first in reading order gets the gradient.

    For training: it stands in no checkpoint and is not exported.
    """

    conv: Conv2d
    _spread: Convolution = field(init=False, repr=False)

    def __post_init__(self) -> None:
        height, width = self.conv.window.kernel
        window = replace(self.conv.window, kernel=(height + 1, width + 1), stride=(2, 2))
        self._spread = Convolution(window, groups=1)

    def forward(
        self, *inputs: Array, training: bool, workspace: Workspace
    ) -> tuple[Array, Backward]:
        """See Layer."""
        (x,) = inputs
        w, bias, spread = self.conv.weight, self.conv.bias, self._spread
        kernel, of_planes = self._spread_kernel(w.value, workspace), workspace.scope("planes")
        planes = spread.output(x, kernel, None, of_planes)
        candidates = planes.reshape(_N, len(w.value), *planes.shape[1:])
        largest = workspace.empty("largest", candidates.shape[1:])
        np.maximum(candidates[0], candidates[1], out=largest)
        for candidate in candidates[2:]:
            np.maximum(largest, candidate, out=largest)
        y = workspace.empty("y", largest.shape)
        shift = 0 if bias is None else bias.value[:, None, None, None]
        np.maximum(np.add(largest, shift, out=y), 0, out=y)

        def backward(dy: Array, *, need_dx: bool = True) -> tuple[Array, ...]:
            d = _to_the_first_largest(dy, y, largest, candidates, workspace)
            if bias is not None:
                for plane in d:
                    add_bias_gradient(bias.grad, plane, workspace)
            dw = workspace.scratch("d_spread", kernel.shape)
            dw.fill(0)
            spread.add_weight_gradient(dw, d.reshape(planes.shape), x, of_planes)
            for corner in self._at_corners(dw):
                np.add(w.grad, corner, out=w.grad)
            if not need_dx:
                return ()
            return (spread.input_gradient(d.reshape(planes.shape), kernel, x.shape, of_planes),)

        return y, backward

    def emit(self, g: GraphBuilder, *inputs: str) -> str:
        """Not to be called: networks are exported as they were before they were fused."""
        raise AssertionError("PooledConv2d is never exported")

    def output_shape(self, *shapes: Shape) -> Shape:
        """See Layer."""
        channels, height, width = self.conv.output_shape(*shapes)
        return (channels, height // 2, width // 2)

    def params(self) -> dict[str, Param]:
        """See Layer."""
        return self.conv.params()

    def macs(self, *shapes: Shape) -> int:
        """See Layer."""
        return self.conv.macs(*shapes)

    # ----- below

    def _spread_kernel(self, w: Array, workspace: Workspace) -> Array:
        """Kernels of the four planes: (4 * out_channels, in_channels, height + 1, width + 1)."""
        shape = (_N * len(w), w.shape[1], *self._spread.window.kernel)
        spread = workspace.empty("spread", shape)
        spread.fill(0)
        for corner in self._at_corners(spread):
            np.copyto(corner, w)
        return spread

    def _at_corners(self, spread: Array) -> list[Array]:
        """The views of ``spread`` where each plane has its kernel."""
        height, width = self.conv.window.kernel
        planes = spread.reshape(_N, -1, *spread.shape[1:])
        return [
            plane[:, :, row : row + height, column : column + width]
            for plane, (row, column) in zip(planes, _CORNERS, strict=True)
        ]


def _to_the_first_largest(
    dy: Array, y: Array, largest: Array, candidates: Array, workspace: Workspace
) -> Array:
    """dL/d(candidates)."""
    d = workspace.scratch("d_candidates", candidates.shape)
    is_it = workspace.scratch("is_it", y.shape, np.bool_)
    is_left = workspace.scratch("is_left", y.shape, np.bool_)  # open, and not yet given
    np.greater(y, 0, out=is_left)
    for candidate, plane in zip(candidates[:-1], d, strict=False):
        np.equal(candidate, largest, out=is_it)
        np.logical_and(is_it, is_left, out=is_it)
        np.multiply(dy, is_it, out=plane)
        np.not_equal(is_left, is_it, out=is_left)
    np.multiply(dy, is_left, out=d[-1])
    return d
