"""F1 and ROC AUC as one contribution a row: their mean is the metric, their spread its error.

Neither is a mean over rows, but both are to first order: a row contributes the metric and its
influence on it (Hampel 1974, Journal of the American Statistical Association 69:383), which is
zero on average. So what is known of means holds for them, also for the paired difference of two
models. For the ROC AUC these are the structural components of DeLong, DeLong & Clarke-Pearson
1988 (Biometrics 44:837, equations 3 to 6). Beside them stands what one row could do at most.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hlserve.nn.param import Array

PerRow = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Contributions:
    """A metric, row by row.

    Attributes:
        per_row: (rows,); the mean is the metric.
        row_cost: what a row that is answered wrongly may cost, times the rows: of F1 the most
            that it can, of ROC AUC what ranking it by lot costs, half of all its comparisons.
    """

    per_row: PerRow
    row_cost: float


def f1_of_classes(said: Array, true: Array, *, only: int | None = None) -> Contributions:
    """F1 of class ``only``, or its mean over the classes that occur among the labels.

    2 TP / (2 TP + FP + FN), a ratio of two means. A class that no row has is left out, also
    where it was predicted (``f1_score(..., labels=np.unique(true))`` of scikit-learn): else a
    single answer of such a class would take away a whole share of the mean.

    Shapes: said and true (rows, places) of class numbers.
    """
    n_classes = max(int(said.max()), int(true.max()), 1 if only is None else only) + 1
    is_hit = said == true
    hits = np.bincount(true[is_hit], minlength=n_classes)
    of_true = np.bincount(true.ravel(), minlength=n_classes)
    both = np.bincount(said.ravel(), minlength=n_classes) + of_true
    counts = of_true > 0 if only is None else np.arange(n_classes) == only
    f1 = 2 * hits / np.maximum(both, 1)
    weight = counts / (max(1, counts.sum()) * np.maximum(both, 1)) * true.size
    lost = f1 * weight
    influence = 2 * is_hit * weight[true] - lost[true] - lost[said]
    value = float(f1[counts].mean()) if counts.any() else 0.0
    row_cost = float(np.max(2 * weight - lost) + np.max(lost))
    return Contributions(value + influence.mean(axis=1), row_cost)


def f1_of_labels(said: Array, true: Array) -> Contributions:
    """The mean of the F1 of every yes-or-no label.

    A label that is neither set nor said counts 0, as in scikit-learn.

    Shapes: said and true (rows, labels) of bool.
    """
    n, n_labels = true.shape
    hits = np.sum(said & true, axis=0)
    both = np.sum(said, axis=0) + np.sum(true, axis=0)
    f1 = 2 * hits / np.maximum(both, 1)
    weight = n / np.maximum(both, 1) / n_labels
    influence = (2.0 * (said & true) - f1 * said - f1 * true) @ weight
    row_cost = float(np.sum((2 - f1) * weight))
    return Contributions(np.asarray(f1.mean() + influence), row_cost)


def roc_auc(scores: Array, is_in: Array) -> Contributions | None:
    """The mean over the columns of the chance that a row inside scores above one outside.

    A tie counts a half. A column with no row inside, or none outside, is left out; None where
    all are.

    Shapes: scores and is_in (rows, columns).
    """
    n = len(is_in)
    inside = is_in.sum(axis=0)
    told = np.flatnonzero((inside > 0) & (inside < n))
    if not told.size:
        return None
    per_row = np.zeros(n)
    cost = np.zeros(n)
    for column in told:
        members = is_in[:, column]
        per_row += _auc_of_column(scores[:, column], members)
        cost += np.where(members, n / inside[column], n / (n - inside[column]))
    # Rows that rank lowest of all cost the whole, but they are not all in the rarest class; with
    # half of it bounds cover those too, by simulation (tests/compress/test_metrics.py).
    return Contributions(per_row / told.size, float(cost.max()) / told.size / 2)


# ----- below


def _auc_of_column(scores: Array, members: Array) -> PerRow:
    n, n_in = len(members), int(members.sum())
    inside, outside = np.sort(scores[members]), np.sort(scores[~members])
    above = _share_below(outside, scores[members])
    below = 1 - _share_below(inside, scores[~members])
    auc = float(above.mean())
    per_row = np.empty(n)
    per_row[members] = auc + (above - auc) * (n / n_in)
    per_row[~members] = auc + (below - auc) * (n / (n - n_in))
    return per_row


def _share_below(others: Array, scores: Array) -> PerRow:
    """The share of the sorted ``others`` below each score, ties counted by half."""
    lower = np.searchsorted(others, scores, side="left")
    upper = np.searchsorted(others, scores, side="right")
    return np.asarray((lower + upper) / (2 * len(others)))
