"""Convolution in which every output channel reads one input channel: sums over the taps.

A GEMM a channel would be a vector times a matrix. Instead every tap is one multiplication of
all places and one addition, in blocks of channels that stay in the cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

import numpy as np

from hlserve.nn.layers.window import Window
from hlserve.nn.param import Array
from hlserve.nn.workspace import Workspace

_BLOCK_BYTES = 1 << 18  # of y at a time: with the products beside it, half of a core's cache


def output(x: Array, w: Array, window: Window, y: Array, workspace: Workspace) -> None:
    """Fills y (in_channels * multiplier, out_height, out_width, batch)."""
    y.fill(0)
    for xs, ws, ys in _blocks(x, w, y):
        for tap, places, origin in _taps(window, x.shape, y.shape):
            target = ys[:, *places]
            product = workspace.scratch("product", target.shape)
            np.multiply(xs[:, *origin], ws[:, *tap, None, None, None], out=product)
            np.add(target, product, out=target)


def add_weight_gradient(
    grad: Array, dy: Array, x: Array, window: Window, workspace: Workspace
) -> None:
    """Adds dL/dw (in_channels * multiplier, 1, kernel height, kernel width)."""
    for xs, dws, dys in _blocks(x, grad, dy):
        for tap, places, origin in _taps(window, x.shape, dy.shape):
            seen = dys[:, *places]
            product = workspace.scratch("product", seen.shape)
            np.multiply(xs[:, *origin], seen, out=product)
            columns = product.reshape(len(product), prod(product.shape[1:]))
            ones = workspace.scratch("ones", columns.shape[1:])
            ones.fill(1)
            dws[:, *tap] += np.matmul(columns, ones)


def input_gradient(dy: Array, w: Array, window: Window, dx: Array, workspace: Workspace) -> None:
    """Fills dx (in_channels, height, width, batch)."""
    dx.fill(0)
    for dxs, ws, dys in _blocks(dx, w, dy):
        for tap, places, origin in _taps(window, dx.shape, dy.shape):
            seen, target = dys[:, *places], dxs[:, *origin]
            product = workspace.scratch("product", seen.shape)
            np.multiply(seen, ws[:, *tap, None, None, None], out=product)
            np.add(target, product, out=target)


def _blocks(x: Array, w: Array, y: Array) -> Iterator[tuple[Array, Array, Array]]:
    """Some channels of x, and what belongs to them of w and y, once for every multiple.

    The weight's block is (channels, kernel height, kernel width).
    """
    channels, multiplier = len(x), len(y) // len(x)
    by_multiple = y.reshape(channels, multiplier, *y.shape[1:])
    weights = w.reshape(channels, multiplier, *w.shape[2:])
    step = max(1, _BLOCK_BYTES * channels // max(1, y.nbytes // multiplier))
    for first in range(0, channels, step):
        some = slice(first, first + step)
        for multiple in range(multiplier):
            yield x[some], weights[some, multiple], by_multiple[some, multiple]


def _taps(
    window: Window, x_shape: tuple[int, ...], y_shape: tuple[int, ...]
) -> Iterator[tuple[tuple[int, int], tuple[slice, slice], tuple[slice, slice]]]:
    """Every tap, the places where it lies inside the input, and what it meets there."""
    for i in range(window.kernel[0]):
        rows, from_rows = window.along(0, i, x_shape[1], y_shape[1])
        for j in range(window.kernel[1]):
            columns, from_columns = window.along(1, j, x_shape[2], y_shape[2])
            yield (i, j), (rows, columns), (from_rows, from_columns)
