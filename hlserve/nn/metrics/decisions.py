"""Metrics of decisions: which class, or which labels, a row was given."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Literal

import numpy as np

from hlserve.errors import DataError
from hlserve.nn.metrics.rows import is_in_class, require_rows, require_same_shape
from hlserve.nn.param import Array

Average = Literal["binary", "macro", "micro"]


def accuracy(scores: Array, labels: Array) -> float:
    """Share of rows whose highest score is at their label; the first wins a tie.

    Shapes: scores (batch, classes), labels (batch,).
    """
    require_rows(scores, labels, "accuracy")
    return float(np.mean(scores.argmax(axis=1) == labels))


def label_accuracy(predicted: Array, labels: Array) -> float:
    """Share of all yes-or-no labels that were predicted right; one less the Hamming loss.

    Shapes: equal, (batch, labels) of 0 and 1.
    """
    require_same_shape(predicted, labels, "label_accuracy")
    return float(np.mean(predicted == labels))


def confusion_matrix(predicted: Array, labels: Array, n_classes: int) -> Array:
    """How often each class was taken for each: rows are true classes, columns predicted ones.

    Shapes: predicted and labels (batch,) integers -> (n_classes, n_classes) int64.

    Raises:
        DataError: no rows, or a class out of range.
    """
    require_same_shape(predicted, labels, "confusion_matrix")
    for classes in (predicted, labels):
        if classes.min() < 0 or classes.max() >= n_classes:
            raise DataError(
                f"confusion_matrix: classes lie in {classes.min()} to {classes.max()}, "
                f"expected 0 to {n_classes - 1}"
            )
    cells = labels.astype(np.int64) * n_classes + predicted
    return np.bincount(cells, minlength=n_classes**2).reshape(n_classes, n_classes)


def f1(predicted: Array, labels: Array, *, average: Average = "macro") -> float:
    """Harmonic mean of precision and recall, 2 TP / (2 TP + FP + FN).

    "binary" is that of class 1; "macro" the mean over the classes that occur among predictions
    or labels; "micro" counts hits and misses of all classes together. Where a class has neither
    hits nor misses its F1 is 0. As scikit-learn's ``f1_score``.

    Shapes: predicted and labels (batch,) classes, or (batch, labels) of 0 and 1.

    Raises:
        DataError: shapes disagree, no rows, or "binary" with other classes than 0 and 1.
    """
    require_same_shape(predicted, labels, "f1")
    if average == "binary" and (labels.ndim != 1 or max(predicted.max(), labels.max()) > 1):
        raise DataError('f1: average "binary" takes rows of class 0 or 1; take "macro" or "micro"')
    said, true = _by_class(predicted, labels)
    hits = np.sum(said & true, axis=0)
    misses = np.sum(said ^ true, axis=0)
    if average == "micro":
        hits, misses = hits.sum(keepdims=True), misses.sum(keepdims=True)
    elif average == "binary":
        hits, misses = hits[1:2], misses[1:2]
    elif labels.ndim == 1:
        occurs = hits + misses > 0
        hits, misses = hits[occurs], misses[occurs]
    shares = 2 * hits / np.maximum(2 * hits + misses, 1)
    return float(shares.mean()) if shares.size else 0.0


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


def _by_class(predicted: Array, labels: Array) -> tuple[Array, Array]:
    if labels.ndim != 1:
        return predicted.astype(np.bool_), labels.astype(np.bool_)
    n_classes = int(max(predicted.max(), labels.max())) + 1
    return is_in_class(predicted, n_classes, "f1"), is_in_class(labels, n_classes, "f1")
