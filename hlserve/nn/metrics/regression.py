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


def r2(predictions: Array, targets: Array) -> float:
    """Share of the targets' variance that is explained; nan where they do not vary.

    Shapes: equal, (batch,) or (batch, outputs); several outputs are averaged alike.
    """
    residual = np.mean(_errors(predictions, targets, "r2") ** 2, axis=0)
    variance = np.var(targets, axis=0, dtype=np.float64)
    if np.any(variance == 0):
        return math.nan
    return float(np.mean(1.0 - residual / variance))


def _errors(predictions: Array, targets: Array, metric: str) -> Array:
    require_same_shape(predictions, targets, metric)
    return np.subtract(predictions, targets, dtype=np.float64)
