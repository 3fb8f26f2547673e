"""Lowering along the width: how a convolution becomes GEMMs that read overlapping rows in place.

Memory-efficient convolution (MEC; Cho & Brand 2017, arXiv:1706.06873) with the batch last. The
lowered array is (rows, channels, kernel width, out_width, batch). The window of one output row
is ``kernel height`` consecutive rows of it, so it is a contiguous matrix of (kernel height *
channels * kernel width, out_width * batch), and neighbouring windows share their rows.
"""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import as_strided

from hlserve.nn.layers.window import Window
from hlserve.nn.param import Array


def lower(x: Array, window: Window, first_row: int, lowered: Array) -> None:
    """Fills ``lowered`` with the input rows from ``first_row`` on; rows outside are zeros.

    Args:
        x: (channels, height, width, batch).
        window: kernel, stride and padding.
        first_row: of the unpadded input, so it is negative in the padding above.
        lowered: (rows, channels, kernel width, out_width, batch).
    """
    rows, _, taps, places, _ = lowered.shape
    _, height, width, _ = x.shape
    top = min(max(0, -first_row), rows)
    bottom = max(top, min(rows, height - first_row))
    lowered[:top] = 0
    lowered[bottom:] = 0
    source = x.transpose(1, 0, 2, 3)[first_row + top : first_row + bottom]
    inside = lowered[top:bottom]
    for tap in range(taps):
        columns, origin = window.columns(tap, width, places)
        inside[:, :, tap, : columns.start] = 0
        inside[:, :, tap, columns] = source[:, :, origin]
        inside[:, :, tap, columns.stop :] = 0


def row_windows(lowered: Array, window: Window, places: int) -> Array:
    """The overlapping windows of ``places`` output rows, as a view.

    Returns:
        (places, kernel height * channels * kernel width, out_width * batch); not to be written.
    """
    _, channels, taps, out_width, batch = lowered.shape
    step, item = lowered.strides[0], lowered.itemsize
    columns = out_width * batch
    return as_strided(
        lowered,
        (places, window.kernel[0] * channels * taps, columns),
        (window.stride[0] * step, columns * item, item),
        writeable=False,
    )


def gather_columns(lowered: Array, window: Window, rows: Array) -> None:
    """The way back of ``lower`` for rows inside the input: every tap added up at its column.

    Args:
        lowered: (rows, channels, kernel width, out_width, batch).
        window: kernel, stride and padding.
        rows: (rows, channels, width, batch), filled.
    """
    width, places = rows.shape[2], lowered.shape[3]
    found = [window.columns(tap, width, places) for tap in range(lowered.shape[2])]
    # A tap that reaches every column, as the middle one of a padded kernel, saves the zeros.
    whole = next((tap for tap, (_, at) in enumerate(found) if at == slice(0, width, 1)), None)
    if whole is None:
        rows.fill(0)
    else:
        np.copyto(rows, lowered[:, :, whole, found[whole][0]])
    for tap, (columns, origin) in enumerate(found):
        if tap != whole:
            target = rows[:, :, origin]
            np.add(target, lowered[:, :, tap, columns], out=target)
