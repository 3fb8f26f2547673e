"""How a network does on rows with known targets."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import final

import numpy as np

from hlserve.errors import ConfigError
from hlserve.nn.examples import Examples
from hlserve.nn.losses import CrossEntropy, Loss, MeanSquaredError, Targets
from hlserve.nn.metrics import accuracy, mean_absolute_error
from hlserve.nn.network import Network
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
        loss: mean over the rows.
        metric: mean over the rows; None where the task has none.
    """

    n_rows: int
    loss: float
    metric: float | None


def evaluate(
    network: Network,
    rows: Rows,
    targets: Targets,
    *,
    loss: Loss | None = None,
    indices: Indices | None = None,
) -> Evaluation:
    """Loss and metric over the rows, or those at ``indices``; ``loss`` as in ``fit``.

    Raises:
        DataError: rows or targets do not fit the network.
    """
    examples = Examples.checked(network, rows, targets)
    part = Part(examples, np.arange(len(examples)) if indices is None else indices)
    used = loss or default_loss(network, part)
    return evaluate_part(network, part, used, network.workspace(), Workspace())


@dataclass(frozen=True, slots=True)
class Part:
    """Some rows of a set, by index; the rows themselves are not copied."""

    examples: Examples
    indices: Indices

    def __len__(self) -> int:
        return len(self.indices)


def evaluate_part(
    network: Network, part: Part, loss: Loss, workspace: Workspace, buffers: Workspace
) -> Evaluation:
    """Loss and metric over the part, in buffers that may be those of training."""
    _, metric = metric_of(network, part.examples)
    total_loss, total_metric = 0.0, 0.0
    for start in range(0, len(part), EVALUATION_BATCH):
        batch = part.indices[start : start + EVALUATION_BATCH]
        inputs, targets = part.examples.take(batch, buffers)
        scores, _ = network.forward(inputs, workspace=workspace, until=network.logits_node)
        total_loss += loss(scores, targets)[0] * len(batch)
        if metric is not None:
            wanted = part.examples.only_targets
            assert wanted is not None  # else there is no metric
            total_metric += metric(scores.T, wanted[batch]) * len(batch)
    return Evaluation(
        n_rows=len(part),
        loss=total_loss / len(part),
        metric=None if metric is None else total_metric / len(part),
    )


def metric_of(
    network: Network, examples: Examples
) -> tuple[str | None, Callable[[Array, Array], float] | None]:
    """The task's metric and its name: of batch-first scores and targets, a mean over the rows."""
    wanted = examples.only_targets
    if wanted is None:
        return None, None
    if network.task == "classification" and wanted.ndim == 1:
        return "accuracy", accuracy
    if network.task == "regression":
        return "mean absolute error", mean_absolute_error
    return None, None


def default_loss(network: Network, part: Part) -> Loss:
    """What the task makes small; for regression, errors count in the part's own deviations.

    Raises:
        ConfigError: the network has no task, or the targets are named.
    """
    wanted = part.examples.only_targets
    if network.task == "classification" and not isinstance(part.examples.targets, Mapping):
        return CrossEntropy()
    if network.task == "regression" and wanted is not None:
        spread = wanted[part.indices].std(axis=0, dtype=np.float64)
        return MeanSquaredError(scale=np.where(spread > 0, spread, 1.0))
    raise ConfigError("say which loss: the network's task and targets do not tell")
