"""The candidates that a search would try, without judging or timing any."""

import math
from pathlib import Path

from compress.bound import Drop
from compress.candidates import Plan
from compress.clock import Clock
from compress.job import Effort, Wishes, prepare
from compress.splits import Split
from compress.verdict import Verdict


def candidates(model, rows, folder: Path, *, plan=None, is_inside=True, most=math.inf, **wishes):
    """The first ``most`` of them, each found inside the bound or outside, and the notes."""
    wishes = Wishes(max_drop=0.1, batches=(1,), plan=plan or Plan(), **wishes)
    prepared, goal = prepare(model, Split(rows, rows, None, ""), wishes, Effort(folder))
    ladder = prepared.ladder(goal, Clock())
    found = []
    verdict = None
    while len(found) < most:
        try:
            candidate = next(ladder) if verdict is None else ladder.send(verdict)
        except StopIteration:
            break
        found.append(candidate)
        drop = Drop(0.0 if is_inside else 1.0, 0.0 if is_inside else 1.0, len(rows))
        verdict = Verdict(candidate, 1.0, drop, refusal="" if is_inside else "outside")
    return found, prepared.notes
