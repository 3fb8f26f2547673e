"""Latency of several models, measured against each other in one process.

Other work on the machine slows whoever runs just then. So the models take turns, round after
round; a model's latency is the smallest of its rounds' medians, and two models are compared
within each round, where both met the same weather.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from compress.evaluate import fixed_batch, take_rows
from compress.session import Session
from hlserve.nn.param import Array

ROUNDS = 15
MIN_ROUNDS = 5
TURN_S = 0.004  # a model's turn lasts about so long, at least one run
CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Latency:
    """One model at one batch size.

    Attributes:
        rounds_s: the median of each round, seconds.
        p95_rounds_s: what 95 % of a round's runs stay below, seconds, for each round.
    """

    rounds_s: tuple[float, ...]
    p95_rounds_s: tuple[float, ...] = ()

    @property
    def p50_s(self) -> float:
        """The smallest of the medians."""
        return min(self.rounds_s)

    @property
    def p95_s(self) -> float:
        """The median over the rounds of what 95 % of the runs stay below; NaN where unknown."""
        return float(np.median(self.p95_rounds_s)) if self.p95_rounds_s else math.nan

    @property
    def interval_s(self) -> tuple[float, float]:
        """Where the median of the rounds' medians lies, with 95 % confidence (order statistics)."""
        ordered = sorted(self.rounds_s)
        rank = _sign_test_rank(len(ordered), (1 - CONFIDENCE) / 2)
        return ordered[rank], ordered[len(ordered) - 1 - rank]


@dataclass(frozen=True, slots=True)
class SpeedUp:
    """How many times faster a model is than another: the ratio of their latencies.

    Attributes:
        ratio: of the smallest medians.
        lower: what the ratio of a round exceeds more often than not, with 95 % confidence.
    """

    ratio: float
    lower: float


def batch_sizes(session: Session, asked: Sequence[int]) -> tuple[int, ...]:
    """Those to measure at: what was asked for, or the only one that the model takes."""
    fixed = fixed_batch(session)
    return tuple(asked) if fixed is None else (fixed,)


def measure(
    sessions: Mapping[str, Session],
    feeds: Mapping[str, Array],
    batches: Sequence[int],
    *,
    budget_s: float = 10.0,
    progress: bool = False,
) -> dict[str, dict[int, Latency]]:
    """Latencies by name and batch size.

    Args:
        sessions: by name.
        feeds: rows of every input; the first ones are used.
        batches: rows a run.
        budget_s: about how long to measure; slow models get fewer rounds, never under five.
        progress: whether a terminal shows a bar.
    """
    found: dict[str, dict[int, Latency]] = {name: {} for name in sessions}
    with tqdm(
        total=len(batches) * ROUNDS, desc="timing", unit="round", disable=None if progress else True
    ) as bar:
        for batch in batches:
            rows = take_rows(feeds, np.arange(batch))
            repeats = {name: _repeats(session, rows) for name, session in sessions.items()}
            times: dict[str, list[tuple[float, float]]] = {name: [] for name in sessions}
            stop = time.perf_counter() + budget_s / len(batches)
            for number in range(ROUNDS):
                if number >= MIN_ROUNDS and time.perf_counter() > stop:
                    break
                for name, session in sessions.items():
                    times[name].append(_quantiles_s(session, rows, repeats[name]))
                bar.update()
            for name in sessions:
                medians, p95s = zip(*times[name], strict=True)
                found[name][batch] = Latency(medians, p95s)
    return found


def speed_up(before: Latency, after: Latency) -> SpeedUp:
    """How many times faster ``after`` is; both must come from one call of ``measure``.

    The lower bound is an order statistic of the rounds' ratios: the sign test, which assumes
    nothing of how times are distributed.
    """
    pairs = zip(before.rounds_s, after.rounds_s, strict=True)
    ratios = sorted(b / a for b, a in pairs)
    return SpeedUp(before.p50_s / after.p50_s, ratios[_sign_test_rank(len(ratios))])


def _repeats(session: Session, rows: Mapping[str, Array]) -> int:
    session.run(rows)  # the first run allocates
    started = time.perf_counter()
    session.run(rows)
    return max(1, min(200, int(TURN_S / max(1e-7, time.perf_counter() - started))))


def _quantiles_s(session: Session, rows: Mapping[str, Array], repeats: int) -> tuple[float, float]:
    """The median of some runs, and what 95 % of them stay below."""
    times = []
    session.run(rows)  # what ran before has taken the caches
    for _ in range(repeats):
        started = time.perf_counter()
        session.run(rows)
        times.append(time.perf_counter() - started)
    p50, p95 = np.quantile(times, (0.5, 0.95))
    return float(p50), float(p95)


def _sign_test_rank(n: int, risk: float = 1 - CONFIDENCE) -> int:
    """The largest k such that fewer than k + 1 of n fair coins fall heads with this risk at most.

    The k-th smallest value (from 0) is then a lower bound of the median.
    """
    below, rank = 0.0, 0
    for k in range(n):
        below += math.comb(n, k) / 2**n
        if below > risk:
            break
        rank = k
    return rank
