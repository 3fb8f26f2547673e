"""Bounds: what is refused, known values, and coverage by enumeration and simulation."""

import math

import numpy as np
import pytest

from compress.bound import (
    binomial_bound,
    contribution_bound,
    drop,
    mean_interval,
    paired_share_bound,
    parse_max_drop,
    smallest_provable,
    student_quantile,
)
from compress.metric import ACCURACY, AGREEMENT, COSINE, F1, MSE
from hlserve.errors import ConfigError


def test_points_and_plain_numbers_are_the_same_bound():
    assert parse_max_drop("0.5pp", ACCURACY) == parse_max_drop("0.005", ACCURACY) == 0.005
    assert parse_max_drop(0.005, ACCURACY) == 0.005
    assert parse_max_drop("30pp", ACCURACY) == pytest.approx(0.3)
    assert parse_max_drop("0.5", MSE) == 0.5


@pytest.mark.parametrize(
    ("text", "metric", "message"),
    [
        ("0.5", ACCURACY, "most likely a slip"),
        ("0.5", AGREEMENT, "most likely a slip"),
        ("-0.1", ACCURACY, "zero or more"),
        ("nan", MSE, "zero or more"),
        ("half", ACCURACY, "no number"),
        ("1pp", MSE, "no share"),
    ],
)
def test_unusable_bounds_are_refused(text, metric, message):
    with pytest.raises(ConfigError, match=message):
        parse_max_drop(text, metric)


def test_exact_binomial_bound_has_its_known_values():
    assert binomial_bound(0, 1000) == pytest.approx(1 - 0.05 ** (1 / 1000), rel=1e-9)
    assert binomial_bound(2, 20) == pytest.approx(0.28262, abs=1e-5)  # Clopper & Pearson's charts
    assert binomial_bound(7, 7) == 1.0


@pytest.mark.parametrize(
    ("confidence", "degrees", "quantile"),
    [(0.95, 1, 6.3138), (0.95, 2, 2.9200), (0.975, 9, 2.2622), (0.95, 30, 1.6973),
     (0.95, 1000, 1.6464)],
)  # fmt: skip
def test_student_quantiles_are_those_of_the_tables(confidence, degrees, quantile):
    assert student_quantile(confidence, degrees) == pytest.approx(quantile, abs=1e-4)


@pytest.mark.parametrize("rows", [30, 120, 400])
def test_paired_bound_covers_the_true_drop_by_enumeration(rows):
    most = min(rows, 60)
    uppers = np.array(
        [
            [paired_share_bound(b, c, rows) if b + c <= rows else 1.0 for c in range(most)]
            for b in range(most)
        ]
    )
    log_factorial = np.array([math.lgamma(i + 1) for i in range(rows + 1)])
    b, c = np.meshgrid(np.arange(most), np.arange(most), indexing="ij")
    rest = np.maximum(rows - b - c, 0)
    ways = log_factorial[rows] - log_factorial[b] - log_factorial[c] - log_factorial[rest]
    covered = []
    for better in np.array([1e-6, 0.5, 1.0, 3.0, 8.0]) / rows:
        for true_drop in np.linspace(0.1, 12.0, 40) / rows:
            worse = better + true_drop
            logs = ways + b * np.log(worse) + c * np.log(better)
            p = np.exp(logs + rest * np.log(1 - worse - better)) * (b + c <= rows)
            covered.append(1 - p[uppers < true_drop].sum())
    assert min(covered) >= 0.947  # nominal 0.95; 0.9476 in the worst corner of 30 rows


def test_bernstein_and_student_bounds_cover_by_simulation():
    rng = np.random.default_rng(3)
    before, after = np.ones((400, 200)), np.ones((400, 200))
    after -= rng.uniform(0, 0.3, after.shape) * (rng.uniform(size=after.shape) < 0.1)
    uppers = [drop(AGREEMENT, b, a).upper for b, a in zip(before, after, strict=True)]
    assert np.mean(np.array(uppers) >= 0.015) >= 0.95
    errors = rng.exponential(1.0, size=(2, 4000, 200))
    uppers = [drop(MSE, b, a).upper for b, a in zip(*errors, strict=True)]
    assert np.mean(np.array(uppers) >= 0.0) >= 0.94  # less three standard errors


def test_a_drop_of_an_error_is_its_rise():
    worse = drop(MSE, np.array([1.0, 2.0, 3.0]), np.array([1.5, 2.5, 3.5]))
    assert worse.estimate == pytest.approx(0.5)
    assert worse.upper == pytest.approx(0.5)


def test_smallest_provable_drop_shrinks_with_rows_and_is_the_bound_of_no_change():
    assert smallest_provable(ACCURACY, 1000) == pytest.approx(0.0036, abs=1e-4)
    assert smallest_provable(AGREEMENT, 1000) == pytest.approx(0.0030, abs=1e-4)
    assert smallest_provable(ACCURACY, 10_000) < 0.0005
    assert smallest_provable(MSE, 100) is None
    ones = np.ones(500)
    assert drop(COSINE, ones, ones).upper == smallest_provable(COSINE, 500)


def test_too_few_rows_prove_nothing():
    assert drop(ACCURACY, np.ones(0), np.ones(0)).upper == 1.0
    assert drop(MSE, np.ones(1), np.ones(1)).upper == math.inf
    assert mean_interval(np.ones(1)) == (-math.inf, math.inf)


def test_a_bound_for_many_comparisons_is_bonferronis():
    before, after = np.ones(500), np.ones(500)
    after[:3] = 0
    one = drop(ACCURACY, before, after)
    many = drop(ACCURACY, before, after, comparisons=10)
    assert many.comparisons == 10
    assert many.confidence == one.confidence == 0.95  # of all ten together
    assert many.upper == drop(ACCURACY, before, after, 0.995).upper > one.upper
    assert smallest_provable(ACCURACY, 500, 10) > smallest_provable(ACCURACY, 500)
    with pytest.raises(ConfigError, match="comparisons is 0, expected 1 or more"):
        drop(ACCURACY, before, after, comparisons=0)


@pytest.mark.parametrize("worse", [0, 1, 3, 10, 40])
@pytest.mark.parametrize("confidence", [0.95, 0.995])
def test_contribution_bound_of_rows_right_or_wrong_is_near_the_exact_one(worse, confidence):
    losses = np.zeros(2000)
    losses[:worse] = 1
    exact = binomial_bound(worse, 2000, confidence)
    ours = contribution_bound(losses, 1.0, confidence)
    assert exact * 0.99 < ours < exact + 3.5 / 2000  # by what a count of none is overrated


def test_contribution_bound_covers_rare_costly_rows_by_simulation():
    rng = np.random.default_rng(5)
    for rate in (0.002, 0.01, 0.05):
        losses = (rng.random((2000, 300)) < rate) * rng.choice([0.3, 1.0], (2000, 300))
        uppers = np.array([contribution_bound(x, 1.0, 0.95) for x in losses])
        assert np.mean(uppers >= 0.65 * rate) >= 0.935  # nominal, less three standard errors


def test_a_metric_that_is_no_mean_needs_to_know_what_a_row_may_cost():
    with pytest.raises(ConfigError, match="bound of f1 needs what one row may cost"):
        drop(F1, np.ones(10), np.ones(10))
    assert drop(F1, np.ones(1), np.ones(1), row_cost=1.0).upper == 1.0
    assert smallest_provable(F1, 1000) is None
