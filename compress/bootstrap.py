"""Bounds of a metric that is a number of all rows at once, by answering resampled rows.

Rows are drawn with replacement, original and candidate getting the same ones, and every class of
labels as often as it occurs, so that no resample lacks one (Efron & Tibshirani 1993, chapters 6
and 8). The bootstrap knows nothing of what it has not seen: where no answer changed it sees no
spread at all. So the bound of a drop is that of a candidate some of whose answers were spoilt.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from hlserve.nn.param import Array

Function = Callable[[Array, Array], float]

RESAMPLES = 400  # a standard error of them is known to within 3.5 %
INTERVAL_RESAMPLES = 1000  # 25 beyond either end of a 95 % interval
MOST_CLASSES = 1000  # more different labels than this are no classes to keep in proportion
_SPOILINGS = 8  # ways to spoil that are tried; the worst counts


def drop_bound(
    function: Function,
    before: Array,
    after: Array,
    targets: Array,
    *,
    sign: float,
    confidence: float,
    seed: int = 0,
) -> float:
    """The one-sided upper bound of ``sign * (function(before) - function(after))``.

    The normal quantile times the standard error of the paired drop, from the drop of a candidate
    that answers z^2 / 2 more rows wrongly (at 95 %: two), as Wilson's interval moves its centre.

    Args:
        function: (outputs, targets) -> the metric.
        before: the original's answers, (rows, ...).
        after: the candidate's.
        targets: (rows, ...).
        sign: 1 where higher is better, -1 for errors.
        confidence: of the bound.
        seed: of the resamples.
    """
    n = len(targets)
    z = NormalDist().inv_cdf(confidence)
    n_spoilt = math.ceil(z * z / 2)
    if n <= n_spoilt:
        return math.inf
    rng = np.random.default_rng(seed)
    spoilt = _spoilt(function, after, targets, n_spoilt, sign, rng)
    drops = [
        sign * (function(before[rows], targets[rows]) - function(spoilt[rows], targets[rows]))
        for rows in _resamples(targets, RESAMPLES, rng)
    ]
    centre = sign * (function(before, targets) - function(spoilt, targets))
    return centre + z * float(np.std(drops, ddof=1))


def interval(
    function: Function, answers: Array, targets: Array, *, confidence: float, seed: int = 0
) -> tuple[float, float]:
    """The two-sided percentile interval of the metric; infinite for fewer than two rows."""
    if len(targets) < 2:
        return -math.inf, math.inf
    rng = np.random.default_rng(seed)
    values = [
        function(answers[rows], targets[rows])
        for rows in _resamples(targets, INTERVAL_RESAMPLES, rng)
    ]
    low, high = np.quantile(values, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


# ----- below


def _resamples(
    targets: Array, n_resamples: int, rng: np.random.Generator
) -> Iterator[NDArray[np.int64]]:
    """Row numbers, as many as there are rows, from each class as many as it has."""
    order, starts, sizes = _strata(targets)
    for _ in range(n_resamples):
        yield order[starts + (rng.random(len(order)) * sizes).astype(np.int64)]


def _strata(targets: Array) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Rows sorted by class; for each, where its class begins and how many rows that has."""
    n = len(targets)
    is_classes = targets.ndim == 1 and targets.dtype.kind in "iub"
    classes = np.unique(targets) if is_classes else targets[:0]
    if not 0 < len(classes) <= min(MOST_CLASSES, n // 2):
        return np.arange(n), np.zeros(n, np.int64), np.full(n, n)
    order = np.argsort(targets, kind="stable")
    counts = np.unique(targets, return_counts=True)[1]
    starts = np.cumsum(counts) - counts
    return order, np.repeat(starts, counts), np.repeat(counts, counts)


def _spoilt(
    function: Function,
    answers: Array,
    targets: Array,
    n_spoilt: int,
    sign: float,
    rng: np.random.Generator,
) -> Array:
    """The answers, some of them replaced by those of other rows; the worst of several ways."""
    worst, worst_value = answers, sign * function(answers, targets)
    for _ in range(_SPOILINGS):
        changed = answers.copy()
        rows = rng.permutation(len(answers))[:n_spoilt]
        changed[rows] = answers[rng.integers(0, len(answers), n_spoilt)]
        value = sign * function(changed, targets)
        if value < worst_value:
            worst, worst_value = changed, value
    return worst
