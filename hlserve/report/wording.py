"""Numbers as a reader takes them: percent for shares, few digits for the rest."""

from __future__ import annotations

import math

from hlserve.report.learning import Interval, Metric

MINUS, DASH = "\N{MINUS SIGN}", "\N{EN DASH}"


def number(value: float | None) -> str:
    """Four significant digits; a dash for what is not there."""
    if value is None or math.isnan(value):
        return DASH
    if math.isinf(value):
        return "∞" if value > 0 else f"{MINUS}∞"
    return f"{value:.4g}".replace("-", MINUS)


def percent(share: float | None) -> str:
    """A share in percent, one digit behind the point."""
    return DASH if share is None else f"{100 * share:.1f} %"


def score(value: float | None, metric: Metric | None) -> str:
    """A metric as it is read: percent for a share, else a number."""
    return percent(value) if metric is not None and metric.is_share else number(value)


def score_interval(interval: Interval | None, metric: Metric | None) -> str:
    """The estimate with its 95 % interval."""
    if interval is None:
        return DASH
    if math.isinf(interval.low) or math.isinf(interval.high):
        return f"{score(interval.estimate, metric)} (too few rows for an interval)"
    ends = f"{score(interval.low, metric)} to {score(interval.high, metric)}"
    return f"{score(interval.estimate, metric)} (95 %: {ends})"


def change(interval: Interval, metric: Metric | None) -> str:
    """A difference of two scores with its 95 % interval; of shares in points."""
    if metric is None or not metric.is_share:
        ends = f"{number(interval.low)} to {number(interval.high)}"
        return f"{number(interval.estimate)} (95 %: {ends})"
    low, high = _points(interval.low), _points(interval.high)
    return f"{_points(interval.estimate)} points (95 %: {low} to {high})"


def rows(count: int, noun: str = "row") -> str:
    """A count with its noun."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def _points(share: float) -> str:
    return f"{100 * share:.1f}".replace("-", MINUS) if math.isfinite(share) else number(share)
