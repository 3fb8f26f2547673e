"""95 % intervals: of a mean, of a difference, of a slope. Pure functions of numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from hlserve.report.learning import Interval

CONFIDENCE = 0.95
_MANY = 200  # degrees of freedom from which an expansion is exact to 1e-6
_HALVINGS = 60  # bisection to the last bit that matters


def mean_interval(values: NDArray[np.float64]) -> Interval:
    """Student's interval of a mean; without bounds for fewer than two values."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return Interval(mean, -math.inf, math.inf)
    error = float(np.std(values, ddof=1)) / math.sqrt(len(values))
    half = student_quantile(0.5 + CONFIDENCE / 2, len(values) - 1) * error
    return Interval(mean, mean - half, mean + half)


def share_interval(successes: int, trials: int) -> Interval:
    """Wilson's interval of a share (Brown, Cai & DasGupta 2001, equation 4)."""
    z = NormalDist().inv_cdf(0.5 + CONFIDENCE / 2)
    share = successes / trials
    centre = (share + z * z / (2 * trials)) / (1 + z * z / trials)
    spread = math.sqrt(share * (1 - share) / trials + z * z / (4 * trials**2))
    half = z * spread / (1 + z * z / trials)
    return Interval(share, max(0.0, centre - half), min(1.0, centre + half))


def difference(a: Interval, b: Interval) -> Interval:
    """The difference a - b of two independent samples, from the interval of each.

    With Wilson's intervals this is Newcombe's score interval for two proportions (1998,
    Statistics in Medicine 17:873, method 10); in general the recovery of variances of Zou &
    Donner (2008, Statistics in Medicine 27:1693).
    """
    estimate = a.estimate - b.estimate
    below = math.hypot(a.estimate - a.low, b.high - b.estimate)
    above = math.hypot(a.high - a.estimate, b.estimate - b.low)
    return Interval(estimate, estimate - below, estimate + above)


def paired_difference(a: NDArray[np.float64], b: NDArray[np.float64]) -> Interval:
    """The mean of a - b over the same rows.

    Where every value is 0 or 1 half a row is added to each of the four cells (Agresti & Min
    2005, Statistics in Medicine 24:729), so that few rows that differ do not look certain; the
    estimate stays the plain one. Else Student's interval.
    """
    d = a - b
    if not (np.isin(a, (0.0, 1.0)).all() and np.isin(b, (0.0, 1.0)).all()):
        return mean_interval(d)
    n, only_a, only_b = len(d) + 2, np.sum(d > 0) + 0.5, np.sum(d < 0) + 0.5
    centre = (only_a - only_b) / n
    z = NormalDist().inv_cdf(0.5 + CONFIDENCE / 2)
    half = z * math.sqrt(only_a + only_b - (only_a - only_b) ** 2 / n) / n
    return Interval(
        float(np.mean(d)), float(max(-1.0, centre - half)), float(min(1.0, centre + half))
    )


def slope_interval(values: Sequence[float]) -> Interval:
    """The slope per step of the least-squares line; without bounds for fewer than three."""
    y = np.array(values, np.float64)
    n = len(y)
    if n < 2:
        return Interval(0.0, -math.inf, math.inf)
    x = np.arange(n) - (n - 1) / 2
    spread = float(np.sum(x * x))
    slope = float(np.sum(x * y)) / spread
    if n < 3:
        return Interval(slope, -math.inf, math.inf)
    residual = y - y.mean() - slope * x
    error = math.sqrt(float(np.sum(residual * residual)) / (n - 2) / spread)
    half = student_quantile(0.5 + CONFIDENCE / 2, n - 2) * error
    return Interval(slope, slope - half, slope + half)


def student_quantile(confidence: float, degrees: int) -> float:
    """The one-sided quantile of Student's t above 0, by bisecting its distribution function."""
    low, high = 0.0, 1e4
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if _student_cdf(middle, degrees) < confidence else (low, middle)
    return high


def _student_cdf(t: float, degrees: int) -> float:
    """P(T < t) for t >= 0: finite sums in theta = atan(t / sqrt(degrees)).

    Source: Abramowitz & Stegun 26.7.3 and 26.7.4; 26.7.8 for many degrees.
    """
    if degrees > _MANY:
        return NormalDist().cdf(t * (1 - 1 / (4 * degrees)) / math.sqrt(1 + t * t / (2 * degrees)))
    theta = math.atan(t / math.sqrt(degrees))
    is_odd = degrees % 2 == 1
    term = math.cos(theta) if is_odd else 1.0
    total = 0.0 if degrees == 1 else term
    for i in range(2 if is_odd else 1, degrees - 1, 2):
        term *= math.cos(theta) ** 2 * i / (i + 1)
        total += term
    inside = math.sin(theta) * total
    return 0.5 + (2 / math.pi * (theta + inside) if is_odd else inside) / 2
