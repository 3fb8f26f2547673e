"""What "as good as before" means: a value for all rows, and where there is one, one a row."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from compress import contributions
from compress.contributions import Contributions
from compress.contributions import PerRow as PerRow
from compress.user_metric import is_user_metric, load_user_metric
from hlserve.errors import ConfigError, DataError
from hlserve.nn.param import Array


@dataclass(frozen=True, slots=True)
class Metric:
    """A mean over rows, or a number of all rows at once.

    Attributes:
        name: as ``--metric`` takes it.
        higher_is_better: False for errors, where a drop means a rise.
        needs_labels: False where the original's own answers are what is compared with.
        limits: the smallest and largest value; None where there is no such thing.
        is_share: whether the metric is a share, so that ``pp`` makes sense.
        per_row: (outputs, targets) -> one value a row, whose mean is the metric. Outputs are
            (rows, ...); targets are the labels or, without labels, the original's outputs.
        row_cost: (outputs, targets) -> what one spoilt row may cost, times the rows; for those
            that are means to first order alone, see ``Contributions``.
        whole: (outputs, targets) -> the metric over all of them, where it has no value a row;
            ``per_row`` then raises.
        is_of_classes: whether labels are class numbers, or yes-or-no marks.
    """

    name: str
    higher_is_better: bool
    needs_labels: bool
    limits: tuple[float, float] | None
    is_share: bool
    per_row: Callable[[Array, Array], PerRow]
    row_cost: Callable[[Array, Array], float] | None = None
    whole: Callable[[Array, Array], float] | None = None
    is_of_classes: bool = False

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
    """The metric of that name; ``module:function`` imports the user's own.

    Raises:
        ConfigError: there is none, or the function cannot be imported.
    """
    if is_user_metric(name):
        return _of_user(name)
    for metric in METRICS:
        if metric.name == name.replace("-", "_") or metric.name == name:
            return metric
    known = ", ".join(m.name for m in METRICS)
    raise ConfigError(f"no metric {name!r}; there are {known}, and your own module:function")


# ----- below


def _of_user(name: str) -> Metric:
    function = load_user_metric(name)

    def no_rows(outputs: Array, targets: Array) -> PerRow:
        raise ConfigError(f"--metric {name} is a number of all rows at once, with no value a row")

    return Metric(name, function.higher_is_better, True, None, False, no_rows, None, whole=function)


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


def _f1(outputs: Array, labels: Array) -> Contributions:
    if hold_marks(outputs, labels):
        n = len(labels)
        said, true = outputs.reshape(n, -1) > 0.5, labels.reshape(n, -1) != 0
        return contributions.f1_of_labels(said, true)
    said = top_class(outputs).reshape(len(outputs), -1)
    true = labels.reshape(len(labels), -1).astype(np.int64)
    if said.shape != true.shape:
        raise DataError(
            f"f1 compares {said.shape[1]} answers a row with {true.shape[1]} labels a row "
            f"(output {outputs.shape}, labels {labels.shape})"
        )
    is_binary = _n_classes(outputs, labels) == 2
    return contributions.f1_of_classes(said, true, only=1 if is_binary else None)


def _n_classes(outputs: Array, labels: Array) -> int:
    """How many classes the outputs tell apart; where they are classes, as far as can be seen."""
    if np.issubdtype(outputs.dtype, np.integer) or outputs.dtype == np.bool_:
        return max(2, int(outputs.max(initial=0)) + 1, int(labels.max(initial=0)) + 1)
    return 2 if outputs.ndim == 1 else max(2, outputs.shape[-1])


def _roc_auc(outputs: Array, labels: Array) -> Contributions:
    if not np.issubdtype(outputs.dtype, np.floating):
        raise DataError(
            f"roc_auc ranks rows by their scores, and the output holds {outputs.dtype}; "
            "name the output of the probabilities with --output"
        )
    if hold_marks(outputs, labels) and outputs.ndim == 2 and outputs.shape[1] > 1:
        scores, is_in = outputs, labels != 0
    else:
        scores = _class_scores(outputs, labels)
        classes = np.arange(scores.shape[1]) if scores.shape[1] > 1 else np.array([1])
        is_in = labels.reshape(-1, 1) == classes
    found = contributions.roc_auc(scores, is_in)
    if found is None:
        raise DataError("roc_auc needs rows of two classes at least; all labels are alike")
    return found


def _class_scores(outputs: Array, labels: Array) -> Array:
    """(rows, 1) of class 1 against class 0, or (rows, classes) of probabilities."""
    scores = outputs.reshape(len(outputs), -1) if outputs.ndim < 3 else outputs
    if scores.ndim != 2 or labels.size != len(labels):
        raise DataError(
            f"roc_auc takes one row of class scores and one label a row; the output has shape "
            f"{outputs.shape}, the labels {labels.shape}"
        )
    if scores.shape[1] == 2:
        return scores[:, 1:].astype(np.float64) - scores[:, :1]  # ordered as softmax would
    if scores.shape[1] == 1 or _are_probabilities(scores):
        return scores
    wide = scores.astype(np.float64)
    raised = np.exp(wide - wide.max(axis=1, keepdims=True))
    return np.asarray(raised / raised.sum(axis=1, keepdims=True))


def _are_probabilities(scores: Array) -> bool:
    # float16 and int8 outputs round every one of many probabilities.
    sums = scores.sum(axis=1, dtype=np.float64)
    return bool(scores.min() >= 0 and np.all(np.abs(sums - 1) < 0.05))


def _f1_per_row(outputs: Array, labels: Array) -> PerRow:
    return _f1(outputs, labels).per_row


def _f1_row_cost(outputs: Array, labels: Array) -> float:
    return _f1(outputs, labels).row_cost


def _roc_auc_per_row(outputs: Array, labels: Array) -> PerRow:
    return _roc_auc(outputs, labels).per_row


def _roc_auc_row_cost(outputs: Array, labels: Array) -> float:
    return _roc_auc(outputs, labels).row_cost


ACCURACY = Metric("accuracy", True, True, (0.0, 1.0), True, _accuracy, is_of_classes=True)
F1 = Metric(
    "f1", True, True, (0.0, 1.0), True, _f1_per_row, row_cost=_f1_row_cost, is_of_classes=True
)
ROC_AUC = Metric(
    "roc_auc",
    True,
    True,
    (0.0, 1.0),
    True,
    _roc_auc_per_row,
    row_cost=_roc_auc_row_cost,
    is_of_classes=True,
)
MSE = Metric("mse", False, True, None, False, _squared_error)
MAE = Metric("mae", False, True, None, False, _absolute_error)
AGREEMENT = Metric("agreement", True, False, (0.0, 1.0), True, _agreement)
LABEL_AGREEMENT = Metric("label-agreement", True, False, (0.0, 1.0), True, _label_agreement)
COSINE = Metric("cosine", True, False, (-1.0, 1.0), False, _cosine)
METRICS = (ACCURACY, F1, ROC_AUC, MSE, MAE, AGREEMENT, LABEL_AGREEMENT, COSINE)
