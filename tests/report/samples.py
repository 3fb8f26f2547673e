"""Trainings that never were, with whatever signs a test wants."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from hlserve.report.advice import Levers
from hlserve.report.intervals import mean_interval, share_interval
from hlserve.report.learning import (
    Baseline,
    Column,
    CurvePoint,
    DataFacts,
    Epoch,
    Example,
    Interval,
    LayerHealth,
    LayerRow,
    LearningCurve,
    LearningReport,
    Metric,
    PartFigures,
    Picture,
    WorstExamples,
)
from hlserve.report.signs import Facts
from hlserve.report.verdict import judge

ACCURACY = Metric("accuracy", is_share=True)
ERROR = Metric("mean absolute error", is_share=False)
LEVERS = Levers(20, 0.003, 0.01, "mlp:64", "mlp:8", is_image=False, validation_share=0.1)

FLAT = [1.0, 0.5, 0.35, 0.31, 0.3, 0.299, 0.3, 0.301, 0.3, 0.299, 0.3, 0.3]
FALLING = [1.0 - 0.05 * i for i in range(12)]
SLOWING = [1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.45, 0.42, 0.4, 0.39, 0.39, 0.39]
TURNING = [1.0, 0.6, 0.45, 0.4, 0.42, 0.48, 0.55, 0.63, 0.7, 0.78, 0.85, 0.9]


def epochs(validation: Sequence[float], train: Sequence[float] | None = None) -> tuple[Epoch, ...]:
    """A history with these losses; the training loss falls evenly unless told."""
    told = train if train is not None else [1.0 / (1 + i) for i in range(len(validation))]
    return tuple(
        Epoch(i + 1, t, v, 1 - v / 4, 0.001, 0.1)
        for i, (t, v) in enumerate(zip(told, validation, strict=True))
    )


def part(name: str, share: float, rows: int) -> PartFigures:
    """A part of which this share of rows is right."""
    metric = share_interval(round(share * rows), rows)
    return PartFigures(name, rows, rows, Interval(1 - share, 0.9 - share, 1.1 - share), metric)


def error_part(name: str, error: float, rows: int) -> PartFigures:
    """A regression's part with exponential errors of this mean."""
    errors = np.random.default_rng(0).exponential(size=rows)
    interval = mean_interval(errors / errors.mean() * error)
    return PartFigures(name, rows, rows, interval, interval)


def facts(
    train: PartFigures,
    validation: PartFigures,
    losses: Sequence[float] = FLAT,
    *,
    metric: Metric | None = ACCURACY,
    curve: LearningCurve | None = None,
    train_losses: Sequence[float] | None = None,
) -> Facts:
    """The facts of a training against a baseline that is right in a tenth of the rows."""
    base = Baseline("always 'a'", 2.3, 0.1 if metric is ACCURACY else 10.0, None)
    return Facts(metric, train, validation, base, epochs(losses, train_losses), 5, curve)


def curve(**gains: Any) -> LearningCurve:
    """A learning curve with these gains."""
    points = tuple(
        CurvePoint(
            s, round(1000 * s), 3, Interval(0.9, 0.88, 0.92), Interval(0.7 + s / 10, 0.6, 0.9)
        )
        for s in (0.1, 0.25, 0.5, 1.0)
    )
    return msgspec.structs.replace(LearningCurve(100, 1.5, points), **gains)


def report(**changes: Any) -> LearningReport:
    """A small classification's report."""
    train, validation = part("training", 0.95, 1000), part("validation", 0.8, 200)
    told = facts(train, validation, curve=curve(doubling=Interval(0.05, 0.02, 0.08)))
    picture = Picture(2, 3, 1, bytes(range(0, 60, 10)))
    made = LearningReport(
        title="mlp:16 on rows",
        data=DataFacts(
            "rows", "a file", "CC0-1.0", "classification", (Column("input", (6,), "cm"),), 2
        ),
        architecture="mlp:16",
        layers=(LayerRow("linear_1", "Linear", (16,), 112, 96),),
        settings={"epochs": "12"},
        metric=ACCURACY,
        parts=(train, validation),
        baseline=told.baseline,
        verdict=judge(told, LEVERS),
        epochs=tuple(told.epochs),
        best_epoch=5,
        ending="all epochs",
        curve=told.curve,
        health=(
            LayerHealth("linear_1", "Linear", 0.1, 1.0, None, None, 0.2, 0.01),
            LayerHealth("relu_2", "ReLU", 0.1, 1.0, 0.5, None, None, None, ("50% dead",)),
        ),
        worst=WorstExamples((Example(7, "a", "b", 0.01, 4.6, picture),)),
    )
    return msgspec.structs.replace(made, **changes)
