"""Models side by side: how good on untouched rows, how many bytes, and latencies in turns."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from compress.evaluate import Judge, bind_rows, fixed_batch, make_judge
from compress.latency import measure, speed_up
from compress.session import Session
from hlserve.datasets import Rows
from hlserve.nn.param import Array

FLOAT = "fp32"


@dataclass(frozen=True, slots=True)
class Measured:
    """One model against the float one in the same run.

    Attributes:
        value: the metric's mean over the rows: accuracy where they have labels.
        drop: against the float model, in hundredths of the metric (percentage points).
        agreement: the share of answers that are the float model's; the cosine of the answers
            where they are no classes.
        size_ratio: how many times smaller the file is.
        speed_up: how many times faster, by batch size.
        p50_s: latency by batch size.
    """

    value: float
    drop: float
    agreement: float
    size_bytes: int
    size_ratio: float
    speed_up: dict[int, float]
    p50_s: dict[int, float]


def side_by_side(
    models: Mapping[str, bytes],
    rows: Rows,
    batches: Sequence[int],
    *,
    output: str | None = None,
    budget_s: float = 60.0,
) -> dict[str, Measured]:
    """Every model by name, ``fp32`` among them, which the others are compared with.

    Args:
        models: ONNX files by name.
        rows: nobody has seen them.
        batches: rows a run to measure at; a model's only one where it has one.
        output: which one is judged, by name; None leaves it to ``make_judge``.
        budget_s: about how long to time.
    """
    sessions = {name: Session(model, name=name) for name, model in models.items()}
    feeds = bind_rows(sessions[FLOAT], rows)
    judges = _judges(models[FLOAT], sessions[FLOAT], rows, output)
    answers = {name: judges[0].answers(session, feeds) for name, session in sessions.items()}
    value = {name: _value(judges[0], a, answers[FLOAT], rows.y) for name, a in answers.items()}
    fixed = fixed_batch(sessions[FLOAT])
    asked = tuple(batches) if fixed is None else (fixed,)
    times = measure(sessions, feeds, asked, budget_s=budget_s, progress=True)
    return {
        name: Measured(
            value=value[name],
            drop=100 * (value[FLOAT] - value[name]),
            agreement=_value(judges[1], answers[name], answers[FLOAT], None),
            size_bytes=len(models[name]),
            size_ratio=len(models[FLOAT]) / len(models[name]),
            speed_up={b: speed_up(times[FLOAT][b], times[name][b]).ratio for b in asked},
            p50_s={b: times[name][b].p50_s for b in asked},
        )
        for name in models
    }


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float]:
    """Mean and the sample's standard deviation, 0 of a single value."""
    return statistics.mean(values), statistics.stdev(values) if len(values) > 1 else 0.0


# ----- below


def _judges(model: bytes, session: Session, rows: Rows, output: str | None) -> tuple[Judge, Judge]:
    """By the labels, and by what the float model answers."""
    parsed = onnx.ModelProto.FromString(model)
    judge = make_judge(parsed, session, rows.y, output=output)
    return judge, make_judge(parsed, session, None, output=judge.output)


def _value(judge: Judge, answers: Array, of_float: Array, labels: Array | None) -> float:
    targets = labels if judge.metric.needs_labels else of_float
    assert targets is not None  # make_judge
    return float(np.mean(judge.per_row(answers, targets)))
