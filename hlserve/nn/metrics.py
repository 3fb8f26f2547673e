"""How good predictions are: pure functions of arrays whose rows come first."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np

from hlserve.errors import DataError
from hlserve.nn.param import Array


def accuracy(scores: Array, labels: Array) -> float:
    """Share of rows whose highest score is at their label; the first wins a tie.

    Shapes: scores (batch, classes), labels (batch,).
    """
    _require_rows(scores, labels, "accuracy")
    return float(np.mean(scores.argmax(axis=1) == labels))


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


def wilson_interval(successes: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Bounds on a share of which ``successes`` of ``trials`` were seen.

    Source: Wilson 1927; Brown, Cai & DasGupta 2001, "Interval Estimation for a Binomial
    Proportion", equation 4.
    """
    if not 0 <= successes <= trials or trials == 0:
        raise DataError(f"wilson_interval: {successes} successes of {trials} trials")
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share = successes / trials
    centre = (share + z * z / (2 * trials)) / (1 + z * z / trials)
    spread = math.sqrt(share * (1 - share) / trials + z * z / (4 * trials**2))
    half = z * spread / (1 + z * z / trials)
    return max(0.0, centre - half), min(1.0, centre + half)


def _errors(predictions: Array, targets: Array, metric: str) -> Array:
    _require_rows(predictions, targets, metric)
    if predictions.shape != targets.shape:
        raise DataError(
            f"{metric}: predictions have shape {predictions.shape}, targets {targets.shape}"
        )
    return np.subtract(predictions, targets, dtype=np.float64)


def _require_rows(predictions: Array, targets: Array, metric: str) -> None:
    if len(predictions) != len(targets) or len(targets) == 0:
        raise DataError(f"{metric}: {len(predictions)} predictions for {len(targets)} targets")
