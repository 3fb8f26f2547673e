"""Rows as an input of a network takes them: checked once, where they come in."""

from __future__ import annotations

from math import prod

import numpy as np

from hlserve.errors import DataError
from hlserve.nn.param import Array
from hlserve.row_blocks import row_blocks

MASK_BLOCK_BYTES = 2**16  # what a look at them takes beside is an eighth of it at most


def fit_rows(name: str, array: Array, shape: tuple[int, ...]) -> Array:
    """Rows of this shape, reshaped where the element counts agree.

    Raises:
        DataError: a row has another size.
    """
    rows = np.asarray(array)
    if rows.shape[1:] == shape:
        return rows
    if rows.ndim > 1 and prod(rows.shape[1:]) == prod(shape):
        return rows.reshape(len(rows), *shape)
    raise DataError(
        f"input {name!r}: rows have shape {rows.shape[1:]}, expected {shape} "
        f"({prod(shape)} numbers a row)"
    )


def require_ids(name: str, ids: Array, n_ids: int) -> None:
    """Refuses what is no id from 0 to ``n_ids`` - 1.

    Raises:
        DataError: ids that are no integers, or out of range; names the first such row.
    """
    if ids.dtype.kind not in "iu":
        raise DataError(f"input {name!r}: dtype is {ids.dtype}, expected integer ids")
    # min and max allocate nothing; which row is wrong is looked for only when one is.
    for first, block in row_blocks(ids):
        if not block.size or (block.min() >= 0 and block.max() < n_ids):
            continue
        is_wrong = (block < 0) | (block >= n_ids)
        row = _first_row(is_wrong)
        raise DataError(
            f"input {name!r}: row {first + row} holds id {block[row][is_wrong[row]].flat[0]}, "
            f"expected 0 to {n_ids - 1}"
        )


def require_mask(name: str, mask: Array, *, is_prefix: bool) -> None:
    """Refuses what is no mask, (rows, time), 1 for the steps that there are and 0 for padding.

    Args:
        name: of the input.
        mask: the rows.
        is_prefix: whether a row must be ones, then zeros, as recurrent layers read it: in the
            exported file they know a sequence by its length alone.

    Raises:
        DataError: other numbers, or a 1 behind a 0 of a prefix; names the first such row.
    """
    if mask.dtype.kind not in "iub":
        raise DataError(f"input {name!r}: dtype is {mask.dtype}, expected a mask of integers")
    for first, block in row_blocks(mask, block_bytes=MASK_BLOCK_BYTES):
        if not block.size:
            continue
        if block.min() < 0 or block.max() > 1:
            is_wrong = (block < 0) | (block > 1)
            row = _first_row(is_wrong)
            raise DataError(
                f"input {name!r}: row {first + row} holds {block[row][is_wrong[row]].flat[0]}, "
                "expected 1 for the steps that there are and 0 for padding"
            )
        late = _first_late_step(block) if is_prefix else None
        if late is not None:
            raise DataError(
                f"input {name!r}: row {first + late[0]} has a 1 behind a 0, at step {late[1]}, "
                "expected ones and then zeros; pad sequences at their end, and leave no step out "
                "within"
            )


def _first_late_step(mask: Array) -> tuple[int, int] | None:
    """Row and step of the first 1 behind a 0; None where there is none."""
    # One contiguous walk over all rows: over rows cut short NumPy would copy both sides first.
    steps = mask.reshape(-1)
    is_late = steps[1:] > steps[:-1]
    time = mask.shape[1]
    is_late[time - 1 :: time] = False  # the first step of the next row
    if not is_late.any():
        return None
    row, step = divmod(int(np.argmax(is_late)) + 1, time)
    return row, step


def _first_row(is_wrong: Array) -> int:
    return int(np.flatnonzero(is_wrong.reshape(len(is_wrong), -1).any(axis=1))[0])
