"""How a network does on rows with known targets."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import final

import numpy as np

from hlserve.errors import ConfigError
from hlserve.nn import metrics
from hlserve.nn.examples import Examples
from hlserve.nn.losses import (
    LABELS,
    WEIGHTS,
    BinaryCrossEntropy,
    CrossEntropy,
    Loss,
    MeanSquaredError,
    Targets,
    total_weight,
)
from hlserve.nn.network import Network, Task
from hlserve.nn.param import Array
from hlserve.nn.split import Indices
from hlserve.nn.workspace import Workspace

Rows = Array | Mapping[str, Array]

EVALUATION_BATCH = 256  # rows at a time: fast enough, and buffers stay near those of training


@final
@dataclass(frozen=True, slots=True)
class Evaluation:
    """How a network does on some rows, as in prediction.

    Attributes:
        n_rows: how many rows.
        loss: mean over the rows, weighted as the loss weighs them.
        metric: over the rows, each counted alike; None where the task has none.
    """

    n_rows: int
    loss: float
    metric: float | None


@final
@dataclass(frozen=True, slots=True)
class Metric:
    """What says how good a network is, in the terms of a user.

    Attributes:
        name: what it is called.
        tasks: those whose targets it compares with.
        is_larger_better: False for errors.
        is_mean: whether it is a mean over the rows, so that batches can be taken one by one.
        function: of batch-first scores, (batch, outputs) as the loss sees them, and targets.
    """

    name: str
    tasks: tuple[Task, ...]
    is_larger_better: bool
    is_mean: bool
    function: Callable[[Array, Array], float]


def evaluate(
    network: Network,
    rows: Rows,
    targets: Targets,
    *,
    loss: Loss | None = None,
    indices: Indices | None = None,
    metric: str | None = None,
) -> Evaluation:
    """Loss and metric over the rows, or those at ``indices``; ``loss``, ``metric`` as in ``fit``.

    Raises:
        DataError: rows or targets do not fit the network.
        ConfigError: the metric is unknown, or of another task.
    """
    examples = Examples.checked(network, rows, targets)
    part = Part(examples, np.arange(len(examples)) if indices is None else indices)
    used = loss or default_loss(network, part)
    return evaluate_part(network, part, used, network.workspace(), Workspace(), metric=metric)


@dataclass(frozen=True, slots=True)
class Part:
    """Some rows of a set, by index; the rows themselves are not copied."""

    examples: Examples
    indices: Indices

    def __len__(self) -> int:
        return len(self.indices)


def evaluate_part(
    network: Network,
    part: Part,
    loss: Loss,
    workspace: Workspace,
    buffers: Workspace,
    *,
    metric: str | None = None,
) -> Evaluation:
    """Loss and metric over the part, in buffers that may be those of training."""
    judge = _Judge(metric_of(network, part.examples, metric), part)
    total, counted = 0.0, 0.0
    for start in range(0, len(part), EVALUATION_BATCH):
        batch = part.indices[start : start + EVALUATION_BATCH]
        inputs, targets = part.examples.take(batch, buffers)
        scores, _ = network.forward(inputs, workspace=workspace, until=network.logits_node)
        weight = total_weight(loss, targets, len(batch))
        total += loss(scores, targets)[0] * weight
        counted += weight
        judge.look_at(scores, start, batch)
    # Rows that all weigh nothing cost nothing.
    return Evaluation(n_rows=len(part), loss=total / (counted or 1.0), metric=judge.verdict())


def metric_of(network: Network, examples: Examples, name: str | None = None) -> Metric | None:
    """The metric of that name, else the task's own; None where there is nothing to compare.

    The task's own is accuracy for classification, the macro F1 for several labels (most labels
    are unset as a rule, so that saying no to all is accurate and useless), and the mean
    absolute error for numbers.

    Raises:
        ConfigError: the name is unknown, or the metric does not fit the task or the targets.
    """
    wanted = examples.only_targets
    fitting = [m for m in METRICS if network.task in m.tasks]
    is_comparable = wanted is not None and _can_compare(network, wanted)
    if name is None:
        return fitting[0] if fitting and is_comparable else None
    spoken = name.replace("_", " ").replace("-", " ")
    for metric in fitting:
        if metric.name == spoken and is_comparable:
            return metric
    if not is_comparable:
        raise ConfigError(f"metric {name!r}: the targets are not what the network answers")
    known = ", ".join(m.name for m in fitting)
    raise ConfigError(f"no metric {name!r} for {network.task}; there are {known}")


def default_loss(network: Network, part: Part) -> Loss:
    """What the task makes small; for regression, errors count in the part's own deviations.

    Raises:
        ConfigError: the network has no task, or its targets are named otherwise than "labels"
            and "weights".
    """
    targets, wanted = part.examples.targets, part.examples.only_targets
    if wanted is not None and not (
        isinstance(targets, Mapping) and targets.keys() - {LABELS, WEIGHTS}
    ):
        if network.task == "classification":
            return CrossEntropy()
        if network.task == "multilabel":
            return BinaryCrossEntropy()
        if network.task == "regression":
            spread = wanted[part.indices].std(axis=0, dtype=np.float64)
            return MeanSquaredError(scale=np.where(spread > 0, spread, 1.0))
    raise ConfigError("say which loss: the network's task and targets do not tell")


# ----- below


class _Judge:
    """Gathers what a metric needs, batch by batch."""

    def __init__(self, metric: Metric | None, part: Part) -> None:
        self._metric = metric
        self._wanted = part.examples.only_targets
        self._part = part
        self._total = 0.0
        self._scores: Array | None = None

    def look_at(self, scores: Array, start: int, batch: Indices) -> None:
        """Takes the scores of the part's rows from ``start`` on, (outputs, batch)."""
        if self._metric is None or self._wanted is None:
            return
        if self._metric.is_mean:
            self._total += self._metric.function(scores.T, self._wanted[batch]) * len(batch)
            return
        if self._scores is None:
            self._scores = np.empty((len(self._part), len(scores)), scores.dtype)
        self._scores[start : start + len(batch)] = scores.T

    def verdict(self) -> float | None:
        """The metric over all rows; None where there is none."""
        if self._metric is None or self._wanted is None:
            return None
        if self._scores is None:
            return self._total / len(self._part)
        return self._metric.function(self._scores, self._wanted[self._part.indices])


def _can_compare(network: Network, wanted: Array) -> bool:
    if network.task == "classification":
        return wanted.ndim == 1
    return wanted.shape[1:] == network.shapes[network.logits_node]


def _softmax(scores: Array) -> Array:
    shares = np.exp(scores - scores.max(axis=1, keepdims=True))
    return np.asarray(shares / shares.sum(axis=1, keepdims=True))


def _label_accuracy(scores: Array, labels: Array) -> float:
    return metrics.label_accuracy(scores > 0, labels != 0)


def _f1(scores: Array, labels: Array) -> float:
    return metrics.f1(scores.argmax(axis=1), labels)


def _f1_of_labels(scores: Array, labels: Array) -> float:
    return metrics.f1(scores > 0, labels != 0)


def _roc_auc(scores: Array, labels: Array) -> float:
    return metrics.roc_auc(_softmax(scores) if scores.shape[1] > 2 else scores, labels)


def _average_precision(scores: Array, labels: Array) -> float:
    return metrics.average_precision(_softmax(scores) if scores.shape[1] > 2 else scores, labels)


def _log_loss(scores: Array, labels: Array) -> float:
    return metrics.log_loss(_softmax(scores), labels)


def _brier(scores: Array, labels: Array) -> float:
    return metrics.brier(_softmax(scores), labels)


def _calibration_error(scores: Array, labels: Array) -> float:
    return metrics.expected_calibration_error(_softmax(scores), labels)


# The first of a task is its own, where none is asked for.
METRICS = (
    Metric("accuracy", ("classification",), True, True, metrics.accuracy),
    Metric("f1", ("classification",), True, False, _f1),
    Metric("f1", ("multilabel",), True, False, _f1_of_labels),
    Metric("accuracy", ("multilabel",), True, True, _label_accuracy),
    Metric("roc auc", ("classification",), True, False, _roc_auc),
    Metric("roc auc", ("multilabel",), True, False, metrics.roc_auc),
    Metric("average precision", ("classification",), True, False, _average_precision),
    Metric("average precision", ("multilabel",), True, False, metrics.average_precision),
    Metric("log loss", ("classification",), False, True, _log_loss),
    Metric("brier", ("classification",), False, True, _brier),
    Metric("calibration error", ("classification",), False, False, _calibration_error),
    Metric("mean absolute error", ("regression",), False, True, metrics.mean_absolute_error),
    Metric("mean squared error", ("regression",), False, True, metrics.mean_squared_error),
    Metric("r2", ("regression",), True, False, metrics.r2),
)
