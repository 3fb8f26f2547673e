"""Streaming histograms: exact counts, ranges as NumPy finds them, and memory that stays."""

import tracemalloc
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compress.export import dequantize_array, quantize_array
from compress.quantization.histogram import BINS, Histogram
from compress.quantization.observer import (
    CUTS,
    activation_qparams,
    least_error_range,
    observed,
    percentile_range,
    value_range,
)
from tests.compress.histograms import histogram_of

KINDS = {
    "relu": lambda rng, n: np.maximum(rng.normal(size=n), 0),
    "both sides": lambda rng, n: rng.normal(size=n) * 3 + 1,
    "negative": lambda rng, n: -np.abs(rng.normal(size=n)) - 0.5,
    "positive": lambda rng, n: rng.uniform(5, 6, n),
    "far from zero": lambda rng, n: 1e6 + rng.uniform(0, 1e-3, n),
    "heavy tails": lambda rng, n: rng.standard_cauchy(n),
    "constant": lambda rng, n: np.full(n, -2.5),
    "zero": lambda rng, n: np.zeros(n),
    "large": lambda rng, n: rng.normal(size=n) * 1e300,
    "small": lambda rng, n: rng.normal(size=n) * 1e-300,
    "two values": lambda rng, n: rng.choice([-1.0, 4.0], n),
}
kinds = pytest.mark.parametrize("kind", KINDS)


@kinds
@pytest.mark.parametrize("n", [1, 2, 7, 5000])
def test_counts_are_those_of_a_histogram_taken_at_once(kind, n):
    values = KINDS[kind](np.random.default_rng(1), n)
    seen = histogram_of(values, n_batches=min(n, 13))
    edges = (seen.start / seen.width + np.arange(BINS + 1)) * seen.width
    np.testing.assert_array_equal(seen.counts, np.histogram(values, edges)[0])
    assert (seen.low, seen.high, seen.n) == (values.min(), values.max(), n)


@kinds
def test_neither_order_nor_batches_change_anything(kind):
    values = KINDS[kind](np.random.default_rng(2), 999)
    one = histogram_of(values)
    for other in (histogram_of(values[::-1], 999), histogram_of(np.sort(values), 10)):
        assert (one.start, one.width) == (other.start, other.width)
        np.testing.assert_array_equal(one.counts, other.counts)


@given(st.lists(st.floats(-1e300, 1e300), min_size=1, max_size=30))
def test_every_finite_value_is_counted_in_the_bin_that_holds_it(values):
    seen = histogram_of(np.array(values), n_batches=len(values))
    assert seen.counts.sum() == seen.n == len(values)
    used = np.flatnonzero(seen.counts)
    for end, bin_ in ((seen.low, used[0]), (seen.high, used[-1])):
        begin = Fraction(seen.start) + int(bin_) * Fraction(seen.width)
        assert begin <= Fraction(end) < begin + Fraction(seen.width)


@kinds
@pytest.mark.parametrize("percentile", [90.0, 99.0, 99.9, 100.0])
def test_a_percentile_is_that_of_all_values_to_within_a_bin(kind, percentile):
    values = KINDS[kind](np.random.default_rng(3), 20_011)  # a prime: no share falls on a count
    seen = histogram_of(values, n_batches=31)
    outside = 100 - percentile
    below, above = outside, percentile
    if values.min() < 0 < values.max():
        below, above = outside / 2, 100 - outside / 2
    # "inverted_cdf" answers a value that was there; the default one stands between two of them.
    wanted = (
        values.min() if values.min() >= 0 else np.percentile(values, below, method="inverted_cdf"),
        values.max() if values.max() <= 0 else np.percentile(values, above, method="inverted_cdf"),
    )
    low, high = percentile_range(seen, percentile)
    assert wanted[0] - seen.width <= low <= wanted[0]
    assert wanted[1] <= high <= wanted[1] + seen.width


@kinds
def test_the_bins_are_finer_than_a_quarter_of_an_integer_step(kind):
    values = KINDS[kind](np.random.default_rng(4), 5000)
    seen = histogram_of(values, n_batches=7)
    step = (max(seen.high, 0.0) - min(seen.low, 0.0)) / 255
    assert step == 0 or seen.width <= step / 4


def rounding_error(values, limits):
    qparams = activation_qparams(limits)
    back = dequantize_array(quantize_array(values, qparams), qparams)
    return float(np.mean(np.square(back.astype(np.float64) - values)))


@pytest.mark.parametrize("kind", ["relu", "both sides", "negative", "heavy tails", "constant"])
def test_the_least_error_is_that_of_a_search_over_all_values(kind):
    values = KINDS[kind](np.random.default_rng(5), 4000).astype(np.float32)
    seen = histogram_of(values, n_batches=9)
    low, high = min(seen.low, 0.0), max(seen.high, 0.0)
    errors = [
        rounding_error(values, (low * a, high * b))
        for a in (CUTS[::4] if low < 0 else (0.0,))
        for b in (CUTS[::4] if high > 0 else (0.0,))
    ]
    # A value may be half a bin from the middle that stands for it; a bin is 1/4 step at most.
    slack = (seen.width / 2) ** 2
    assert rounding_error(values, least_error_range(seen)) <= min(errors) + slack


def test_an_outlier_is_cut_where_that_costs_less_than_coarse_steps():
    rng = np.random.default_rng(6)
    values = np.append(rng.normal(size=100_000), 60.0)
    low, high = least_error_range(histogram_of(values))
    assert high < 0.9 * 60
    assert rounding_error(values, (low, high)) < rounding_error(values, (values.min(), 60.0))


def test_percentile_cuts_an_outlier_and_keeps_the_side_that_ends_at_zero():
    values = np.concatenate([np.linspace(0, 1, 9_999), [1000.0]])
    seen = observed([{"a": values[:5000]}, {"a": values[5000:]}])["a"]
    low, high = percentile_range(seen, 99.9)
    assert low == 0.0
    assert high <= 1.0 + seen.width
    assert percentile_range(seen, 100.0) == (0.0, 1000.0)


def test_what_is_not_finite_is_counted_apart():
    values = np.array([np.nan, 1.0, np.inf, -2.0, -np.inf, 3.0], np.float32)
    seen = histogram_of(values, n_batches=6)
    assert (seen.n, seen.n_strange, seen.low, seen.high) == (3, 3, -2.0, 3.0)
    nothing = histogram_of(np.array([np.nan, np.inf]))
    assert nothing.n == 0
    for observer in ("minmax", "percentile", "mse"):
        assert value_range(nothing, observer, 99.0) == (0.0, 0.0)
        assert value_range(Histogram(), observer, 99.0) == (0.0, 0.0)


@kinds
def test_few_bins_hold_the_same_values(kind):
    seen = histogram_of(KINDS[kind](np.random.default_rng(7), 3000), n_batches=4)
    counts, start, end = seen.condensed(64)
    assert 1 <= len(counts) <= 64
    assert counts.sum() == 3000
    assert start <= seen.low
    assert seen.high < end


def test_memory_stays_however_many_values_come():
    rng = np.random.default_rng(8)
    values = rng.normal(size=4096)

    def peak(n_batches):
        seen = Histogram()
        tracemalloc.start()
        for n in range(n_batches):
            seen.add(values * (1 + n))  # each one wider than the last
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    peak(1)  # the first call imports and caches
    assert peak(200) < 1.2 * peak(4)  # both hold one batch and 2,048 counts


def test_the_share_outside_is_counted_to_within_a_bin():
    values = np.random.default_rng(9).normal(size=50_000)
    seen = histogram_of(values, n_batches=5)
    wanted = np.mean((values < -1.0) | (values > 2.0))
    in_end_bins = 2 * seen.counts.max() / seen.n
    assert seen.share_outside(-1.0, 2.0) == pytest.approx(wanted, abs=in_end_bins)
    assert seen.share_outside(seen.low, seen.high) <= in_end_bins
