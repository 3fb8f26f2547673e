"""Metrics of order: whether rows of a class score above the others, wherever one cuts."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from hlserve.errors import DataError
from hlserve.nn.metrics.rows import is_in_class, require_rows
from hlserve.nn.param import Array


def roc_auc(scores: Array, labels: Array) -> float:
    """The chance that a row of the class scores above one that is not; a tie counts a half.

    Two classes: of class 1. More: the mean over classes, each against all others, for which
    rows must be comparable, so give probabilities. Several labels a row: the mean over labels.
    A class that no row has, or every row has, tells nothing and is left out; nan where none is
    left. As scikit-learn's ``roc_auc_score(multi_class="ovr")``, which refuses absent classes.

    Shapes: scores (batch,) with labels (batch,) of 0 and 1; (batch, classes) with labels
    (batch,); (batch, labels) with labels (batch, labels) of 0 and 1.

    Source: Hanley & McNeil 1982, by the ranks of Mann & Whitney.

    Raises:
        DataError: shapes disagree, or no rows.
    """
    return _mean_over_classes(scores, labels, "roc_auc", _binary_roc_auc)


def average_precision(scores: Array, labels: Array) -> float:
    """Precision averaged over the steps in recall, from the highest score down.

    Classes, labels and shapes as in ``roc_auc``. As scikit-learn's
    ``average_precision_score``: sum over distinct scores of (R_n - R_(n-1)) P_n.

    Raises:
        DataError: shapes disagree, or no rows.
    """
    return _mean_over_classes(scores, labels, "average_precision", _binary_average_precision)


def _mean_over_classes(
    scores: Array, labels: Array, metric: str, binary: Callable[[Array, Array], float]
) -> float:
    require_rows(scores, labels, metric)
    if scores.ndim == 2 and scores.shape[1] == 2 and labels.ndim == 1:
        scores = scores[:, 1] - scores[:, 0]  # orders rows as class 1's softmax share does
    if scores.ndim == 1:
        return binary(scores, is_in_class(labels, 2, metric)[:, 1])
    is_in = is_in_class(labels, scores.shape[1], metric) if labels.ndim == 1 else labels != 0
    if is_in.shape != scores.shape:
        raise DataError(f"{metric}: scores have shape {scores.shape}, labels {labels.shape}")
    each = [binary(s, c) for s, c in zip(scores.T, is_in.T, strict=True)]
    told = [value for value in each if not math.isnan(value)]
    return float(np.mean(told)) if told else math.nan


def _binary_roc_auc(scores: Array, is_in: Array) -> float:
    inside = int(np.count_nonzero(is_in))
    outside = is_in.size - inside
    if inside == 0 or outside == 0:
        return math.nan
    _, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    # Rows of one score share the middle of their ranks, counted from 1.
    ranks = np.cumsum(counts) - (counts - 1) / 2
    above = float(ranks[place][is_in].sum()) - inside * (inside + 1) / 2
    return above / (inside * outside)


def _binary_average_precision(scores: Array, is_in: Array) -> float:
    inside = int(np.count_nonzero(is_in))
    if inside == 0 or inside == is_in.size:
        return math.nan
    _, place, counts = np.unique(-scores, return_inverse=True, return_counts=True)
    hits = np.bincount(place, weights=is_in)
    precision = np.cumsum(hits) / np.cumsum(counts)
    return float(np.sum(hits * precision) / inside)
