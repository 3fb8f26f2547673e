"""What predictions came to: confusion, scores by class, calibration, residuals, worst rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hlserve.report.intervals import share_interval
from hlserve.report.learning import (
    Calibration,
    ClassScore,
    Confusion,
    Interval,
    Regression,
    ReliabilityBin,
)

MOST_PAIRS = 10
MOST_POINTS = 1000  # of a scatter plot: more neither shows more nor loads fast
N_BINS = 10

Labels = NDArray[np.int64]
Values = NDArray[Any]


def confusion(truth: Labels, predicted: Labels, labels: Sequence[str]) -> Confusion:
    """Counts of every pair; ``truth`` and ``predicted`` are (rows,)."""
    n = len(labels)
    counts = np.bincount(truth * n + predicted, minlength=n * n).reshape(n, n)
    return Confusion(tuple(labels), tuple(tuple(int(c) for c in row) for row in counts))


def most_confused(matrix: Confusion, limit: int = MOST_PAIRS) -> list[tuple[str, str, int]]:
    """(true class, taken for, rows), most frequent first; only pairs that happened."""
    pairs = [
        (count, i, j)
        for i, row in enumerate(matrix.counts)
        for j, count in enumerate(row)
        if i != j and count
    ]
    pairs.sort(key=lambda pair: (-pair[0], pair[1], pair[2]))
    return [(matrix.labels[i], matrix.labels[j], count) for count, i, j in pairs[:limit]]


def class_scores(matrix: Confusion) -> tuple[ClassScore, ...]:
    """Precision, recall and F1 of every class."""
    counts = np.array(matrix.counts, np.int64)
    return tuple(
        _class_score(label, int(counts[i, i]), int(counts[:, i].sum()), int(counts[i].sum()))
        for i, label in enumerate(matrix.labels)
    )


def label_scores(
    truth: Values, probabilities: Values, labels: Sequence[str]
) -> tuple[ClassScore, ...]:
    """The same for 0/1 targets, (rows, labels); predicted where the probability is over 1/2."""
    is_true, is_told = truth > 0.5, probabilities > 0.5
    hits, told, true = (is_true & is_told).sum(0), is_told.sum(0), is_true.sum(0)
    return tuple(
        _class_score(label, int(hits[i]), int(told[i]), int(true[i]))
        for i, label in enumerate(labels)
    )


def calibration(confidence: Values, came_true: Values) -> Calibration:
    """How often what was stated with some probability came true.

    Args:
        confidence: (n,) probabilities: of the top class, or of each label.
        came_true: (n,) whether it was so.

    Source of the expected error: Naeini et al. 2015, AAAI; Guo et al. 2017, arXiv:1706.04599,
    equation 5, with ten bins of equal width.
    """
    which = np.minimum((confidence * N_BINS).astype(np.int64), N_BINS - 1)
    bins, error = [], 0.0
    for b in range(N_BINS):
        inside = which == b
        rows = int(inside.sum())
        if not rows:
            bins.append(ReliabilityBin(b / N_BINS, (b + 1) / N_BINS, 0, None, None))
            continue
        stated, hits = float(confidence[inside].mean()), int(came_true[inside].sum())
        rate = share_interval(hits, rows)
        error += rows / len(confidence) * abs(stated - rate.estimate)
        bins.append(ReliabilityBin(b / N_BINS, (b + 1) / N_BINS, rows, stated, rate))
    return Calibration(tuple(bins), error)


def regression(targets: Values, predictions: Values, output: str) -> Regression:
    """One output's predictions, (rows,), with a sample of at most 1,000 rows, evenly spaced."""
    picks = np.unique(np.linspace(0, len(targets) - 1, MOST_POINTS).astype(np.int64))
    residual = predictions.astype(np.float64) - targets
    variance = float(np.var(targets, dtype=np.float64))
    return Regression(
        output=output,
        targets=tuple(float(v) for v in targets[picks]),
        predictions=tuple(float(v) for v in predictions[picks]),
        r2=1 - float(np.mean(residual**2)) / variance if variance > 0 else None,
        bias=float(np.mean(residual)),
    )


def worst_rows(losses: NDArray[np.float64], limit: int) -> list[int]:
    """Positions of the highest losses, highest first; earlier rows first among equals."""
    order = np.argsort(-losses, kind="stable")[:limit]
    return [int(i) for i in order]


def _class_score(label: str, hits: int, told: int, true: int) -> ClassScore:
    return ClassScore(
        label=label,
        rows=true,
        precision=hits / told if told else None,
        recall=hits / true if true else None,
        f1=2 * hits / (told + true) if told + true else None,
    )


def accuracy_interval(is_right: Values) -> Interval:
    """The share of rows that are right, with Wilson's interval."""
    return share_interval(int(is_right.sum()), len(is_right))
