"""Rows as an input of a network takes them: checked once, where they come in."""

from __future__ import annotations

from math import prod

import numpy as np

from hlserve.errors import DataError
from hlserve.nn.param import Array


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
    if ids.size and not (ids.min() >= 0 and ids.max() < n_ids):
        is_wrong = (ids < 0) | (ids >= n_ids)
        row = int(np.flatnonzero(is_wrong.reshape(len(ids), -1).any(axis=1))[0])
        raise DataError(
            f"input {name!r}: row {row} holds id {ids[row][is_wrong[row]].flat[0]}, expected 0 "
            f"to {n_ids - 1}"
        )
