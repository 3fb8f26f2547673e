"""What `hlserve compress` says on a terminal: ahead of the search, and at its end."""

from __future__ import annotations

from typing import TYPE_CHECKING

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
    told = f"{metric.name} {_value(prepared.bench.value, metric)} on {n:,} rows"
    lines = [f"original: {told}, {prepared.original.size_bytes:,} bytes", *prepared.notes]
    if prepared.judge.note:
        lines.append(prepared.judge.note)
    least = prepared.smallest_provable
    if least is not None:
        proof = f"the smallest drop that these rows can prove is {_drop(least, metric)}"
        if least > goal.max_drop:
            if goal.require_proof:
                raise ConfigError(
                    f"{proof}, and --max-drop is {_drop(goal.max_drop, metric)}: with "
                    "--require-proof no candidate could pass; give more rows with --eval"
                )
            proof += f", more than --max-drop {_drop(goal.max_drop, metric)}: results are estimates"
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
    changes = ["", *(_times(b, a) for b, a in zip(*map(_sizes, (before, after)), strict=True))]
    changes += [f"{gain.ratio:.2f}x faster" for gain in after.speed_up.values()]
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
    return (
        f"on {test.rows:,} rows that had no part in the choice: {_value(test.original, metric)} "
        f"became {_value(test.best, metric)}, a drop of {_interval(test.drop, metric)}"
    )


def _column(verdict: Verdict, metric: Metric) -> list[str]:
    values = [_value(verdict.value, metric), *(f"{size:,}" for size in _sizes(verdict))]
    return values + [f"{1e6 * latency.p50_s:,.0f} us" for latency in verdict.latency.values()]


def _sizes(verdict: Verdict) -> tuple[int, int]:
    return verdict.candidate.parameters, verdict.candidate.size_bytes


def _times(before: int, after: int) -> str:
    return f"{before / after:.2f}x smaller" if after < before else ""


def _standing(result: Result) -> str:
    asked = _drop(result.goal.max_drop, result.judge.metric)
    if result.is_proven:
        return f"proven to be at most {asked} (one-sided, 95 %)"
    return f"estimated, not proven, to be at most {asked}"


def _interval(drop: Drop, metric: Metric) -> str:
    return (
        f"{_drop(drop.estimate, metric)}, at most {_drop(drop.upper, metric)} on {drop.rows:,} rows"
    )


def _drop(value: float, metric: Metric) -> str:
    return f"{100 * value:.2f} pp" if metric.is_share else f"{value:.4g}"


def _value(value: float, metric: Metric) -> str:
    return f"{100 * value:.2f} %" if metric.is_share else f"{value:.6g}"
