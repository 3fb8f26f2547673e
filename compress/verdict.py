"""What was found about one candidate, and what may be said of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from compress.bound import Drop
from compress.candidates import Candidate
from compress.goal import Goal
from compress.latency import Latency, SpeedUp
from hlserve.nn.param import Array

EQUAL_WITHIN = 0.05  # latencies this close are taken as equal; then the smaller file wins
MINIMUM_SPEED_UP = 1.02  # over all batch sizes; less is no reason to change a model

# A proven gain below both of these gives way to a larger one that is only estimated.
NOTABLE_SPEED_UP = 1.1
NOTABLE_SIZE_RATIO = 1.5


@dataclass(slots=True)
class Verdict:
    """What was found about one candidate.

    Attributes:
        candidate: the model.
        value: the metric on the rows that choose.
        drop: against the original.
        latency, speed_up: by batch size; empty where it was not worth measuring.
        refusal: why it is not handed back; empty where it could be.
        answers: of the judged output, (rows, ...); None where it does not run.
    """

    candidate: Candidate
    value: float = math.nan
    drop: Drop | None = None
    latency: dict[int, Latency] = field(default_factory=dict)
    speed_up: dict[int, SpeedUp] = field(default_factory=dict)
    refusal: str = ""
    answers: Array | None = None

    def is_proven(self, max_drop: float) -> bool:
        """Whether the upper bound of the drop keeps the bound, not only its estimate."""
        return self.drop is not None and self.drop.upper <= max_drop

    @property
    def typical_s(self) -> float:
        """The geometric mean of the latencies over the batch sizes; infinite if not measured."""
        if not self.latency:
            return math.inf
        logs = [math.log(latency.p50_s) for latency in self.latency.values()]
        return math.exp(sum(logs) / len(logs))

    def cost(self, goal: Goal) -> float:
        """What is to be made small."""
        if goal.minimize == "bytes":
            return float(self.candidate.size_bytes)
        if goal.minimize == "macs":
            return math.inf if self.candidate.macs is None else float(self.candidate.macs)
        return self.typical_s


def excess(verdict: Verdict, goal: Goal) -> str:
    """How far outside the bound; empty where it is inside."""
    assert verdict.drop is not None
    if not verdict.drop.estimate <= goal.max_drop:
        return f"drops by {verdict.drop.estimate:.4g}, allowed {goal.max_drop:.4g}"
    if goal.require_proof and not verdict.is_proven(goal.max_drop):
        return f"may drop by up to {verdict.drop.upper:.4g}, and proof was asked for"
    return ""


def no_gain(verdict: Verdict, original: Verdict, goal: Goal) -> str:
    """Why the candidate is no gain; empty where it is one."""
    if goal.minimize == "bytes":
        is_smaller = verdict.candidate.size_bytes < original.candidate.size_bytes
        return "" if is_smaller else "the file is no smaller than the original"
    for batch, gain in verdict.speed_up.items():
        if gain.ratio < 1:
            return f"slower than the original at batch {batch}: {gain.ratio:.3f}x"
    is_beyond_noise = any(gain.lower > 1 for gain in verdict.speed_up.values())
    if not is_beyond_noise or original.typical_s / verdict.typical_s < MINIMUM_SPEED_UP:
        return "no faster than the original beyond the noise of this machine"
    if goal.minimize == "macs" and not verdict.cost(goal) < original.cost(goal):
        return "no fewer multiply-accumulates than the original"
    return ""


def best(verdicts: Sequence[Verdict], original: Verdict, goal: Goal) -> Verdict:
    """Of those with a notable and proven gain, else of all, the one of the least cost."""
    proven = [v for v in verdicts if v.is_proven(goal.max_drop) and is_notable(v, original)]
    among = proven or verdicts
    if goal.minimize != "latency":
        return min(among, key=lambda v: (v.cost(goal), v.typical_s))
    fastest = min(v.typical_s for v in among)
    equal = [v for v in among if v.typical_s <= fastest * (1 + EQUAL_WITHIN)]
    return min(equal, key=lambda v: (v.candidate.size_bytes, v.typical_s))


def is_notable(verdict: Verdict, original: Verdict) -> bool:
    """Whether the gain is more than a trifle."""
    speed_up = original.typical_s / verdict.typical_s if verdict.latency else 1.0
    size_ratio = original.candidate.size_bytes / verdict.candidate.size_bytes
    return speed_up >= NOTABLE_SPEED_UP or size_ratio >= NOTABLE_SIZE_RATIO


def pareto(verdicts: Sequence[Verdict]) -> tuple[Verdict, ...]:
    """Those that no other beats in the metric, the latency and the bytes at once.

    Only measured ones inside the bound count; sorted by latency.
    """
    open_ones = [v for v in verdicts if not v.refusal and v.latency and v.drop is not None]

    def beats(a: Verdict, b: Verdict) -> bool:
        ours, theirs = _coordinates(a), _coordinates(b)
        return ours != theirs and all(x <= y for x, y in zip(ours, theirs, strict=True))

    front = [v for v in open_ones if not any(beats(other, v) for other in open_ones)]
    return tuple(sorted(front, key=lambda v: v.typical_s))


# ----- below


def _coordinates(verdict: Verdict) -> tuple[float, float, float]:
    assert verdict.drop is not None  # pareto
    return verdict.drop.estimate, verdict.typical_s, float(verdict.candidate.size_bytes)
