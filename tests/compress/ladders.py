"""The candidates that a search would try, without judging or timing any."""

import math
from pathlib import Path

from compress.bound import Drop
from compress.candidates import Plan
from compress.clock import Clock
from compress.job import Effort, Wishes, prepare
from compress.splits import Split
from compress.verdict import Verdict

MAX_DROP = 0.1


def candidates(
    model,
    rows,
    folder: Path,
    *,
    plan=None,
    drop_of=None,
    is_inside=True,
    most=math.inf,
    clock=None,
    **wishes,
):
    """The first ``most`` of them, each found to drop as told, and the notes.

    Args:
        drop_of: the drop of a candidate by its name; else all are inside the bound or outside.
    """
    wishes = Wishes(max_drop=MAX_DROP, batches=(1,), plan=plan or Plan(), **wishes)
    prepared, goal = prepare(model, Split(rows, rows, None, ""), wishes, Effort(folder))
    ladder = prepared.ladder(goal, clock or Clock())
    found = []
    verdict = None
    while len(found) < most:
        try:
            candidate = next(ladder) if verdict is None else ladder.send(verdict)
        except StopIteration:
            break
        found.append(candidate)
        lost = drop_of(candidate.name) if drop_of else float(not is_inside)
        refusal = "" if lost <= MAX_DROP else "outside"
        verdict = Verdict(candidate, 1.0, Drop(lost, lost, len(rows)), refusal=refusal)
    return found, prepared.notes
