import numpy as np
import pytest

from hlserve.errors import DataError
from hlserve.nn.losses import CrossEntropy, Loss, MeanSquaredError
from hlserve.nn.metrics import (
    accuracy,
    mean_absolute_error,
    mean_squared_error,
    r2,
    wilson_interval,
)
from hlserve.nn.param import Array

RNG_SEED = 7


def labels_and_scores(classes: int, batch: int) -> tuple[Array, Array]:
    rng = np.random.default_rng(RNG_SEED)
    return rng.integers(0, classes, batch), rng.normal(scale=3.0, size=(classes, batch))


CASES: list[tuple[str, Loss, Array, Array]] = [
    ("cross-entropy", CrossEntropy(), *labels_and_scores(5, 9)),
    ("cross-entropy, one row", CrossEntropy(), *labels_and_scores(3, 1)),
    ("squared error", MeanSquaredError(), np.arange(8.0), labels_and_scores(1, 8)[1]),
    (
        "squared error, scale an output",
        MeanSquaredError(np.array([2.0, 0.5, 10.0])),
        np.arange(12.0).reshape(4, 3),
        labels_and_scores(3, 4)[1],
    ),
]


@pytest.mark.parametrize(
    ("loss", "targets", "scores"), [c[1:] for c in CASES], ids=[c[0] for c in CASES]
)
def test_gradient_matches_central_differences(loss: Loss, targets: Array, scores: Array) -> None:
    before = scores.copy()
    gradient = loss(scores, targets)[1].copy()
    direction = np.random.default_rng(RNG_SEED).normal(size=scores.shape)
    h = 1e-6
    up, down = (loss(scores + sign * h * direction, targets)[0] for sign in (1, -1))
    # Central differences in float64 err by h^2 and by rounding / h, both near 1e-10.
    assert np.vdot(gradient, direction) == pytest.approx((up - down) / (2 * h), rel=1e-7)
    np.testing.assert_array_equal(scores, before)


def test_cross_entropy_equals_its_definition() -> None:
    labels, scores = labels_and_scores(6, 20)
    share = np.exp(scores) / np.exp(scores).sum(axis=0)
    expected = -np.log(share[labels, np.arange(20)]).mean()
    assert CrossEntropy()(scores, labels)[0] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_cross_entropy_stands_huge_scores(dtype: type) -> None:
    scores = np.array([[1e30, -1e30], [-1e30, 1e30], [0.0, 0.0]], dtype)
    value, gradient = CrossEntropy()(scores, np.array([0, 1]))
    assert value == 0.0
    np.testing.assert_array_equal(gradient, np.zeros((3, 2)))
    value, gradient = CrossEntropy()(scores, np.array([1, 1]))
    assert value == pytest.approx(1e30, rel=1e-6)
    np.testing.assert_array_equal(gradient[:, 0], [0.5, -0.5, 0.0])


def test_cross_entropy_takes_every_integer_type() -> None:
    labels, scores = labels_and_scores(200, 300)  # labels * batch overflows in uint8
    expected = CrossEntropy()(scores, labels)[0]
    assert CrossEntropy()(scores, labels.astype(np.uint8))[0] == expected


def test_steady_calls_allocate_nothing_the_size_of_the_scores() -> None:
    labels, scores = labels_and_scores(50, 64)
    loss = CrossEntropy()
    first = loss(scores, labels)[1]
    assert np.shares_memory(first, loss(scores, labels)[1])


@pytest.mark.parametrize(
    ("loss", "targets", "message"),
    [
        (CrossEntropy(), np.zeros((4, 3)), r"shape \(4,\), got \(4, 3\)"),
        (CrossEntropy(), {"teacher": np.zeros(4)}, r"by name, got \['teacher'\]"),
        (MeanSquaredError(), np.zeros((3, 4)), r"shape \(4, 3\), got \(3, 4\)"),
    ],
)
def test_targets_that_do_not_fit_are_refused(loss: Loss, targets: Array, message: str) -> None:
    with pytest.raises(DataError, match=message):
        loss(np.zeros((3, 4)), targets)


def test_squared_error_refuses_a_scale_of_zero() -> None:
    with pytest.raises(DataError, match="expected positive"):
        MeanSquaredError(np.array([1.0, 0.0]))


# ----- metrics


def test_accuracy_counts_the_highest_score_and_breaks_ties_by_the_first() -> None:
    scores = np.array([[0.1, 0.9], [0.5, 0.5], [0.8, 0.2]])
    assert accuracy(scores, np.array([1, 0, 1])) == pytest.approx(2 / 3)


def test_regression_metrics_equal_their_definitions() -> None:
    targets = np.array([1.0, 2.0, 3.0, 4.0])
    predictions = targets + np.array([0.5, -0.5, 1.0, 0.0])
    assert mean_squared_error(predictions, targets) == pytest.approx(1.5 / 4)
    assert mean_absolute_error(predictions, targets) == pytest.approx(0.5)
    assert r2(predictions, targets) == pytest.approx(1 - 1.5 / 5)
    assert np.isnan(r2(np.zeros(3), np.ones(3)))


def test_wilson_interval_equals_published_figures() -> None:
    # Newcombe 1998, Statistics in Medicine 17:857, table I, method 3.
    assert wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson_interval(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)
    assert wilson_interval(1, 29) == pytest.approx((0.0061, 0.1718), abs=5e-5)


def test_metrics_refuse_unequal_or_no_rows() -> None:
    with pytest.raises(DataError, match="2 predictions for 3 targets"):
        accuracy(np.zeros((2, 2)), np.zeros(3))
    with pytest.raises(DataError, match="0 predictions"):
        mean_squared_error(np.zeros(0), np.zeros(0))
    with pytest.raises(DataError, match=r"predictions have shape \(3,\), targets \(3, 1\)"):
        mean_absolute_error(np.zeros(3), np.zeros((3, 1)))
    with pytest.raises(DataError, match="5 successes of 4"):
        wilson_interval(5, 4)
