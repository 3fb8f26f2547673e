"""What "as good as before" means: a value for every row, and its mean."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hlserve.errors import ConfigError, DataError
from hlserve.nn.param import Array

PerRow = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Metric:
    """A mean over rows.

    Attributes:
        name: as ``--metric`` takes it.
        higher_is_better: False for errors, where a drop means a rise.
        needs_labels: False where the original's own answers are what is compared with.
        limits: the smallest and largest value of one row; None where there is no such thing.
        is_share: whether the metric is a share of the rows, so that ``pp`` makes sense.
        per_row: (outputs, targets) -> one value a row. Outputs are (rows, ...); targets are the
            labels or, without labels, the original's outputs.
    """

    name: str
    higher_is_better: bool
    needs_labels: bool
    limits: tuple[float, float] | None
    is_share: bool
    per_row: Callable[[Array, Array], PerRow]

    def losses(self, before: PerRow, after: PerRow) -> PerRow:
        """How much worse every row got; its mean is the drop."""
        return before - after if self.higher_is_better else after - before


def top_class(outputs: Array) -> Array:
    """The class of every row or position.

    The last axis holds the classes. Integers are classes already; one single column is the
    probability of class 1.
    """
    if np.issubdtype(outputs.dtype, np.integer) or outputs.dtype == np.bool_:
        return outputs.astype(np.int64)
    if outputs.ndim == 1 or outputs.shape[-1] == 1:
        return (outputs.reshape(len(outputs), -1) > 0.5).astype(np.int64)
    return np.asarray(np.argmax(outputs, axis=-1))


def hold_marks(outputs: Array, labels: Array) -> bool:
    """Whether each output answers a yes-or-no label of its own: one probability a label."""
    return outputs.shape == labels.shape and np.issubdtype(outputs.dtype, np.floating)


def metric_named(name: str) -> Metric:
    """The metric of that name.

    Raises:
        ConfigError: there is none.
    """
    for metric in METRICS:
        if metric.name == name:
            return metric
    raise ConfigError(f"no metric {name!r}; there are {', '.join(m.name for m in METRICS)}")


def _accuracy(outputs: Array, labels: Array) -> PerRow:
    answers = outputs > 0.5 if hold_marks(outputs, labels) else top_class(outputs)
    classes = answers.reshape(len(outputs), -1)
    wanted = labels.reshape(len(labels), -1)
    if classes.shape != wanted.shape:
        raise DataError(
            f"accuracy compares {classes.shape[1]} answers a row with {wanted.shape[1]} labels a "
            f"row (output {outputs.shape}, labels {labels.shape})"
        )
    return _row_means(classes == wanted)


def _squared_error(outputs: Array, targets: Array) -> PerRow:
    return _row_means(np.square(_errors(outputs, targets)))


def _absolute_error(outputs: Array, targets: Array) -> PerRow:
    return _row_means(np.abs(_errors(outputs, targets)))


def _row_means(values: Array) -> PerRow:
    return np.asarray(np.mean(values, axis=1, dtype=np.float64))


def _errors(outputs: Array, targets: Array) -> PerRow:
    y = outputs.reshape(len(outputs), -1).astype(np.float64)
    t = targets.reshape(len(targets), -1).astype(np.float64)
    if y.shape != t.shape:
        raise DataError(f"the output has {y.shape[1]} numbers a row, the targets {t.shape[1]}")
    return y - t


def _agreement(outputs: Array, original: Array) -> PerRow:
    same = top_class(outputs) == top_class(original)
    return _row_means(same.reshape(len(outputs), -1))


def _label_agreement(outputs: Array, original: Array) -> PerRow:
    same = (outputs > 0.5) == (original > 0.5)
    return _row_means(same.reshape(len(outputs), -1))


def _cosine(outputs: Array, original: Array) -> PerRow:
    y = outputs.reshape(len(outputs), -1).astype(np.float64)
    t = original.reshape(len(original), -1).astype(np.float64)
    lengths = np.linalg.norm(y, axis=1) * np.linalg.norm(t, axis=1)
    both_zero = (np.linalg.norm(y, axis=1) == 0) & (np.linalg.norm(t, axis=1) == 0)
    cosine = np.sum(y * t, axis=1) / np.where(lengths == 0, 1.0, lengths)
    return np.asarray(np.where(both_zero, 1.0, np.clip(cosine, -1.0, 1.0)))


ACCURACY = Metric("accuracy", True, True, (0.0, 1.0), True, _accuracy)
MSE = Metric("mse", False, True, None, False, _squared_error)
MAE = Metric("mae", False, True, None, False, _absolute_error)
AGREEMENT = Metric("agreement", True, False, (0.0, 1.0), True, _agreement)
LABEL_AGREEMENT = Metric("label-agreement", True, False, (0.0, 1.0), True, _label_agreement)
COSINE = Metric("cosine", True, False, (-1.0, 1.0), False, _cosine)
METRICS = (ACCURACY, MSE, MAE, AGREEMENT, LABEL_AGREEMENT, COSINE)
