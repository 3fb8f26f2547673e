"""The front: networks that no other beats in the metric without costing more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np

from compress.bound import CONFIDENCE, drop
from compress.metric import Metric, PerRow


class Scored(Protocol):
    """What can lie on a front."""

    @property
    def number(self) -> int:
        """Which trial it is."""

    @property
    def score(self) -> float | None:
        """More is better; None for nothing."""

    @property
    def macs(self) -> int:
        """Multiply-accumulates for one row."""


S = TypeVar("S", bound=Scored)


def front(trials: Sequence[S]) -> list[S]:
    """Those that no other dominates, from the cheapest to the best.

    One dominates another that is neither cheaper nor better, and not its equal in both; of
    equals the first stays.
    """
    scored = [(trial.score, trial) for trial in trials if trial.score is not None]
    kept: list[S] = []
    best = -np.inf
    for score, trial in sorted(scored, key=lambda pair: (pair[1].macs, -pair[0], pair[1].number)):
        if score > best:
            best = score
            kept.append(trial)
    return kept


@dataclass(frozen=True, slots=True)
class Behind:
    """How far a network is behind the best one on the validation rows.

    Attributes:
        estimate: in the metric's unit; negative where it is ahead.
        low, high: each bound holds with 95 % confidence by itself.
    """

    estimate: float
    low: float
    high: float

    @property
    def is_proven(self) -> bool:
        """Whether the rows show that it is worse at all."""
        return self.low > 0


def behind_best(metric: Metric, best: PerRow, other: PerRow) -> Behind:
    """Compares row by row; the bounds are those of ``compress.bound``."""
    worse = drop(metric, best, other, CONFIDENCE)
    better = drop(metric, other, best, CONFIDENCE)
    return Behind(worse.estimate, -better.upper, worse.upper)


def recommended(behind: Mapping[int, Behind], macs: Mapping[int, int]) -> int:
    """The cheapest network that the validation rows do not show to be worse than the best.

    In the spirit of the one-standard-error rule (Breiman et al. 1984, section 3.4.3), with an
    interval of the paired difference in place of a standard error.
    """
    as_good = [number for number, distance in behind.items() if not distance.is_proven]
    return min(as_good, key=lambda number: (macs[number], number))
