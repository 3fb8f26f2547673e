"""Metrics against scikit-learn, or against a naive loop where it has none."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from sklearn import metrics as reference

from hlserve.errors import DataError
from hlserve.nn.metrics import (
    accuracy,
    average_precision,
    brier,
    confusion_matrix,
    expected_calibration_error,
    f1,
    label_accuracy,
    log_loss,
    mean_absolute_error,
    mean_squared_error,
    r2,
    roc_auc,
    wilson_interval,
)
from hlserve.nn.param import Array

ROWS = 200
CLOSE = 1e-12  # float64 sums of 200 numbers in another order


def rng() -> np.random.Generator:
    return np.random.default_rng(11)


def softmax(scores: Array) -> Array:
    e = np.exp(scores - scores.max(axis=1, keepdims=True))
    return np.asarray(e / e.sum(axis=1, keepdims=True))


def classes(n_classes: int) -> tuple[Array, Array]:
    """Probabilities that are right more often than not, and labels."""
    labels = rng().integers(0, n_classes, ROWS)
    scores = rng().normal(size=(ROWS, n_classes))
    scores[np.arange(ROWS), labels] += 0.8
    return softmax(scores), labels


def marks(n_labels: int = 4) -> tuple[Array, Array]:
    labels = (rng().random((ROWS, n_labels)) < 0.3).astype(np.int64)
    return rng().normal(size=(ROWS, n_labels)) + labels, labels


# ----- decisions


def test_accuracy_counts_the_highest_score_and_breaks_ties_by_the_first() -> None:
    scores = np.array([[0.1, 0.9], [0.5, 0.5], [0.8, 0.2]])
    assert accuracy(scores, np.array([1, 0, 1])) == pytest.approx(2 / 3)


def test_label_accuracy_is_one_less_the_hamming_loss() -> None:
    scores, labels = marks()
    expected = 1 - reference.hamming_loss(labels, scores > 0)
    assert label_accuracy(scores > 0, labels) == pytest.approx(expected, rel=CLOSE)


def test_confusion_matrix_equals_scikit_learns() -> None:
    probabilities, labels = classes(4)
    predicted = probabilities.argmax(axis=1)
    predicted[predicted == 2] = 3  # a class that is never predicted
    matrix = confusion_matrix(predicted, labels.astype(np.uint8), 5)
    expected = reference.confusion_matrix(labels, predicted, labels=range(5))
    np.testing.assert_array_equal(matrix, expected)


@pytest.mark.parametrize("average", ["macro", "micro"])
@pytest.mark.parametrize("n_classes", [2, 5])
def test_f1_of_classes_equals_scikit_learns(n_classes: int, average: Any) -> None:
    probabilities, labels = classes(n_classes)
    predicted = probabilities.argmax(axis=1)
    expected = reference.f1_score(labels, predicted, average=average)
    assert f1(predicted, labels, average=average) == pytest.approx(expected, rel=CLOSE)


@pytest.mark.parametrize(
    ("predicted", "labels"),
    [
        ([0, 1, 1, 0, 1], [0, 1, 0, 0, 1]),
        ([0, 0, 0], [0, 1, 1]),  # class 1 is never predicted
        ([0, 0], [0, 0]),  # class 1 does not occur
        ([1, 1], [1, 1]),
        ([1], [0]),
    ],
)
def test_binary_f1_equals_scikit_learns(predicted: list[int], labels: list[int]) -> None:
    for average in ("binary", "macro", "micro"):
        expected = reference.f1_score(labels, predicted, average=average, zero_division=0)
        found = f1(np.array(predicted), np.array(labels), average=average)  # type: ignore[arg-type]
        assert found == pytest.approx(expected, rel=CLOSE)


@pytest.mark.parametrize("average", ["macro", "micro"])
def test_f1_of_labels_equals_scikit_learns(average: Any) -> None:
    scores, labels = marks()
    labels[:, 2] = 0
    scores[:, 2] = -1.0  # a label that is neither set nor predicted
    expected = reference.f1_score(labels, scores > 0, average=average, zero_division=0)
    assert f1(scores > 0, labels, average=average) == pytest.approx(expected, rel=CLOSE)


def test_wilson_interval_equals_published_figures() -> None:
    # Newcombe 1998, Statistics in Medicine 17:857, table I, method 3.
    assert wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson_interval(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)
    assert wilson_interval(1, 29) == pytest.approx((0.0061, 0.1718), abs=5e-5)


# ----- ranking


@pytest.mark.parametrize("digits", [0, 1, 12], ids=["mostly ties", "some ties", "no ties"])
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (roc_auc, reference.roc_auc_score),
        (average_precision, reference.average_precision_score),
    ],
)
def test_ranking_of_two_classes_equals_scikit_learns(
    ours: Callable[[Array, Array], float], theirs: Callable[[Array, Array], float], digits: int
) -> None:
    labels = rng().integers(0, 2, ROWS)
    scores = np.round(rng().normal(size=ROWS) + labels, digits)
    expected = theirs(labels, scores)
    assert ours(scores, labels) == pytest.approx(expected, rel=CLOSE)
    two = np.stack([np.zeros(ROWS), scores], axis=1)
    assert ours(two, labels) == pytest.approx(expected, rel=CLOSE)


def test_ranking_of_several_classes_equals_scikit_learns_one_against_the_rest() -> None:
    probabilities, labels = classes(5)
    probabilities = np.round(probabilities, 1)  # many ties
    probabilities[:, 0] += 1 - probabilities.sum(axis=1)  # scikit-learn wants a sum of 1
    expected = reference.roc_auc_score(labels, probabilities, multi_class="ovr")
    assert roc_auc(probabilities, labels) == pytest.approx(expected, rel=CLOSE)
    expected = reference.average_precision_score(labels, probabilities)
    assert average_precision(probabilities, labels) == pytest.approx(expected, rel=CLOSE)


def test_ranking_of_labels_equals_scikit_learns() -> None:
    scores, labels = marks()
    expected = reference.roc_auc_score(labels, scores)
    assert roc_auc(scores, labels) == pytest.approx(expected, rel=CLOSE)
    expected = reference.average_precision_score(labels, scores)
    assert average_precision(scores, labels) == pytest.approx(expected, rel=CLOSE)


@pytest.mark.parametrize("metric", [roc_auc, average_precision])
def test_a_class_that_tells_nothing_is_left_out(metric: Callable[[Array, Array], float]) -> None:
    scores, labels = marks()
    alone = metric(scores[:, :3], labels[:, :3])
    labels[:, 3] = 0
    assert metric(scores, labels) == pytest.approx(alone, rel=CLOSE)
    labels[:, 3] = 1
    assert metric(scores, labels) == pytest.approx(alone, rel=CLOSE)
    assert np.isnan(metric(scores[:, 3], labels[:, 3]))
    assert np.isnan(metric(scores, np.zeros_like(labels)))


# ----- probabilities


@pytest.mark.parametrize("n_classes", [2, 4])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_log_loss_and_brier_equal_scikit_learns(n_classes: int, dtype: type) -> None:
    probabilities, labels = classes(n_classes)
    probabilities[0] = np.eye(n_classes)[(labels[0] + 1) % n_classes]  # sure, and wrong
    probabilities = probabilities.astype(dtype)
    known = list(range(n_classes))
    close = 1e-12 if dtype is np.float64 else 1e-6  # the type's rounding
    expected = reference.log_loss(labels, probabilities, labels=known)
    assert log_loss(probabilities, labels) == pytest.approx(expected, rel=close)
    expected = reference.brier_score_loss(labels, probabilities, labels=known, scale_by_half=False)
    assert brier(probabilities, labels) == pytest.approx(expected, rel=close)


def test_probabilities_of_class_one_equal_scikit_learns() -> None:
    probabilities, labels = classes(2)
    of_one = probabilities[:, 1]
    assert log_loss(of_one, labels) == pytest.approx(reference.log_loss(labels, of_one), rel=CLOSE)
    expected = reference.brier_score_loss(labels, of_one)
    assert brier(of_one, labels) == pytest.approx(expected, rel=CLOSE)


def naive_calibration_error(claimed: Array, came_true: Array, n_bins: int) -> float:
    """Guo et al. 2017, equation 5, bin by bin."""
    total = 0.0
    for low in range(n_bins):
        inside = (claimed > low / n_bins) & (claimed <= (low + 1) / n_bins)
        if low == 0:
            inside |= claimed == 0
        if inside.any():
            gap = abs(came_true[inside].mean() - claimed[inside].mean())
            total += inside.sum() / len(claimed) * gap
    return total


def test_calibration_error_equals_its_definition() -> None:
    probabilities, labels = classes(3)
    probabilities[:2] = np.eye(3)[:2]
    expected = naive_calibration_error(
        probabilities.max(axis=1), probabilities.argmax(axis=1) == labels, 15
    )
    assert expected_calibration_error(probabilities, labels) == pytest.approx(expected, rel=1e-9)
    of_one, labels = classes(2)[0][:, 1], classes(2)[1]
    expected = naive_calibration_error(of_one, labels == 1, 7)
    assert expected_calibration_error(of_one, labels, n_bins=7) == pytest.approx(expected, rel=1e-9)


def test_what_comes_true_as_often_as_claimed_is_calibrated() -> None:
    of_one = np.repeat([0.25, 0.75], 100)
    labels = np.concatenate([np.arange(100) % 4 == 0, np.arange(100) % 4 != 0]).astype(np.int64)
    assert expected_calibration_error(of_one, labels) == pytest.approx(0.0, abs=1e-12)
    assert expected_calibration_error(of_one, 1 - labels) == pytest.approx(0.5)


# ----- numbers


@pytest.mark.parametrize("shape", [(ROWS,), (ROWS, 3)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_regression_metrics_equal_scikit_learns(shape: tuple[int, ...], dtype: type) -> None:
    targets = (5.0 * rng().normal(size=shape) + 100.0).astype(dtype)
    predictions = (targets + rng().normal(size=shape)).astype(dtype)
    for ours, theirs in (
        (mean_squared_error, reference.mean_squared_error),
        (mean_absolute_error, reference.mean_absolute_error),
        (r2, reference.r2_score),
    ):
        expected = theirs(targets.astype(np.float64), predictions.astype(np.float64))
        assert ours(predictions, targets) == pytest.approx(expected, rel=CLOSE)


def test_r2_of_targets_that_do_not_vary_is_not_a_number() -> None:
    assert np.isnan(r2(np.zeros(3), np.ones(3)))
    # 0.1 has no exact float, so their mean is another number; nor has 0.3, summed or as it is.
    for constant in (np.full(1000, 0.1), np.full((777, 2), 1e9 / 3), np.array([0.1 + 0.2, 0.3])):
        assert np.isnan(r2(np.zeros_like(constant), constant))
        weights = np.arange(len(constant), dtype=np.float64)
        assert np.isnan(r2(np.zeros_like(constant), constant, weights))
    weights = np.array([1.0, 1.0, 0.0])
    assert np.isnan(r2(np.zeros(3), np.array([5.0, 5.0, 6.0]), weights))  # the 6 does not count


def test_r2_of_small_differences_from_a_large_mean_is_that_of_the_differences() -> None:
    moved = rng().normal(size=ROWS)
    predictions = moved + rng().normal(size=ROWS)
    large = 2.0**40  # leaves the differences 12 bits behind the point
    ours = r2(np.round(predictions * 256) / 256 + large, np.round(moved * 256) / 256 + large)
    expected = r2(np.round(predictions * 256) / 256, np.round(moved * 256) / 256)
    assert ours == pytest.approx(expected, rel=1e-12)


# ----- what is refused


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: accuracy(np.zeros((2, 2)), np.zeros(3)), "2 predictions for 3 targets"),
        (lambda: mean_squared_error(np.zeros(0), np.zeros(0)), "0 predictions"),
        (
            lambda: mean_absolute_error(np.zeros(3), np.zeros((3, 1))),
            r"predictions have shape \(3,\), targets \(3, 1\)",
        ),
        (lambda: wilson_interval(5, 4), "5 successes of 4"),
        (lambda: f1(np.array([2]), np.array([0]), average="binary"), "class 0 or 1"),
        (lambda: f1(np.array([0.5]), np.array([0.0])), "labels are float64"),
        (lambda: confusion_matrix(np.array([0]), np.array([3]), 3), "3 to 3, expected 0 to 2"),
        (lambda: roc_auc(np.zeros((2, 3)), np.zeros((2, 2))), r"\(2, 3\), labels \(2, 2\)"),
        (lambda: roc_auc(np.zeros(2), np.array([0, 2])), "integers in 0..1"),
        (lambda: log_loss(np.array([0.0, 2.0]), np.array([0, 1])), "0.0 to 2.0, expected 0 to 1"),
        (lambda: log_loss(np.array([0.0, np.nan]), np.array([0, 1])), "nan to nan"),
        (lambda: brier(np.full((2, 2), 0.5), np.array([0, 2])), "integers in 0..1"),
        (lambda: brier(np.array([0, 1]), np.array([0, 1])), "probabilities are int64"),
    ],
)
def test_what_cannot_be_compared_is_refused(call: Callable[[], object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        call()
