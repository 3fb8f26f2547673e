"""Maximum over windows of batch-last arrays: what max pooling over one axis and two shares."""

from __future__ import annotations

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
    pairs = zip(window.kernel, window.stride, strict=True)
    if not any(window.pads) and all(kernel <= stride for kernel, stride in pairs):
        return _pool_apart(x, window, workspace)
    return _pool_by_axis(x, window, workspace)


# ----- windows that lie apart: every number of x is under one of them at most


def _pool_apart(x: Array, window: Window, workspace: Workspace) -> tuple[Array, Backward]:
    channels, height, width, batch = x.shape
    places = window.output_size(height, width)
    y = workspace.empty("y", (channels, *places, batch))
    taps = _taps(window, places)
    np.maximum(x[taps[0]], x[taps[1 % len(taps)]], out=y)
    for tap in taps[2:]:
        np.maximum(y, x[tap], out=y)

    def backward(dy: Array, *, need_dx: bool = True) -> tuple[Array, ...]:
        if not need_dx:
            return ()
        dx = workspace.empty("dx", x.shape)
        if dx.size != y.size * len(taps):  # some numbers are under no window
            dx.fill(0)
        found = workspace.scratch("found", y.shape, np.bool_)
        is_first = workspace.scratch("is_first", y.shape, np.bool_)
        found.fill(False)
        for tap in taps[:-1]:
            np.equal(x[tap], y, out=is_first)
            np.greater(is_first, found, out=is_first)  # and not found before
            np.multiply(dy, is_first, out=dx[tap])
            np.logical_or(found, is_first, out=found)
        np.logical_not(found, out=found)
        np.multiply(dy, found, out=dx[taps[-1]])
        return (dx,)

    return y, backward


def _taps(window: Window, places: tuple[int, int]) -> list[Place]:
    """What every offset in the window sees of x, in reading order."""
    (down, across), (rows, columns) = window.stride, places
    return [
        (
            slice(None),
            slice(i, i + (rows - 1) * down + 1, down),
            slice(j, j + (columns - 1) * across + 1, across),
        )
        for i in range(window.kernel[0])
        for j in range(window.kernel[1])
    ]


# ----- windows that overlap or reach into the padding


def _pool_by_axis(x: Array, window: Window, workspace: Workspace) -> tuple[Array, Backward]:
    """Taken along the width, then along the height.

    The first row that holds the maximum, and the first column in it, are the same element that
    reading order finds.
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
        by_row_grad = _gradient(dy, y, by_row, window, workspace, axis=_HEIGHT)
        return (_gradient(by_row_grad, by_row, x, window, workspace, axis=_WIDTH),)

    return y, backward


def _along(x: Array, y: Array, axis: int, window: Window) -> list[tuple[Place, Place]]:
    """For every offset in the window places of ``y`` and what they see of ``x``, along an axis."""
    before = (slice(None),) * (axis + 1)
    size, places = x.shape[axis + 1], y.shape[axis + 1]
    found = [window.along(axis, tap, size, places) for tap in range(window.kernel[axis])]
    return [((*before, place), (*before, origin)) for place, origin in found]


def _maximum(x: Array, y: Array, axis: int, window: Window) -> None:
    y.fill(-np.inf)
    for place, origin in _along(x, y, axis, window):
        np.maximum(y[place], x[origin], out=y[place])


def _gradient(
    dy: Array, y: Array, x: Array, window: Window, workspace: Workspace, *, axis: int
) -> Array:
    """dL/dx for ``y``, the maximum of ``x`` along one axis; overwrites ``dy``."""
    dx = workspace.empty(f"dx_{axis}", x.shape)
    dx.fill(0)
    for place, origin in _along(x, y, axis, window):
        seen, target = dy[place], dx[origin]
        is_first = workspace.scratch("is_first", seen.shape, np.bool_)
        np.equal(x[origin], y[place], out=is_first)
        taken = np.multiply(seen, is_first, out=workspace.scratch("taken", seen.shape))
        np.add(target, taken, out=target)
        np.subtract(seen, taken, out=seen)  # gone for the taps behind
    return dx
