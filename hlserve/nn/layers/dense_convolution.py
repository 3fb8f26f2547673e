"""Convolution in which every output channel reads every input channel, as GEMMs.

Each output row, all its columns and the whole batch, is one GEMM over the input lowered along
the width only; see lowering.py. The gradient of an input row is likewise one GEMM over
neighbouring rows of dy, whose kernel-width columns are then added up.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from hlserve.nn.layers.lowering import gather_columns, lower, row_windows
from hlserve.nn.layers.window import Window
from hlserve.nn.param import Array
from hlserve.nn.workspace import Workspace

# Rows are lowered in blocks of about this many bytes. What fits into one block (LeNet-5 at 128
# rows takes 2 MB) is kept for backward; a larger convolution lowers again there, which costs a
# few percent, and so never holds kernel-width times its input.
_BLOCK_BYTES = 1 << 23


def output(x: Array, w: Array, window: Window, y: Array, workspace: Workspace) -> None:
    """Fills y (out_channels, out_height, out_width, batch)."""
    if _is_plain_product(x, window):
        np.matmul(w[:, :, 0, 0], _flat(x), out=_flat(y))
        return
    y_rows = _rows(y).transpose(1, 0, 2)
    kernel = _kernel(w, workspace)
    for rows, windows in _lowered(x, window, workspace):
        np.matmul(kernel, windows, out=y_rows[rows])


def add_weight_gradient(
    grad: Array, dy: Array, x: Array, window: Window, workspace: Workspace
) -> None:
    """Adds dL/dw; ``output`` must have been the last pass over this x in this workspace."""
    out_channels, in_channels, reach, taps = grad.shape
    if _is_plain_product(x, window):
        dw = workspace.scratch("dw", (in_channels, out_channels))
        grad[:, :, 0, 0] += np.matmul(_flat(x), _flat(dy).T, out=dw).T
        return
    dy_rows = _rows(dy)
    for rows, windows in _lowered(x, window, workspace, is_backward=True):
        # windows @ dy.T is much faster here than dy @ windows.T, which has few rows
        shape = (rows.stop - rows.start, windows.shape[1], out_channels)
        each = workspace.scratch("dw_each", shape)
        np.matmul(windows, dy_rows[:, rows].transpose(1, 2, 0), out=each)
        dw = np.add.reduce(each, axis=0, out=workspace.scratch("dw", shape[1:]))
        grad += dw.reshape(reach, in_channels, taps, out_channels).transpose(3, 1, 0, 2)


def input_gradient(dy: Array, w: Array, window: Window, dx: Array, workspace: Workspace) -> None:
    """Fills dx (in_channels, height, width, batch)."""
    if _is_plain_product(dx, window):
        np.matmul(w[:, :, 0, 0].T, _flat(dy), out=_flat(dx))
        return
    channels, height, _, batch = dx.shape
    _, out_height, out_width, _ = dy.shape
    columns, taps = out_width * batch, window.kernel[1]
    dy_rows = workspace.scratch("dy_rows", (out_height, len(dy), columns))
    np.copyto(dy_rows, _rows(dy).transpose(1, 0, 2))
    kernels = _gradient_kernels(w, window, workspace)
    row = channels * taps * columns
    step = max(1, _BLOCK_BYTES // max(1, row * dx.itemsize))
    for first in range(0, height, step):
        n = min(step, height - first)
        lowered = workspace.scratch("lowered", (n, channels * taps, columns))
        for offset in range(n):
            _gradient_row(first + offset, dy_rows, kernels, window, lowered[offset])
        by_tap = lowered.reshape(n, channels, taps, out_width, batch)
        gather_columns(by_tap, window, dx.transpose(1, 0, 2, 3)[first : first + n])


def _is_plain_product(x: Array, window: Window) -> bool:
    """Whether every place reads itself alone, so that all places are one matrix."""
    is_pointwise = window.kernel == window.stride == (1, 1) and not any(window.pads)
    return is_pointwise and x.flags.c_contiguous


def _flat(x: Array) -> Array:
    """(channels, height * width * batch)."""
    return x.reshape(len(x), x.shape[1] * x.shape[2] * x.shape[3])


def _rows(y: Array) -> Array:
    """(channels, height, width * batch)."""
    return y.reshape(len(y), y.shape[1], y.shape[2] * y.shape[3])


def _kernel(w: Array, workspace: Workspace) -> Array:
    """The weight as (out_channels, kernel height * in_channels * kernel width)."""
    by_row = w.transpose(0, 2, 1, 3)
    kernel = workspace.scratch("kernel", by_row.shape)
    np.copyto(kernel, by_row)
    return kernel.reshape(len(kernel), -1)


def _lowered(
    x: Array, window: Window, workspace: Workspace, *, is_backward: bool = False
) -> Iterator[tuple[slice, Array]]:
    """Blocks of output rows, and the matrices that their GEMMs read."""
    channels, height, width, batch = x.shape
    out_height, out_width = window.output_size(height, width)
    (reach, taps), step = window.kernel, window.stride[0]
    row = (channels, taps, out_width, batch)
    fitting = _BLOCK_BYTES // max(1, channels * taps * out_width * batch * x.itemsize)
    places = min(out_height, max(0, fitting - reach) // step + 1)
    is_kept = places == out_height
    for first in range(0, out_height, places):
        n = min(places, out_height - first)
        make = workspace.empty if is_kept else workspace.scratch
        lowered = make("lowered", ((n - 1) * step + reach, *row))
        if not (is_kept and is_backward):
            lower(x, window, first * step - window.padding[0], lowered)
        yield slice(first, first + n), row_windows(lowered, window, n)


def _gradient_kernels(w: Array, window: Window, workspace: Workspace) -> list[Array]:
    """For every phase of the stride the weight as (in_channels * kernel width, taps * out).

    An input row meets only the kernel rows of its phase (row modulo stride); they are in
    falling order, so that they run along rising rows of dy.
    """
    stride, kernels = window.stride[0], []
    by_column = w.transpose(1, 3, 2, 0)
    for phase in range(stride):
        taps = by_column[:, :, phase::stride][:, :, ::-1]
        kernel = workspace.scratch(f"kernel_{phase}", taps.shape)
        np.copyto(kernel, taps)
        channels, columns, rows, out_channels = taps.shape
        kernels.append(kernel.reshape(channels * columns, rows * out_channels))
    return kernels


def _gradient_row(
    row: int, dy_rows: Array, kernels: Sequence[Array], window: Window, lowered: Array
) -> None:
    """One row of the lowered input's gradient: a GEMM over the output rows that saw it."""
    out_height, out_channels, columns = dy_rows.shape
    last, phase = divmod(row + window.padding[0], window.stride[0])
    kernel = kernels[phase]
    earliest = last + 1 - kernel.shape[1] // out_channels
    start, stop = max(0, earliest), min(out_height, last + 1)
    if start >= stop:
        lowered.fill(0)
        return
    seen = dy_rows[start:stop].reshape((stop - start) * out_channels, columns)
    part = slice((start - earliest) * out_channels, (stop - earliest) * out_channels)
    np.matmul(kernel[:, part], seen, out=lowered)
