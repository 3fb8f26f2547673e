"""What compression did to every class: a good mean may hide one class that pays for it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from hlserve.errors import DataError
from hlserve.nn.param import Array

SIGNIFICANCE = 0.05
LARGE_FALL, LEAST_ROWS = 0.05, 3  # a fall worth a word where chance cannot be ruled out
MOST_IN_MATRIX = 200  # classes: a matrix of more is megabytes that nobody reads


def class_changes(
    truth: Array, before: Array, after: Array, labels: Sequence[str], *, max_drop: float = 0.0
) -> dict[str, Any]:
    """The part "classes" of a report: matrices, the change of every class, warnings.

    Every class is tested by itself, on the rows that are truly of it: McNemar's exact test (the
    sign test of the rows whose answer turned from right to wrong or back; McNemar 1947,
    Psychometrika 12:153), two-sided, then Holm's correction for as many tests as there are
    classes with rows (1979, Scandinavian Journal of Statistics 6:65).

    Args:
        truth: (rows,) class indices.
        before: (rows,) the original's answers.
        after: (rows,) the compressed model's answers.
        labels: what the classes are called, by index.
        max_drop: the drop of the whole that is allowed; a proven fall of a class up to it is
            none to warn of.

    Raises:
        DataError: lengths differ, or an index has no label.
    """
    _require_classes(truth, before, after, len(labels))
    of_class = [truth == i for i in range(len(labels))]
    right_before, right_after = before == truth, after == truth
    worse = [int(np.sum(rows & right_before & ~right_after)) for rows in of_class]
    better = [int(np.sum(rows & ~right_before & right_after)) for rows in of_class]
    filled = [i for i, rows in enumerate(of_class) if rows.any()]
    raw = [sign_test(worse[i], better[i]) for i in filled]
    corrected: dict[int, float] = dict(zip(filled, holm(raw), strict=True))
    changes = [
        {
            "label": labels[i],
            "rows": int(np.sum(of_class[i])),
            "original": float(np.mean(right_before[of_class[i]])),
            "best": float(np.mean(right_after[of_class[i]])),
            "worse": worse[i],
            "better": better[i],
            "p": corrected[i],
        }
        for i in filled
    ]
    silent = _silent(before, after, labels)
    told: dict[str, Any] = {"labels": list(labels), "changes": changes}
    if len(labels) <= MOST_IN_MATRIX:
        told["original"] = confusion_matrix(truth, before, len(labels))
        told["best"] = confusion_matrix(truth, after, len(labels))
    falls = [_warning(i, c, max_drop) for i, c in zip(filled, changes, strict=True)]
    return told | {"warnings": [w for w in falls if w] + silent}


def confusion_matrix(truth: Array, answers: Array, n_classes: int) -> list[list[int]]:
    """Rows of class i (outer) that were taken for class j (inner)."""
    index = truth.astype(np.int64) * n_classes + answers.astype(np.int64)
    counts = np.bincount(index, minlength=n_classes**2)
    return [[int(c) for c in row] for row in counts.reshape(n_classes, n_classes)]


def sign_test(worse: int, better: int) -> float:
    """The chance that fair coins fall so unevenly or more; two-sided, exact."""
    n = worse + better
    k = np.arange(min(worse, better) + 1)
    logs = [math.lgamma(n + 1) - math.lgamma(i + 1) - math.lgamma(n - i + 1) for i in k]
    tail = float(np.sum(np.exp(np.array(logs) - n * math.log(2))))
    return min(1.0, 2 * tail)


def holm(p_values: Sequence[float]) -> list[float]:
    """Corrected p-values: below 0.05 where the family's error stays below 0.05."""
    corrected, largest = [1.0] * len(p_values), 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        corrected[i] = largest
    return corrected


# ----- below


def _require_classes(truth: Array, before: Array, after: Array, n_classes: int) -> None:
    for name, values in (("truth", truth), ("before", before), ("after", after)):
        if values.shape != truth.shape or values.ndim != 1:
            raise DataError(
                f"changes by class: {name} has shape {values.shape}, expected one class a row "
                f"for each of {len(truth)} rows"
            )
        if len(values) and not (values.min() >= 0 and values.max() < n_classes):
            raise DataError(
                f"changes by class: {name} holds classes {values.min()} to {values.max()}, "
                f"expected 0 to {n_classes - 1}: give a label for every class"
            )


def _warning(index: int, change: dict[str, Any], max_drop: float) -> str | None:
    """What to say of a class; None where there is nothing to say."""
    fall = change["original"] - change["best"]
    lost = change["worse"] - change["better"]
    is_proven = change["p"] < SIGNIFICANCE
    if not (is_proven and fall > max_drop) and not (fall >= LARGE_FALL and lost >= LEAST_ROWS):
        return None
    how = "proven" if is_proven else "not proven"
    return (
        f"{_name(index, change['label'])} falls from {100 * change['original']:.1f} % "
        f"to {100 * change['best']:.1f} % "
        f"({how}, p = {change['p']:.2g}; {change['rows']:,} rows, {change['worse']:,} got worse, "
        f"{change['better']:,} better)"
    )


def _silent(before: Array, after: Array, labels: Sequence[str]) -> list[str]:
    """Classes that are not answered any more."""
    was = np.bincount(before.astype(np.int64), minlength=len(labels))
    now = np.bincount(after.astype(np.int64), minlength=len(labels))
    return [
        f"{_name(i, label)} is never answered any more (the original answers it "
        f"{int(was[i]):,} times)"
        for i, label in enumerate(labels)
        if was[i] > 0 and now[i] == 0
    ]


def _name(index: int, label: str) -> str:
    return f"class {index}" + (f" ({label})" if label != str(index) else "")
