"""Maximum over windows of batch-last arrays: what max pooling over one axis and two shares.

Taken along the width, then along the height: the first row that holds the maximum, and the
first column in it, are the same element that reading order finds.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hlserve.nn.layer import Backward
from hlserve.nn.layers.window import Window
from hlserve.nn.param import Array
from hlserve.nn.workspace import Workspace

_HEIGHT, _WIDTH = 0, 1  # of a window; the axes of an array come one later

Place = tuple[slice, ...]


def max_pool(x: Array, window: Window, workspace: Workspace) -> tuple[Array, Backward]:
    """The largest value of every window of x (channels, height, width, batch), and the way back.

    Padding never wins. Of equal values the first in reading order gets the gradient, all of it.
    """
    channels, height, width, batch = x.shape
    out_height, out_width = window.output_size(height, width)
    by_row = workspace.empty("by_row", (channels, height, out_width, batch))
    y = workspace.empty("y", (channels, out_height, out_width, batch))
    _maximum(x, by_row, _WIDTH, window)
    _maximum(by_row, y, _HEIGHT, window)

    def backward(dy: Array, *, need_dx: bool = True) -> tuple[Array, ...]:
        if not need_dx:
            return ()
        by_row_grad = _gradient(_HEIGHT, dy, y, by_row, window, workspace)
        return (_gradient(_WIDTH, by_row_grad, by_row, x, window, workspace),)

    return y, backward


def _taps(x: Array, y: Array, axis: int, window: Window) -> list[tuple[Place, Place]]:
    """For every offset in the window places of ``y`` and what they see of ``x``, along an axis."""
    before = (slice(None),) * (axis + 1)
    size, places = x.shape[axis + 1], y.shape[axis + 1]
    found = [window.along(axis, tap, size, places) for tap in range(window.kernel[axis])]
    return [((*before, place), (*before, origin)) for place, origin in found]


def _maximum(x: Array, y: Array, axis: int, window: Window) -> None:
    taps = _taps(x, y, axis, window)
    if window.padding[axis]:
        y.fill(-np.inf)
        for place, origin in taps:
            np.maximum(y[place], x[origin], out=y[place])
        return
    views = [x[origin] for _, origin in taps]
    if len(views) == 1:
        np.copyto(y, views[0])
        return
    np.maximum(views[0], views[1], out=y)
    for view in views[2:]:
        np.maximum(y, view, out=y)


def _gradient(
    axis: int, dy: Array, y: Array, x: Array, window: Window, workspace: Workspace
) -> Array:
    """dL/dx for ``y``, the maximum of ``x`` along one axis; overwrites ``dy``."""
    kernel, stride = window.kernel[axis], window.stride[axis]
    taps = _taps(x, y, axis, window)
    dx = workspace.empty(f"dx_{axis}", x.shape)
    if kernel != stride or kernel * y.shape[axis + 1] != x.shape[axis + 1]:
        dx.fill(0)
    if stride < kernel or window.padding[axis]:
        _add_to_first(taps, dy, y, x, dx, workspace)
    else:
        _give_to_first([origin for _, origin in taps], dy, y, x, dx, workspace)
    return dx


def _add_to_first(
    taps: Sequence[tuple[Place, Place]],
    dy: Array,
    y: Array,
    x: Array,
    dx: Array,
    workspace: Workspace,
) -> None:
    """Windows overlap, or some taps lie in the padding: gradients add up to what is in ``dx``."""
    for place, origin in taps:
        seen, target = dy[place], dx[origin]
        is_first = workspace.scratch("is_first", seen.shape, np.bool_)
        np.equal(x[origin], y[place], out=is_first)
        taken = np.multiply(seen, is_first, out=workspace.scratch("taken", seen.shape))
        np.add(target, taken, out=target)
        np.subtract(seen, taken, out=seen)  # gone for the taps behind


def _give_to_first(
    origins: Sequence[Place], dy: Array, y: Array, x: Array, dx: Array, workspace: Workspace
) -> None:
    """Windows lie apart: each number of ``dx`` under a window is written once."""
    last = dx[origins[-1]]
    if len(origins) == 1:
        np.copyto(last, dy)
    for tap, origin in enumerate(origins[:-1]):
        is_first = workspace.scratch("is_first", y.shape, np.bool_)
        np.equal(x[origin], y, out=is_first)
        np.multiply(dy, is_first, out=dx[origin])
        # What a tap takes is gone for those behind it; the last one gets the rest.
        np.subtract(dy, dx[origin], out=last if tap == len(origins) - 2 else dy)
