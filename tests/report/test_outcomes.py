import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support, r2_score

from hlserve.report.learning import ReliabilityBin
from hlserve.report.outcomes import (
    calibration,
    class_scores,
    confusion,
    label_scores,
    most_confused,
    regression,
    worst_rows,
)

ROUNDING = 1e-12  # the same few operations in float64


@pytest.fixture
def answers() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 4, 300)
    return truth, np.where(rng.random(300) < 0.7, truth, rng.integers(0, 4, 300))


def test_the_confusion_matrix_is_scikit_learns(answers: tuple[np.ndarray, np.ndarray]) -> None:
    matrix = confusion(*answers, list("abcd"))
    np.testing.assert_array_equal(matrix.counts, confusion_matrix(*answers))


def test_class_scores_are_scikit_learns(answers: tuple[np.ndarray, np.ndarray]) -> None:
    told = class_scores(confusion(*answers, list("abcd")))
    wanted = precision_recall_fscore_support(*answers)
    for values, name in zip(wanted, ("precision", "recall", "f1", "rows"), strict=True):
        assert [getattr(s, name) for s in told] == pytest.approx(values.tolist(), abs=ROUNDING)


def test_a_class_that_never_comes_has_no_recall() -> None:
    truth, predicted = np.array([0, 0, 1]), np.array([0, 1, 1])
    never = class_scores(confusion(truth, predicted, ["a", "b", "c"]))[2]
    assert (never.rows, never.precision, never.recall, never.f1) == (0, None, None, None)


def test_label_scores_are_scikit_learns() -> None:
    rng = np.random.default_rng(1)
    truth = (rng.random((200, 3)) < [0.2, 0.5, 0.8]).astype(np.float32)
    probabilities = np.clip(truth * 0.4 + rng.random((200, 3)) * 0.6, 0, 1)
    told = label_scores(truth, probabilities, ["x", "y", "z"])
    wanted = precision_recall_fscore_support(truth, probabilities > 0.5)
    for values, name in zip(wanted, ("precision", "recall", "f1", "rows"), strict=True):
        assert [getattr(s, name) for s in told] == pytest.approx(values.tolist(), abs=ROUNDING)


def test_the_most_confused_pairs_come_first() -> None:
    truth = np.array([0, 0, 0, 1, 1, 2])
    predicted = np.array([1, 1, 0, 2, 1, 0])
    matrix = confusion(truth, predicted, ["a", "b", "c"])
    assert most_confused(matrix) == [("a", "b", 2), ("b", "c", 1), ("c", "a", 1)]
    assert most_confused(matrix, limit=1) == [("a", "b", 2)]


def test_the_calibration_error_is_that_of_a_plain_loop() -> None:
    rng = np.random.default_rng(2)
    stated = rng.random(500)
    came_true = rng.random(500) < stated**2
    told = calibration(stated, came_true)
    error = 0.0
    for low in np.arange(10) / 10:
        inside = [i for i in range(500) if low <= stated[i] < low + 0.1]
        gap = np.mean([stated[i] for i in inside]) - np.mean([came_true[i] for i in inside])
        error += len(inside) / 500 * abs(gap)
    assert told.expected_error == pytest.approx(error, abs=ROUNDING)
    assert sum(b.rows for b in told.bins) == 500


def test_probability_one_is_in_the_last_bin_and_empty_bins_say_so() -> None:
    told = calibration(np.array([1.0]), np.array([True]))
    assert told.bins[9].rows == 1
    assert told.bins[0] == ReliabilityBin(0.0, 0.1, 0, None, None)
    assert told.expected_error == 0.0


def test_r2_is_scikit_learns_and_points_are_bounded() -> None:
    rng = np.random.default_rng(3)
    targets = rng.normal(size=5000)
    predictions = targets + 0.3 * rng.normal(size=5000) + 0.1
    told = regression(targets, predictions, "y")
    assert told.r2 == pytest.approx(r2_score(targets, predictions), abs=ROUNDING)
    assert told.bias == pytest.approx(np.mean(predictions - targets), abs=ROUNDING)
    assert len(told.targets) == len(told.predictions) == 1000
    assert regression(np.ones(3), np.ones(3), "constant").r2 is None


def test_the_worst_rows_come_first_and_equals_in_order() -> None:
    assert worst_rows(np.array([1.0, 5.0, 2.0, 5.0]), 3) == [1, 3, 2]
