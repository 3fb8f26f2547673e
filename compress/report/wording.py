"""Numbers of a compression as a reader takes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from compress.report.compression import Ends, Shape
from hlserve.report.wording import DASH, MINUS, number

_TIMES = "\N{MULTIPLICATION SIGN}"


class Metric(Protocol):
    """What is measured; a share is told in percent and points."""

    @property
    def is_share(self) -> bool:
        """Whether it is a share of rows."""


def score(value: float | None, metric: Metric) -> str:
    """The metric: percent with two digits for a share, since bounds are tenths of a point."""
    return percent(value) if metric.is_share else number(value)


def score_interval(value: float | None, ends: Ends | None, metric: Metric) -> str:
    """The metric with its 95 % interval, where there is one."""
    if ends is None or None in ends or value is None:
        return score(value, metric)
    low, high = (score(end, metric) for end in ends)
    return f"{score(value, metric)} ({low} to {high})"


def drop(value: float | None, metric: Metric) -> str:
    """A drop: in points for a share."""
    if value is None:
        return DASH
    return f"{_signed(f'{100 * value:.2f}')} pp" if metric.is_share else number(value)


def percent(share: float | None) -> str:
    """A share in percent, two digits behind the point."""
    return DASH if share is None else f"{100 * share:.2f} %"


def count(value: float | None) -> str:
    """A number of things, with its thousands apart."""
    return DASH if value is None else f"{value:,.0f}"


def size(value: int | None) -> str:
    """Bytes as kB or MB of 1000, as files are sold; exact below a thousand."""
    if value is None:
        return DASH
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if value >= factor:
            return f"{_digits(value / factor)} {unit}"
    return f"{value} B"


def duration(value: float | None) -> str:
    """Seconds in the unit that fits."""
    if value is None:
        return DASH
    for unit, factor in (("s", 1.0), ("ms", 1e-3)):
        if value >= factor:
            return f"{_digits(value / factor)} {unit}"
    return f"{_digits(value / 1e-6)} µs"


def ratio(value: float | None) -> str:
    """How many times, such as 5.3x."""
    return DASH if value is None else f"{_digits(value)}{_TIMES}"


def gain(value: float | None, better: str, worse: str) -> str:
    """A ratio as a gain or, turned over, as a loss: ``1.2x faster``, ``1.2x slower``."""
    if not value:
        return ""
    return f"{ratio(value)} {better}" if value >= 1 else f"{ratio(1 / value)} {worse}"


def quotient(before: float | None, after: float | None) -> float | None:
    """How many times smaller; None where there is nothing to compare."""
    return before / after if before is not None and after else None


def shape(value: Shape) -> str:
    """Sizes with a cross between them."""
    return f" {_TIMES} ".join("?" if s is None else str(s) for s in value) or DASH


def p_value(value: float | None) -> str:
    """A p-value, with two digits."""
    return DASH if value is None else f"{value:.2g}"


def few(items: Sequence[str], limit: int) -> str:
    """The first ones, and how many more."""
    more = f" and {len(items) - limit:,} more" if len(items) > limit else ""
    return ", ".join(items[:limit]) + more


def _digits(value: float) -> str:
    """Three significant digits, never with an exponent."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _signed(digits: str) -> str:
    return "0.00" if float(digits) == 0 else digits.replace("-", MINUS)
