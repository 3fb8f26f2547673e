"""Metrics of numbers."""

from __future__ import annotations

import math

import numpy as np

from hlserve.nn.metrics.rows import require_same_shape
from hlserve.nn.param import Array


def mean_squared_error(predictions: Array, targets: Array) -> float:
    """Mean of the squared errors, in the targets' units squared. Equal shapes."""
    return float(np.mean(_errors(predictions, targets, "mean_squared_error") ** 2))


def mean_absolute_error(predictions: Array, targets: Array) -> float:
    """Mean size of the errors, in the targets' units. Equal shapes."""
    return float(np.mean(np.abs(_errors(predictions, targets, "mean_absolute_error"))))


def r2(predictions: Array, targets: Array, weights: Array | None = None) -> float:
    """Share of the targets' variance that is explained; nan where they do not vary.

    Shapes: equal, (batch,) or (batch, outputs); several outputs are averaged alike. ``weights``
    (batch,), 0 or above, say how much each row counts; all alike by default.
    """
    squares = _errors(predictions, targets, "r2") ** 2
    if not _all_vary(targets if weights is None else targets[weights > 0]):
        return math.nan
    residual = np.average(squares, axis=0, weights=weights)
    # From the first row on, so that a large mean takes no digits from what varies.
    moved = np.subtract(targets, targets[0], dtype=np.float64)
    mean = np.average(moved, axis=0, weights=weights)
    variance = np.average((moved - mean) ** 2, axis=0, weights=weights)
    return float(np.mean(1.0 - residual / variance))


def _all_vary(targets: Array) -> bool:
    """Whether every output varies by more than the rounding of its numbers."""
    if not len(targets):
        return False
    numbers = targets.astype(np.float64)
    kind = targets.dtype if targets.dtype.kind == "f" else np.dtype(np.float64)
    # Sums that are equal on paper differ by a few units in the last place.
    rounding = 4 * np.finfo(kind).eps * np.abs(numbers).max(axis=0)
    return bool(np.all(np.ptp(numbers, axis=0) > rounding))


def _errors(predictions: Array, targets: Array, metric: str) -> Array:
    require_same_shape(predictions, targets, metric)
    return np.subtract(predictions, targets, dtype=np.float64)
