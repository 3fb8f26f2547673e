"""The networks of the front, looked at closely: intervals, latency, and test rows once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from compress.architecture_search.front import Behind, behind_best, front, recommended
from compress.architecture_search.journal import Trial
from compress.architecture_search.report import (
    RULE,
    Figure,
    FrontNetwork,
    Report,
    Tried,
)
from compress.architecture_search.space import Candidate
from compress.architecture_search.worker import Lesson, file_name, split
from compress.bound import mean_interval
from compress.export import check_parity, to_onnx
from compress.latency import measure
from compress.metric import ACCURACY, Metric, PerRow
from compress.session import Session
from hlserve.datasets import Dataset, Rows
from hlserve.errors import TrainingError
from hlserve.nn import checkpoint
from hlserve.nn.metrics import wilson_interval
from hlserve.nn.network import Network
from hlserve.nn.param import Array

BATCHES = (1, 32)  # rows a run, at which latency is measured
TIMING_BUDGET_S = 10.0
_PARITY_ROWS = 64


@dataclass(frozen=True, slots=True)
class _Finalist:
    trial: Trial
    network: Network
    per_row: PerRow


def evaluate_front(
    trials: Sequence[Trial],
    dataset: Dataset,
    lesson: Lesson,
    folder: Path,
    *,
    metric: Metric,
    settings: Mapping[str, Any],
    ending: str,
    progress: bool,
) -> Report:
    """The report of a search whose trainings are over.

    Latency is measured here, where nothing else of ours runs, the networks taking turns.

    Raises:
        TrainingError: no network was trained.
        ModelFileError: a checkpoint of the front is gone.
    """
    trained = [trial for trial in trials if trial.state == "trained"]
    if not trained:
        raise TrainingError(_nothing(trials, ending))
    finalists = _finalists(front(trained), dataset, lesson, folder, metric)
    best = finalists[-1].per_row  # the front ends with the highest score
    behind = {f.trial.number: behind_best(metric, best, f.per_row) for f in finalists}
    chosen = recommended(behind, {f.trial.number: f.trial.macs for f in finalists})
    latencies = _latencies(finalists, dataset.train.x, progress=progress)
    networks = [
        _told(
            finalist,
            metric=metric,
            behind=behind[finalist.trial.number],
            latency_us=latencies[finalist.trial.number],
            test=_test(finalist.network, dataset.test, metric),
            train_options=_train_options(finalist.trial.candidate, lesson),
        )
        for finalist in finalists
    ]
    return Report(
        settings=dict(settings),
        metric=metric.name,
        ending=ending,
        rule=RULE,
        recommended=chosen,
        front=networks,
        trials=[_tried(trial, metric) for trial in trials],
    )


def _finalists(
    trials: Sequence[Trial], dataset: Dataset, lesson: Lesson, folder: Path, metric: Metric
) -> list[_Finalist]:
    x, y = dataset.train.x, dataset.train.y
    assert y is not None  # it was trained on
    _, apart = split(lesson, y)
    found = []
    for trial in trials:
        network = checkpoint.load(folder / file_name(trial.number))
        found.append(_Finalist(trial, network, _per_row(network, x[apart], y[apart], metric)))
    return found


def _per_row(network: Network, x: Array, y: Array, metric: Metric) -> PerRow:
    (answers,) = network.predict(x).values()
    return metric.per_row(answers, y)


def _latencies(
    finalists: Sequence[_Finalist], x: Array, *, progress: bool
) -> dict[int, dict[str, float]]:
    """p50 in microseconds by batch size; those that take rows of one shape take turns."""
    found: dict[int, dict[str, float]] = {}
    shapes = {finalist.network.inputs[0].shape for finalist in finalists}
    for shape in sorted(shapes):
        alike = [f for f in finalists if f.network.inputs[0].shape == shape]
        sessions = {str(f.trial.number): _session(f, x) for f in alike}
        rows = alike[0].network.named_rows(x[: max(BATCHES)].astype(np.float32))
        budget_s = TIMING_BUDGET_S / len(shapes)
        measured = measure(sessions, rows, BATCHES, budget_s=budget_s, progress=progress)
        found |= {
            int(name): {str(batch): 1e6 * latency.p50_s for batch, latency in by_batch.items()}
            for name, by_batch in measured.items()
        }
    return found


def _session(finalist: _Finalist, x: Array) -> Session:
    """The exported network, which was seen to answer alike."""
    model = to_onnx(finalist.network)
    check_parity(finalist.network, model, x[:_PARITY_ROWS])
    return Session(model.SerializeToString(), name=f"trial {finalist.trial.number}")


def _test(network: Network, rows: Rows | None, metric: Metric) -> Figure | None:
    if rows is None or rows.y is None:
        return None
    return _figure(_per_row(network, rows.x, rows.y, metric), metric)


def _figure(per_row: PerRow, metric: Metric) -> Figure:
    n = len(per_row)
    if metric is ACCURACY:
        low, high = wilson_interval(int(per_row.sum()), n)
    else:
        low, high = mean_interval(per_row)
    return Figure(n, float(per_row.mean()), low, high)


def _told(
    finalist: _Finalist,
    *,
    metric: Metric,
    behind: Behind,
    latency_us: dict[str, float],
    test: Figure | None,
    train_options: str,
) -> FrontNetwork:
    trial = finalist.trial
    return FrontNetwork(
        trial=trial.number,
        architecture=trial.candidate.spec,
        learning_rate=trial.candidate.learning_rate,
        weight_decay=trial.candidate.weight_decay,
        epochs=len(trial.curve),
        parameters=trial.parameters,
        macs=trial.macs,
        file=file_name(trial.number),
        train_options=train_options,
        validation=_figure(finalist.per_row, metric),
        behind_best=behind,
        latency_us=latency_us,
        test=test,
    )


def _train_options(candidate: Candidate, lesson: Lesson) -> str:
    """What ``hlserve train`` repeats the training with."""
    options = {
        "arch": candidate.spec,
        "learning-rate": candidate.learning_rate,
        "weight-decay": candidate.weight_decay,
        "validation": lesson.validation,
        "epochs": lesson.epochs,
        "seed": lesson.seed,
    }
    usual = {"epochs": None, "seed": 0}
    return " ".join(f"--{k} {v}" for k, v in options.items() if k not in usual or v != usual[k])


def _tried(trial: Trial, metric: Metric) -> Tried:
    score = trial.score
    is_error = not metric.higher_is_better
    return Tried(
        trial=trial.number,
        architecture=trial.candidate.spec,
        learning_rate=trial.candidate.learning_rate,
        weight_decay=trial.candidate.weight_decay,
        parameters=trial.parameters,
        macs=trial.macs,
        state=trial.state,
        reason=trial.reason,
        metric=-score if is_error and score is not None else score,
        epochs=len(trial.curve),
        seconds=trial.seconds,
    )


def _nothing(trials: Sequence[Trial], ending: str) -> str:
    reasons = "; ".join(sorted({trial.reason for trial in trials}))
    return f"no network was trained ({ending}){': ' if reasons else ''}{reasons}"
