"""The classification extension: the top classes of an output, as text, instead of its values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hlserve import datatypes
from hlserve.errors import InvalidRequestError

Array = NDArray[Any]


def classify(array: Array, count: int, *, labels: Sequence[str] | None, has_rows: bool) -> Array:
    """The largest values with their places, as ``value:index`` or ``value:index:label``.

    Args:
        array: the output's values; everything behind the first axis counts as one row of classes.
        count: how many; more than there are classes: all.
        labels: one a class, or none.
        has_rows: whether the first axis is the batch; False: all values are one row.

    Returns:
        Objects of ``bytes``, ``(rows, count)`` or ``(count,)``, the largest first; equal values in
        the order of their places (Triton's classification extension).

    Raises:
        InvalidRequestError: the output has no numbers.
    """
    if array.dtype == datatypes.BF16_BITS:
        array = datatypes.widen_bf16(array)
    if array.dtype.kind not in "fiub":
        raise InvalidRequestError("its values are no numbers, so they have no top classes")
    has_rows = has_rows and array.ndim > 0
    rows = array.reshape(array.shape[0] if has_rows else 1, math.prod(array.shape[has_rows:]))
    keys = rows.astype(np.float64) if rows.dtype.kind in "fb" else rows
    if keys.dtype.kind == "f":
        keys = np.where(np.isnan(keys), -np.inf, keys)  # a NaN is no top class
    # Stable on the reversed row, then reversed: the largest first, ties by place.
    last = rows.shape[1] - 1
    order = last - np.argsort(keys[:, ::-1], axis=1, kind="stable")[:, ::-1]
    order = order[:, :count]
    named = labels if labels is not None and len(labels) == rows.shape[1] else None
    texts = np.empty(order.shape, dtype=object)
    for row, places in enumerate(order.tolist()):
        texts[row] = [_text(rows[row, place], place, named) for place in places]
    return texts if has_rows else texts[0]


def _text(value: Any, place: int, labels: Sequence[str] | None) -> bytes:
    number = f"{float(value):f}" if np.asarray(value).dtype.kind == "f" else str(int(value))
    text = f"{number}:{place}"
    return (text if labels is None else f"{text}:{labels[place]}").encode()
