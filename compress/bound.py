"""What a set of rows can say about a drop: paired intervals, without assuming large samples.

The same rows are answered by the original and by a candidate, so what counts is the rows where
they differ. Every bound here is one-sided: with the stated confidence the true drop is below it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from compress.metric import Metric, PerRow
from hlserve.errors import ConfigError

CONFIDENCE = 0.95
LIKELY_SLIP = 0.2  # a share may hardly drop by more; "0.5" was most likely meant as 0.5 pp
_HALVINGS = 60  # bisection to the last bit that matters


@dataclass(frozen=True, slots=True)
class Drop:
    """How much worse a candidate is than the original on the same rows.

    Attributes:
        estimate: in the metric's own unit; negative where the candidate is better.
        upper: the one-sided bound at ``confidence``.
        rows: how many were compared.
        confidence: with which the bounds of all ``comparisons`` hold together.
        comparisons: how many candidates the bound is corrected for; no whole number where
            their likeness was taken into account.
    """

    estimate: float
    upper: float
    rows: int
    confidence: float = CONFIDENCE
    comparisons: float = 1


def parse_max_drop(text: str | float, metric: Metric) -> float:
    """The bound in the metric's own unit; ``0.5pp`` is 0.005.

    Raises:
        ConfigError: not a number, negative, a likely slip, or ``pp`` where the metric is no share.
    """
    raw = str(text).strip()
    is_points = raw.lower().endswith("pp")
    try:
        value = float(raw[:-2] if is_points else raw)
    except ValueError:
        raise ConfigError(f"--max-drop {raw!r} is no number; write 0.005 or 0.5pp") from None
    if not math.isfinite(value) or value < 0:
        raise ConfigError(f"--max-drop {raw!r} must be zero or more")
    if is_points and not metric.is_share:
        raise ConfigError(f"--max-drop {raw!r}: {metric.name} is no share, so pp does not fit it")
    if not is_points and metric.is_share and value > LIKELY_SLIP:
        raise ConfigError(
            f"--max-drop {raw!r} allows {metric.name} to fall by {100 * value:g} points, "
            f"most likely a slip; write {value:g}pp for {value:g} points, or {100 * value:g}pp"
        )
    return value / 100 if is_points else value


def drop(
    metric: Metric,
    before: PerRow,
    after: PerRow,
    confidence: float = CONFIDENCE,
    *,
    comparisons: float = 1,
    row_cost: float | None = None,
) -> Drop:
    """The drop from ``before`` to ``after``, one value a row each, with its upper bound.

    Shares of whole rows (right or wrong) get the score bound for paired proportions, agreement
    with the original the exact binomial one; F1 and ROC AUC the contribution bound; other
    bounded values an empirical Bernstein bound; errors without limits a paired t bound, the
    only one that leans on a large sample.

    Args:
        metric: see Metric.
        before: of the original, (rows,).
        after: of the candidate, (rows,).
        confidence: one-sided.
        comparisons: candidates that one is chosen from; with M of them each bound is at
            1 - (1 - confidence) / M, so that all of them hold together (Bonferroni).
        row_cost: of ``metric.row_cost``, which F1 and ROC AUC need.
    """
    losses = metric.losses(before, after)
    n = len(losses)
    estimate = float(np.mean(losses)) if n else 0.0
    upper = upper_bound(metric, losses, corrected(confidence, comparisons), row_cost)
    return Drop(estimate, upper, n, confidence, comparisons)


def corrected(confidence: float, comparisons: float) -> float:
    """The confidence of each bound with which ``comparisons`` hold together (Bonferroni)."""
    if comparisons < 1:
        raise ConfigError(f"comparisons is {comparisons}, expected 1 or more")
    return 1 - (1 - confidence) / comparisons


def smallest_provable(
    metric: Metric, rows: int, comparisons: float = 1, *, confidence: float = CONFIDENCE
) -> float | None:
    """The bound that ``rows`` rows give when not one answer changes; None where it depends.

    No smaller drop can be proven with them, however good the candidate. For F1 and ROC AUC it
    depends on the rows of each class: ``Judge.smallest_provable`` knows them.
    """
    if metric.limits is None or metric.row_cost is not None:
        return None
    return upper_bound(metric, np.zeros(rows), corrected(confidence, comparisons))


def upper_bound(
    metric: Metric, losses: PerRow, confidence: float, row_cost: float | None = None
) -> float:
    """The one-sided bound of the mean of ``metric.losses``; which one, see ``drop``.

    Raises:
        ConfigError: the metric needs its ``row_cost``.
    """
    n = len(losses)
    if metric.row_cost is not None:
        if row_cost is None:
            raise ConfigError(f"a bound of {metric.name} needs what one row may cost")
        return min(1.0, contribution_bound(losses, row_cost, confidence))
    if metric.limits is None:
        return _student_bound(losses, confidence)
    if metric.is_share and np.all(np.isin(losses, (-1.0, 0.0, 1.0))):
        worse, better = int(np.sum(losses == 1)), int(np.sum(losses == -1))
        if not metric.needs_labels:  # the original agrees with itself: nothing can get better
            return binomial_bound(worse, n, confidence)
        return paired_share_bound(worse, better, n, confidence)
    low, high = metric.limits
    return _bernstein_bound(losses, high - low, confidence)


def contribution_bound(losses: PerRow, row_cost: float, confidence: float) -> float:
    """Upper bound of a drop from paired contributions, see ``compress.contributions``.

    A t bound in which z^2 / 2 more rows did as badly as can be. For losses of 0 and 1 that is
    Wilson's score bound of a rate (Agresti & Coull 1998, American Statistician 52:119), close
    to the exact one; without those rows a candidate that changed no row, or one, would seem
    proven by any number of rows.
    """
    n = len(losses)
    if n < 2:
        return math.inf
    z = NormalDist().inv_cdf(confidence)
    more = z * z / 2
    squares = float(np.sum(np.square(losses - np.mean(losses)))) + more * row_cost**2
    t = student_quantile(confidence, n - 1)
    return float(np.mean(losses)) + (more * row_cost + t * math.sqrt(squares)) / n


def paired_share_bound(worse: int, better: int, rows: int, confidence: float = CONFIDENCE) -> float:
    """Upper bound of a drop in a share, from the rows that changed.

    Tango's score interval for the difference of paired proportions (Statistics in Medicine
    1998, 17:891), with a continuity correction of half a row, which lifts its coverage to the
    nominal one for small samples too (the tests enumerate it).

    Args:
        worse: rows that only the original answers rightly.
        better: rows that only the candidate answers rightly.
        rows: all rows.
        confidence: one-sided.
    """
    if rows == 0:
        return 1.0
    z = NormalDist().inv_cdf(confidence)

    def is_plausible(d: float) -> bool:
        # q: the likeliest share of "better" rows if the true drop were d
        linear = (2 * rows - worse + better) * d - worse - better
        q = (math.sqrt(max(linear**2 + 8 * rows * better * d * (1 - d), 0.0)) - linear) / (4 * rows)
        spread = math.sqrt(max(rows * (2 * q + d - d * d), 0.0))
        return rows * d - (worse - better) - 0.5 < z * spread

    return _largest(is_plausible, (worse - better) / rows, 1.0)


def binomial_bound(events: int, rows: int, confidence: float = CONFIDENCE) -> float:
    """Exact upper bound of a share (Clopper & Pearson 1934, Biometrika 26:404), one-sided."""
    if events >= rows:
        return 1.0
    k = np.arange(events + 1)
    log_choose = np.array(
        [math.lgamma(rows + 1) - math.lgamma(i + 1) - math.lgamma(rows - i + 1) for i in k]
    )

    def is_plausible(p: float) -> bool:
        if p in (0.0, 1.0):
            return p == 0.0
        log_terms = log_choose + k * math.log(p) + (rows - k) * math.log1p(-p)
        return float(np.sum(np.exp(log_terms))) > 1 - confidence

    return _largest(is_plausible, events / rows, 1.0)


def mean_interval(values: PerRow, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Two-sided Student t interval of a mean; infinite for fewer than two rows."""
    if len(values) < 2:
        return -math.inf, math.inf
    half = student_quantile(0.5 + confidence / 2, len(values) - 1) * _standard_error(values)
    return float(np.mean(values)) - half, float(np.mean(values)) + half


def contribution_interval(
    per_row: PerRow, row_cost: float, confidence: float = CONFIDENCE
) -> tuple[float, float]:
    """Two-sided interval of F1 or ROC AUC from its contributions, inside 0 to 1.

    Wilson's with as many rows as would give a share this spread (the effective sample size of
    Korn & Graubard 1998, Survey Methodology 24:193).
    """
    n = len(per_row)
    if n < 2:
        return 0.0, 1.0
    value, variance = float(np.mean(per_row)), _standard_error(per_row) ** 2
    # What has no spread is known as well as by the rows that weigh most.
    fewest = n / max(1.0, row_cost)
    effective = value * (1 - value) / variance if variance > 1 / (fewest * n) ** 2 else fewest
    z = student_quantile(0.5 + confidence / 2, n - 1)
    centre = (value + z * z / (2 * effective)) / (1 + z * z / effective)
    spread = math.sqrt(max(0.0, value * (1 - value)) / effective + z * z / (4 * effective**2))
    half = z * spread / (1 + z * z / effective)
    return max(0.0, centre - half), min(1.0, centre + half)


# ----- below


def _bernstein_bound(losses: PerRow, width: float, confidence: float) -> float:
    """Empirical Bernstein bound (Maurer & Pontil 2009, arXiv:0907.3740, theorem 4).

    Losses lie in [-width, width].
    """
    n = len(losses)
    if n < 2:
        return width
    log_term = math.log(2 / (1 - confidence))
    spread = math.sqrt(2 * float(np.var(losses, ddof=1)) * log_term / n)
    return min(width, float(np.mean(losses)) + spread + 7 * 2 * width * log_term / (3 * (n - 1)))


def _student_bound(losses: PerRow, confidence: float) -> float:
    if len(losses) < 2:
        return math.inf
    t = student_quantile(confidence, len(losses) - 1)
    return float(np.mean(losses)) + t * _standard_error(losses)


def _standard_error(values: PerRow) -> float:
    return float(np.std(values, ddof=1)) / math.sqrt(len(values))


def student_quantile(confidence: float, degrees: int) -> float:
    """The one-sided quantile of Student's t, by bisecting its distribution function."""

    def is_below(t: float) -> bool:
        return _student_cdf(t, degrees) < confidence

    return _largest(is_below, 0.0, 1e4)


def _student_cdf(t: float, degrees: int) -> float:
    """P(T < t) for t >= 0: finite sums in theta = atan(t / sqrt(degrees)).

    Source: Abramowitz & Stegun 26.7.3 and 26.7.4.
    """
    if degrees > 200:  # the next term of the expansion is below 1e-6 (A&S 26.7.8)
        return NormalDist().cdf(t * (1 - 1 / (4 * degrees)) / math.sqrt(1 + t * t / (2 * degrees)))
    theta = math.atan(t / math.sqrt(degrees))
    cos2 = math.cos(theta) ** 2
    is_odd = degrees % 2 == 1
    term = math.cos(theta) if is_odd else 1.0
    total = 0.0 if degrees == 1 else term
    for i in range(2 if is_odd else 1, degrees - 1, 2):
        term *= cos2 * i / (i + 1)
        total += term
    inside = math.sin(theta) * total
    two_sided = 2 / math.pi * (theta + inside) if is_odd else inside
    return 0.5 + two_sided / 2


def _largest(holds: Callable[[float], bool], low: float, high: float) -> float:
    """Where ``holds`` turns from true to false between ``low`` and ``high``."""
    if holds(high):
        return high
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if holds(middle):
            low = middle
        else:
            high = middle
    return high
