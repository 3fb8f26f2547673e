"""From a network and rows to the plain data of a report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from hlserve.nn.diagnostics import RowResults, layer_statistics, row_results
from hlserve.nn.examples import Examples
from hlserve.nn.losses import Loss
from hlserve.nn.network import Network
from hlserve.nn.split import Indices
from hlserve.report import outcomes
from hlserve.report.health import with_flags
from hlserve.report.intervals import mean_interval, paired_difference, share_interval
from hlserve.report.learning import (
    Baseline,
    Calibration,
    ClassScore,
    Confusion,
    Interval,
    LayerHealth,
    LayerRow,
    Metric,
    PartFigures,
    Regression,
)

Array = NDArray[Any]
Kind = Literal["classes", "labels", "numbers", "loss"]

MOST_ROWS = 10_000  # of a part that are measured one by one
HEALTH_ROWS = 256

_METRICS: dict[Kind, Metric | None] = {
    "classes": Metric("accuracy", is_share=True),
    "labels": Metric("accuracy over labels", is_share=True),
    "numbers": Metric("mean absolute error", is_share=False),
    "loss": None,
}


@dataclass(frozen=True, slots=True)
class Subject:
    """What is measured: rows by input name, their targets, and the loss that was trained on."""

    inputs: Mapping[str, Array]
    targets: Array
    loss: Loss
    kind: Kind

    @property
    def metric(self) -> Metric | None:
        """What is measured on every row; None where only the loss is."""
        return _METRICS[self.kind]

    def results(self, network: Network, indices: Indices) -> RowResults:
        """Outputs and losses of these rows."""
        return row_results(network, self.inputs, self.targets, self.loss, indices)

    def scores(self, results: RowResults) -> NDArray[np.float64]:
        """The metric of every row, or its loss where there is none."""
        wanted, told = self.targets[results.indices], results.outputs
        if self.kind == "classes":
            return np.asarray(told.argmax(axis=1) == wanted, np.float64)
        if self.kind == "labels":
            return np.asarray(((told > 0.5) == (wanted > 0.5)).mean(axis=1), np.float64)
        if self.kind == "numbers":
            errors = np.abs(told - wanted.reshape(told.shape))
            return np.asarray(errors.mean(axis=1), np.float64)
        return results.losses

    def interval(self, scores: NDArray[np.float64]) -> Interval:
        """Their mean with its interval."""
        if self.kind == "classes":
            return share_interval(int(scores.sum()), len(scores))
        return mean_interval(scores)

    def gain(self, new: NDArray[np.float64], old: NDArray[np.float64]) -> Interval:
        """How much better ``new`` is on the same rows; positive is better."""
        is_share = self.metric is not None and self.metric.is_share
        return paired_difference(new, old) if is_share else paired_difference(old, new)


def kind_of(network: Network, targets: Array) -> Kind:
    """What the network's outputs are, for measuring."""
    task: str | None = network.task
    n_outputs = network.shapes[network.logits_node]
    if task == "classification" and targets.ndim == 1:
        return "classes"
    if task == "multilabel" and targets.shape[1:] == n_outputs:
        return "labels"
    if task == "regression" and targets.size == len(targets) * n_outputs[0]:
        return "numbers"
    return "loss"


def sample(indices: Indices, limit: int = MOST_ROWS) -> Indices:
    """At most ``limit`` of them, evenly spaced."""
    if len(indices) <= limit:
        return indices
    return indices[np.linspace(0, len(indices) - 1, limit).astype(np.int64)]


def part_figures(subject: Subject, name: str, rows: int, results: RowResults) -> PartFigures:
    """Loss and metric of a part of ``rows`` rows, of which the results hold all or a sample."""
    metric = subject.interval(subject.scores(results)) if subject.metric else None
    return PartFigures(name, rows, len(results.losses), mean_interval(results.losses), metric)


def baseline(
    network: Network, subject: Subject, kept: Indices, results: RowResults, labels: tuple[str, ...]
) -> Baseline:
    """The best constant answer, learnt on the rows ``kept``, on the rows of the results."""
    if subject.kind == "loss":
        return Baseline("none: the task has no metric to compare", None, None, None)
    wanted = subject.targets[results.indices]
    name, scores, plain = _constant_answer(subject, subject.targets[kept], wanted, labels)
    constant = np.repeat(scores.astype(network.dtype)[:, None], len(wanted), axis=1)
    examples = Examples.checked(network, subject.inputs, subject.targets)
    assert isinstance(examples.targets, np.ndarray)  # a kind was found, so targets have no names
    loss = subject.loss(constant, examples.targets[results.indices])[0]
    gain = subject.gain(subject.scores(results), plain)
    return Baseline(name, float(loss), float(plain.mean()), gain)


def _constant_answer(
    subject: Subject, known: Array, wanted: Array, labels: tuple[str, ...]
) -> tuple[str, Array, NDArray[np.float64]]:
    """What it is called, its scores (outputs,), and the metric of every row of ``wanted``.

    Shares are counted with one row more of each kind, so that none is 0.
    """
    if subject.kind == "classes":
        counts = np.bincount(known, minlength=len(labels))
        top = int(counts.argmax())
        scores = np.log((counts + 1) / (counts.sum() + len(counts)))
        name = f"always {labels[top]!r}, the most frequent class"
        return name, scores, np.asarray(wanted == top, np.float64)
    if subject.kind == "labels":
        share = (known.sum(axis=0) + 1) / (len(known) + 2)
        hits = ((share > 0.5) == (wanted > 0.5)).mean(axis=1)
        return "for every label what is more frequent", np.log(share / (1 - share)), hits
    mean = known.reshape(len(known), -1).mean(axis=0, dtype=np.float64)
    errors = np.abs(wanted.reshape(len(wanted), -1) - mean).mean(axis=1)
    return "always the mean of the training rows", mean, errors


def layer_rows(network: Network) -> tuple[LayerRow, ...]:
    """The table of layers."""
    return tuple(
        LayerRow(
            name=node.name,
            kind=type(node.layer).__name__,
            output_shape=network.shapes[node.name],
            parameters=sum(p.value.size for p in node.layer.params().values() if p.is_trained),
            macs=int(node.layer.macs(*(network.shapes[i] for i in node.inputs))),
        )
        for node in network.nodes
    )


def layer_health(network: Network, subject: Subject, indices: Indices) -> tuple[LayerHealth, ...]:
    """Statistics of every layer on a few hundred rows, with what stands out."""
    rows = sample(indices, HEALTH_ROWS)
    statistics = layer_statistics(network, subject.inputs, subject.targets, subject.loss, rows)
    return with_flags(
        [
            LayerHealth(
                name=s.name,
                kind=s.kind,
                mean=s.mean,
                std=s.std,
                dead=s.dead,
                saturated=s.saturated,
                weight_rms=s.weight_rms,
                gradient_rms=s.gradient_rms,
            )
            for s in statistics
        ]
    )


@dataclass(frozen=True, slots=True)
class Outcomes:
    """What the validation predictions came to; what does not apply is absent."""

    confusion: Confusion | None = None
    class_scores: tuple[ClassScore, ...] = ()
    calibration: Calibration | None = None
    regression: tuple[Regression, ...] = ()


def measure_outcomes(subject: Subject, results: RowResults, labels: tuple[str, ...]) -> Outcomes:
    """Confusion, scores by class, calibration; or predictions against targets."""
    wanted, told = subject.targets[results.indices], results.outputs
    if subject.kind == "classes":
        top = told.argmax(axis=1)
        matrix = outcomes.confusion(wanted.astype(np.int64), top, labels)
        return Outcomes(
            matrix,
            outcomes.class_scores(matrix),
            outcomes.calibration(told.max(axis=1), top == wanted),
        )
    if subject.kind == "labels":
        return Outcomes(
            class_scores=outcomes.label_scores(wanted, told, labels),
            calibration=outcomes.calibration(told.reshape(-1), wanted.reshape(-1) > 0.5),
        )
    if subject.kind == "numbers":
        pairs = zip(wanted.reshape(told.shape).T, told.T, labels, strict=True)
        return Outcomes(regression=tuple(outcomes.regression(t, p, name) for t, p, name in pairs))
    return Outcomes()
