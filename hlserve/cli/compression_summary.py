"""What `hlserve compress` says on a terminal: ahead of the search, and at its end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compress.report import wording
from hlserve.errors import ConfigError

if TYPE_CHECKING:
    from compress.bound import Drop
    from compress.goal import Goal
    from compress.metric import Metric
    from compress.search import LastLook, Result, Search
    from compress.splits import Split
    from compress.verdict import Verdict


def opening(prepared: Search, goal: Goal, split: Split) -> str:
    """The original, how it is judged, and what the rows can prove.

    Raises:
        ConfigError: proof is required, and the rows can give none.
    """
    metric, n = prepared.judge.metric, len(prepared.bench.answers)
    told = f"{metric.name} {wording.score(prepared.bench.value, metric)} on {n:,} rows"
    lines = [f"original: {told}, {prepared.original.size_bytes:,} bytes", *prepared.notes]
    if prepared.judge.note:
        lines.append(prepared.judge.note)
    least = prepared.smallest_provable
    if least is not None:
        proof = f"the smallest drop that these rows can prove is {wording.drop(least, metric)}"
        if least > goal.max_drop:
            asked = wording.drop(goal.max_drop, metric)
            if goal.require_proof:
                raise ConfigError(
                    f"{proof}, and --max-drop is {asked}: with --require-proof no candidate could "
                    "pass; give more rows with --eval"
                )
            proof += f", more than --max-drop {asked}: results are estimates"
        lines.append(proof)
    apart = "none" if split.test is None else f"{len(split.test):,}"
    lines.append(f"learning from {len(split.train):,} rows; rows for one look at the end: {apart}")
    return "\n".join(lines)


def closing(result: Result, int8_shares: tuple[float | None, float | None]) -> str:
    """Original against chosen, and what may be said of the drop.

    Args:
        result: what the search found.
        int8_shares: of the multiply-accumulates of both; None where it is not known.
    """
    from tabulate import tabulate

    metric = result.judge.metric
    before, after = result.original, result.best
    columns = [_column(before, metric), _column(after, metric)]
    names = [metric.name, "parameters", "bytes"]
    names += [f"latency, batch {b}" for b in before.latency]
    sizes = zip(_sizes(before), _sizes(after), strict=True)
    changes = ["", *(wording.gain(b / a, "smaller", "larger") if b != a else "" for b, a in sizes)]
    changes += [wording.gain(g.ratio, "faster", "slower") for g in after.speed_up.values()]
    rows = list(zip(names, *columns, changes, strict=True))
    shares = ["not known" if share is None else f"{share:.1%}" for share in int8_shares]
    rows.append(("MACs in int8", shares[0], shares[1], ""))
    table = tabulate(
        rows,
        headers=["", "original", after.candidate.name, ""],
        disable_numparse=True,
        colalign=("left", "right", "right", "left"),
    )
    assert after.drop is not None
    lines = [table, "", f"drop {_interval(after.drop, metric)}; {_standing(result)}"]
    if result.test is not None:
        lines.append(_last_look(result.test, metric))
    lines += [f"note: {note}" for note in result.notes]
    return "\n".join(lines)


# ----- below


def _last_look(test: LastLook, metric: Metric) -> str:
    before, after = (wording.score(value, metric) for value in (test.original, test.best))
    return (
        f"on {test.rows:,} rows that had no part in the choice: {before} became {after}, a drop of "
        f"{_interval(test.drop, metric)}"
    )


def _column(verdict: Verdict, metric: Metric) -> list[str]:
    values = [wording.score(verdict.value, metric), *(f"{size:,}" for size in _sizes(verdict))]
    return values + [wording.duration(latency.p50_s) for latency in verdict.latency.values()]


def _sizes(verdict: Verdict) -> tuple[int, int]:
    return verdict.candidate.parameters, verdict.candidate.size_bytes


def _standing(result: Result) -> str:
    asked = wording.drop(result.goal.max_drop, result.judge.metric)
    if result.is_proven:
        return f"proven to be at most {asked} (one-sided, 95 %)"
    return f"estimated, not proven, to be at most {asked}"


def _interval(drop: Drop, metric: Metric) -> str:
    estimate, upper = (wording.drop(value, metric) for value in (drop.estimate, drop.upper))
    return f"{estimate}, at most {upper} on {drop.rows:,} rows"
