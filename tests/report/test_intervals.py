import itertools
import math

import numpy as np
import pytest

from hlserve.nn.metrics import wilson_interval
from hlserve.report.intervals import (
    difference,
    mean_interval,
    paired_difference,
    share_interval,
    slope_interval,
    student_quantile,
)
from hlserve.report.learning import Interval


# Tables of Student's t, three digits behind the point as printed.
@pytest.mark.parametrize(
    ("confidence", "degrees", "printed"),
    [
        (0.975, 1, 12.706),
        (0.975, 2, 4.303),
        (0.975, 3, 3.182),
        (0.95, 5, 2.015),
        (0.975, 10, 2.228),
        (0.975, 120, 1.980),
        (0.975, 100_000, 1.960),
    ],
)
def test_student_quantiles_are_those_of_the_table(
    confidence: float, degrees: int, printed: float
) -> None:
    assert student_quantile(confidence, degrees) == pytest.approx(printed, abs=6e-4)


def test_a_mean_has_the_textbook_interval() -> None:
    values = np.array([4.0, 5.0, 6.0, 9.0])
    told = mean_interval(values)
    half = 3.18245 * np.std(values, ddof=1) / 2  # t of 3 degrees, from the table
    assert told.estimate == 6.0
    assert told.high - told.estimate == pytest.approx(half, rel=1e-5)  # the table's digits
    assert told.estimate - told.low == pytest.approx(half, rel=1e-5)


def test_a_single_value_bounds_nothing() -> None:
    assert mean_interval(np.array([2.0])) == Interval(2.0, -math.inf, math.inf)


@pytest.mark.parametrize(("hits", "rows"), [(0, 5), (5, 5), (3, 17), (999, 1000)])
def test_shares_have_wilsons_interval(hits: int, rows: int) -> None:
    told = share_interval(hits, rows)
    # one rounding of each operation
    assert (told.low, told.high) == pytest.approx(wilson_interval(hits, rows), abs=1e-12)


@pytest.mark.parametrize(
    ("a", "b", "low", "high"),
    [  # Newcombe 1998, table II, method 10, to the four digits printed there
        ((56, 70), (48, 80), 0.0524, 0.3339),
        ((9, 10), (3, 10), 0.1705, 0.8090),
        ((5, 56), (0, 29), -0.0381, 0.1926),
        ((10, 10), (0, 10), 0.6075, 1.0),
    ],
)
def test_a_difference_of_shares_has_newcombes_interval(
    a: tuple[int, int], b: tuple[int, int], low: float, high: float
) -> None:
    told = difference(share_interval(*a), share_interval(*b))
    assert (told.low, told.high) == pytest.approx((low, high), abs=6e-5)


def test_a_difference_of_means_adds_their_variances() -> None:
    told = difference(Interval(5.0, 2.0, 8.0), Interval(1.0, -3.0, 5.0))
    assert told == Interval(4.0, -1.0, 9.0)  # 3-4-5


def test_paired_shares_cover_the_truth_nearly_as_often_as_they_say() -> None:
    n, only_a, only_b = 25, 0.25, 0.1
    truth, covered = only_a - only_b, 0.0
    for x, y in itertools.product(range(n + 1), repeat=2):
        if x + y > n:
            continue
        ways = math.comb(n, x) * math.comb(n - x, y)
        chance = ways * only_a**x * only_b**y * (1 - only_a - only_b) ** (n - x - y)
        a = np.array([1.0] * x + [0.0] * (n - x))
        b = np.array([0.0] * x + [1.0] * y + [0.0] * (n - x - y))
        told = paired_difference(a, b)
        covered += chance * (told.low <= truth <= told.high)
    assert covered > 0.93  # an approximate interval: Agresti & Min report 0.94 and above


def test_rows_that_never_differ_are_not_certain() -> None:
    same = np.ones(20)
    told = paired_difference(same, same)
    assert told.estimate == 0.0
    assert told.low < -0.05
    assert told.high > 0.05


def test_paired_errors_are_compared_row_by_row() -> None:
    rng = np.random.default_rng(0)
    hard = rng.exponential(10.0, 200)
    told = paired_difference(hard + 0.1 + 0.01 * rng.normal(size=200), hard)
    assert told.low > 0.09  # although the rows themselves spread a thousand times as far
    assert told.high < 0.11


def test_a_slope_is_that_of_least_squares() -> None:
    y = np.array([3.0, 2.5, 2.4, 1.7, 1.5])
    x = np.arange(5)
    (slope, _), covariance = np.polyfit(x, y, 1, cov=True)
    told = slope_interval(y.tolist())
    half = 3.18245 * math.sqrt(covariance[0, 0])
    assert told.estimate == pytest.approx(slope, rel=1e-9)  # float64 rounding
    assert told.high - told.estimate == pytest.approx(half, rel=1e-5)  # the table's digits


@pytest.mark.parametrize("losses", [[], [1.0], [1.0, 0.5]])
def test_too_few_points_bound_no_slope(losses: list[float]) -> None:
    told = slope_interval(losses)
    assert (told.low, told.high) == (-math.inf, math.inf)
