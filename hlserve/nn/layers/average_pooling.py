"""Mean over windows of batch-last arrays: what average pooling over one axis and two shares."""

from __future__ import annotations

import numpy as np

from hlserve.nn.layer import Backward
from hlserve.nn.layers.window import Window
from hlserve.nn.param import Array
from hlserve.nn.workspace import Workspace

_HEIGHT, _WIDTH = 0, 1  # of a window; the axes of an array come one later


def average_pool(
    x: Array, window: Window, workspace: Workspace, *, counts_padding: bool = True
) -> tuple[Array, Backward]:
    """The mean of every window of x (channels, height, width, batch), and the way back.

    Padding counts as zeros, or not at all. Sums are taken along the width, then along the height.
    """
    channels, height, width, batch = x.shape
    out_height, out_width = window.output_size(height, width)
    by_row = workspace.empty("by_row", (channels, height, out_width, batch))
    y = workspace.empty("y", (channels, out_height, out_width, batch))
    share = _share(window, x.shape, y.shape, counts_padding=counts_padding, workspace=workspace)
    _sum(x, by_row, _WIDTH, window)
    _sum(by_row, y, _HEIGHT, window)
    np.multiply(y, share, out=y)

    def backward(dy: Array, *, need_dx: bool = True) -> tuple[Array, ...]:
        if not need_dx:
            return ()
        np.multiply(dy, share, out=dy)
        dx = workspace.empty("dx", x.shape)
        _spread(dy, by_row, _HEIGHT, window)  # whose sums are not needed any more
        _spread(by_row, dx, _WIDTH, window)
        return (dx,)

    return y, backward


def _share(
    window: Window,
    x_shape: tuple[int, ...],
    y_shape: tuple[int, ...],
    *,
    counts_padding: bool,
    workspace: Workspace,
) -> Array | float:
    """Of one number in the mean of its window: the same everywhere, or (height, width, 1)."""
    if counts_padding:
        return 1.0 / (window.kernel[0] * window.kernel[1])
    share = workspace.empty("share", (y_shape[1], y_shape[2], 1))
    counts = [np.zeros(n, share.dtype) for n in y_shape[1:3]]
    for axis, count in enumerate(counts):
        for tap in range(window.kernel[axis]):
            count[window.along(axis, tap, x_shape[axis + 1], len(count))[0]] += 1
    np.multiply(counts[0][:, None, None], counts[1][:, None], out=share)
    return np.reciprocal(share, out=share)


def _sum(x: Array, y: Array, axis: int, window: Window) -> None:
    y.fill(0)
    for tap in range(window.kernel[axis]):
        place, origin = _along(axis, tap, x, y, window)
        np.add(y[place], x[origin], out=y[place])


def _spread(dy: Array, dx: Array, axis: int, window: Window) -> None:
    dx.fill(0)
    for tap in range(window.kernel[axis]):
        place, origin = _along(axis, tap, dx, dy, window)
        np.add(dx[origin], dy[place], out=dx[origin])


def _along(
    axis: int, tap: int, x: Array, y: Array, window: Window
) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    before = (slice(None),) * (axis + 1)
    place, origin = window.along(axis, tap, x.shape[axis + 1], y.shape[axis + 1])
    return (*before, place), (*before, origin)
