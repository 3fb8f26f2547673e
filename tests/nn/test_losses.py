import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from sklearn.utils.class_weight import compute_class_weight

from hlserve import nn
from hlserve.errors import ConfigError, DataError
from hlserve.nn import losses
from hlserve.nn.losses import (
    BinaryCrossEntropy,
    CrossEntropy,
    Focal,
    Huber,
    Loss,
    MeanSquaredError,
    Quantile,
    Targets,
    class_weights,
    total_weight,
)
from hlserve.nn.param import Array

N_OUTPUTS = 4
BATCH = 9


def rng() -> np.random.Generator:
    return np.random.default_rng(7)


def classes(batch: int) -> Array:
    labels = rng().integers(0, N_OUTPUTS, batch)
    labels[labels == 2] = 3  # a class without rows
    return labels


def marks(batch: int) -> Array:
    return rng().integers(0, 2, (batch, N_OUTPUTS)).astype(np.float64)


def numbers(batch: int) -> Array:
    return rng().normal(scale=2.0, size=(batch, N_OUTPUTS))


@dataclass
class Case:
    make: Callable[[], Loss]
    targets: Callable[[int], Array]
    scores: Callable[[int], Array] = field(
        default=lambda batch: 3.0 * np.random.default_rng(8).normal(size=(N_OUTPUTS, batch))
    )


WEIGHT = np.array([0.5, 2.0, 0.0, 1.5])
SCALE = np.array([2.0, 0.5, 10.0, 1.0])
CASES: dict[str, Case] = {
    "cross-entropy": Case(CrossEntropy, classes),
    "smoothed": Case(lambda: CrossEntropy(0.1), classes),
    "smoothed to the full": Case(lambda: CrossEntropy(1.0), classes),
    "class weights": Case(lambda: CrossEntropy(class_weight=WEIGHT), classes),
    "smoothed, class weights": Case(lambda: CrossEntropy(0.2, WEIGHT), classes),
    "focal": Case(Focal, classes),
    "focal, gamma 0": Case(lambda: Focal(0.0), classes),
    "focal, gamma 1/2": Case(lambda: Focal(0.5), classes),
    "focal, class weights": Case(lambda: Focal(3.0, WEIGHT), classes),
    "binary": Case(BinaryCrossEntropy, marks),
    "binary, class weights": Case(lambda: BinaryCrossEntropy(WEIGHT), marks),
    "binary, soft targets": Case(BinaryCrossEntropy, lambda batch: marks(batch) * 0.8 + 0.1),
    "squared error": Case(MeanSquaredError, numbers),
    "squared error, scale": Case(lambda: MeanSquaredError(SCALE), numbers),
    "huber": Case(Huber, numbers),
    "huber, scale": Case(lambda: Huber(0.3, SCALE), numbers),
    "quantile": Case(Quantile, numbers),
    "quantile 0.9, scale": Case(lambda: Quantile(0.9, SCALE), numbers),
    "two quantiles": Case(
        lambda: Quantile((0.1, 0.8), SCALE[:2]), lambda batch: numbers(batch)[:, :2]
    ),
}
by_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
with_weights = pytest.mark.parametrize("is_weighted", [False, True], ids=["alike", "weighted"])


def targets_of(case: Case, batch: int, is_weighted: bool) -> Targets:
    labels = case.targets(batch)
    if not is_weighted:
        return labels
    weights = rng().exponential(size=batch)
    weights[1:2] = 0.0
    return {"labels": labels, "weights": weights}


def test_every_loss_has_its_cases() -> None:
    tried = {type(case.make()).__name__ for case in CASES.values()}
    offered = {name for name in vars(losses) if isinstance(getattr(losses, name), type)} - {"Loss"}
    assert tried == offered
    assert all(hasattr(nn, name) for name in offered)


# ----- laws over every loss


@with_weights
@pytest.mark.parametrize("batch", [1, BATCH])
@by_case
def test_gradient_matches_central_differences(case: Case, batch: int, is_weighted: bool) -> None:
    loss, scores, targets = case.make(), case.scores(batch), targets_of(case, batch, is_weighted)
    before = scores.copy()
    gradient = loss(scores, targets)[1].copy()
    direction = rng().normal(size=scores.shape)
    h = 1e-6
    up, down = (loss(scores + sign * h * direction, targets)[0] for sign in (1, -1))
    # Central differences in float64 err by h^2 and by rounding / h, both near 1e-10.
    assert np.vdot(gradient, direction) == pytest.approx((up - down) / (2 * h), rel=1e-6, abs=1e-9)
    np.testing.assert_array_equal(scores, before)


@with_weights
@by_case
def test_a_batch_is_the_weighted_mean_of_its_parts(case: Case, is_weighted: bool) -> None:
    loss, scores, targets = case.make(), case.scores(BATCH), targets_of(case, BATCH, is_weighted)
    whole, d_whole = loss(scores, targets)
    d_whole = d_whole.copy()
    value, gradients, counted = 0.0, [], 0.0
    for rows in (slice(0, 4), slice(4, 5), slice(5, BATCH)):
        part: Targets
        if isinstance(targets, dict):
            part = {name: array[rows] for name, array in targets.items()}
        else:
            part = np.asarray(targets)[rows]
        weight = total_weight(loss, part, len(scores[0, rows]))
        part_value, d_part = loss(scores[:, rows], part)
        value += part_value * weight
        gradients.append(d_part * weight)
        counted += weight
    # The same sums in another order, in float64.
    assert value / counted == pytest.approx(whole, rel=1e-12)
    np.testing.assert_allclose(np.hstack(gradients) / counted, d_whole, rtol=1e-12, atol=1e-15)


@by_case
def test_equal_weights_change_nothing_and_a_zero_leaves_its_row_out(case: Case) -> None:
    loss, scores, labels = case.make(), case.scores(BATCH), case.targets(BATCH)
    value, gradient = loss(scores, labels)
    gradient = gradient.copy()
    even_value, even = loss(scores, {"labels": labels, "weights": np.full(BATCH, 3.0)})
    assert even_value == pytest.approx(value, rel=1e-12)  # float64, another order
    np.testing.assert_allclose(even, gradient, rtol=1e-12, atol=1e-16)
    without, _ = loss(scores[:, 1:], labels[1:])
    weights = np.ones(BATCH)
    weights[0] = 0.0
    left_out, gradient = loss(scores, {"labels": labels, "weights": weights})
    assert left_out == pytest.approx(without, rel=1e-12)
    assert not gradient[:, 0].any()


@by_case
def test_rows_that_all_weigh_nothing_teach_nothing(case: Case) -> None:
    loss, scores, labels = case.make(), case.scores(3), case.targets(3)
    targets = {"labels": labels, "weights": np.zeros(3)}
    value, gradient = loss(scores, targets)
    assert value == 0.0
    assert not gradient.any()
    assert total_weight(loss, targets, 3) == 0.0


@with_weights
@by_case
def test_float32_equals_float64_within_its_rounding(case: Case, is_weighted: bool) -> None:
    loss, scores, targets = case.make(), case.scores(BATCH), targets_of(case, BATCH, is_weighted)
    scores = scores.astype(np.float32)
    value, gradient = loss(scores.astype(np.float64), targets)
    gradient = gradient.copy()
    in_32, d_32 = loss(scores, targets)
    assert d_32.dtype == np.float32
    # A few roundings of 6e-8 each, of numbers up to the size of the scores.
    assert in_32 == pytest.approx(value, rel=1e-5, abs=1e-6)
    np.testing.assert_allclose(d_32, gradient, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@by_case
def test_extreme_scores_stay_finite_and_right(case: Case, dtype: type) -> None:
    loss, labels = case.make(), case.targets(BATCH)
    scores = (1e4 * rng().choice([-1.0, 1.0], size=(N_OUTPUTS, BATCH))).astype(dtype)
    value, gradient = loss(scores, labels)
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()
    assert value > 1.0  # far off on many rows
    exact = loss(scores.astype(np.float64), labels)[0]
    assert value == pytest.approx(exact, rel=1e-6)  # float32's rounding


@by_case
def test_a_step_along_the_gradient_makes_the_loss_smaller(case: Case) -> None:
    loss, scores, labels = case.make(), case.scores(BATCH), case.targets(BATCH)
    value, gradient = loss(scores, labels)
    assert loss(scores - 1e-3 * gradient / np.abs(gradient).max(), labels)[0] < value


WIDE = 2048
WIDE_LOSSES: dict[str, Loss] = {
    "cross-entropy": CrossEntropy(),
    "smoothed, class weights": CrossEntropy(0.1, np.ones(WIDE)),
    "focal": Focal(class_weight=np.ones(WIDE)),
    "binary": BinaryCrossEntropy(np.ones(WIDE)),
    "squared error": MeanSquaredError(np.ones(WIDE)),
    "huber": Huber(),
    "quantile": Quantile(),
    "two quantiles": Quantile((0.1, 0.9)),
}


@with_weights
@pytest.mark.parametrize("name", WIDE_LOSSES)
def test_steady_calls_allocate_nothing_the_size_of_the_scores(name: str, is_weighted: bool) -> None:
    loss, batch = WIDE_LOSSES[name], 64
    scores = rng().normal(size=(WIDE, batch)).astype(np.float32)
    labels = rng().integers(0, 2, (batch, WIDE)).astype(np.float32)
    if isinstance(loss, CrossEntropy | Focal):
        labels = rng().integers(0, WIDE, batch)
    elif isinstance(loss, Quantile):
        labels = labels[:, : WIDE // loss.q.size]
    weights = np.ones(batch, np.float32)
    targets: Targets = {"labels": labels, "weights": weights} if is_weighted else labels
    first = loss(scores, targets)[1]
    tracemalloc.start()
    try:
        second = loss(scores, targets)[1]
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert np.shares_memory(first, second)
    # The scores are 512 kB. Made afresh are NumPy's own 32 kB and numbers of a row or a class.
    assert peak < 100 * 1024


# ----- one by one


def test_cross_entropy_equals_its_definition() -> None:
    labels, scores = classes(20), 3.0 * rng().normal(size=(N_OUTPUTS, 20))
    share = np.exp(scores) / np.exp(scores).sum(axis=0)
    expected = -np.log(share[labels, np.arange(20)]).mean()
    assert CrossEntropy()(scores, labels)[0] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("loss", [CrossEntropy(), Focal(0.0), Focal(2.0)])
def test_cross_entropy_and_focal_stand_huge_scores(loss: Loss, dtype: type) -> None:
    scores = np.array([[1e30, -1e30], [-1e30, 1e30], [0.0, 0.0]], dtype)
    value, gradient = loss(scores, np.array([0, 1]))
    assert value == 0.0
    np.testing.assert_array_equal(gradient, np.zeros((3, 2)))
    value, gradient = loss(scores, np.array([1, 1]))
    assert value == pytest.approx(1e30, rel=1e-6)
    np.testing.assert_array_equal(gradient[:, 0], [0.5, -0.5, 0.0])


def test_cross_entropy_takes_every_integer_type() -> None:
    labels = rng().integers(0, 200, 300)  # labels * batch overflows in uint8
    scores = rng().normal(size=(200, 300))
    expected = CrossEntropy()(scores, labels)[0]
    assert CrossEntropy()(scores, labels.astype(np.uint8))[0] == expected


def test_focal_without_focus_is_cross_entropy() -> None:
    labels, scores = classes(BATCH), rng().normal(size=(N_OUTPUTS, BATCH))
    value, gradient = Focal(0.0, WEIGHT)(scores, labels)
    expected, d_expected = CrossEntropy(class_weight=WEIGHT)(scores, labels)
    assert value == pytest.approx(expected, rel=1e-12)
    np.testing.assert_allclose(gradient, d_expected, rtol=1e-12, atol=1e-16)


def test_focal_keeps_its_slope_where_a_row_is_almost_sure() -> None:
    # p = 1 - 2e-20: in float64 log(p) and 1 - p are both 0 unless the other classes are summed.
    scores = np.array([[np.log(1e20)], [0.0], [0.0]])
    value, gradient = Focal(1.0)(scores, np.array([0]))
    assert value == pytest.approx(2e-20**2, rel=1e-9)
    # -(1 - p) log p = r^2 for a small rest r, and dr/d(score) = -r.
    assert gradient[0, 0] == pytest.approx(-2 * 2e-20**2, rel=1e-9)


def test_quantile_is_least_at_the_quantile() -> None:
    targets = rng().exponential(size=2001)
    levels = (0.1, 0.5, 0.9)
    loss = Quantile(levels)
    at = np.quantile(targets, levels)
    lowest = loss(np.repeat(at[:, np.newaxis], targets.size, axis=1), targets)[0]
    for moved in (at * 0.9, at * 1.1):
        assert loss(np.repeat(moved[:, np.newaxis], targets.size, axis=1), targets)[0] > lowest


def test_balanced_class_weights_equal_scikit_learns() -> None:
    labels = rng().choice([0, 1, 1, 1, 3], 100)
    expected = compute_class_weight("balanced", classes=np.unique(labels), y=labels)
    weights = class_weights(labels, 5)
    np.testing.assert_allclose(weights[[0, 1, 3]], expected, rtol=1e-15)
    np.testing.assert_array_equal(weights[[2, 4]], 1.0)
    assert weights[labels].mean() == pytest.approx(1.0)


def test_a_loss_that_does_not_weigh_counts_rows_alike() -> None:
    def own(scores: Array, targets: Targets) -> tuple[float, Array]:
        return 0.0, np.zeros_like(scores)

    assert total_weight(own, {"labels": np.zeros(3), "weights": np.ones(3)}, 3) == 3.0


# ----- what is refused


@pytest.mark.parametrize(
    ("loss", "targets", "message"),
    [
        (CrossEntropy(), np.zeros((4, 3)), r"shape \(4,\), got \(4, 3\)"),
        (Focal(), np.zeros((4, 3)), r"shape \(4,\), got \(4, 3\)"),
        (CrossEntropy(), {"teacher": np.zeros(4)}, r"by name, got \['teacher'\]"),
        (Huber(), {"labels": np.zeros(4), "mask": np.zeros(4)}, r"got \['labels', 'mask'\]"),
        (
            MeanSquaredError(),
            {"labels": np.zeros((4, 3)), "weights": np.ones((4, 3))},
            r"one weight a row, shape \(4,\), got \(4, 3\)",
        ),
        (MeanSquaredError(), np.zeros((3, 4)), r"shape \(4, 3\), got \(3, 4\)"),
        (BinaryCrossEntropy(), np.zeros(4), r"shape \(4, 3\), got \(4,\)"),
        (Quantile((0.1, 0.9)), np.zeros(4), "3 outputs are not 2 for each number"),
        (Quantile((0.1, 0.5, 0.9)), np.zeros((4, 2)), r"shape \(4, 1\), got \(4, 2\)"),
        (CrossEntropy(class_weight=[1.0, 2.0]), np.zeros(4, int), "2 numbers, the network 3"),
        (BinaryCrossEntropy([1.0, 2.0]), np.zeros((4, 3)), "2 numbers, the network 3"),
    ],
)
def test_targets_that_do_not_fit_are_refused(loss: Loss, targets: Targets, message: str) -> None:
    with pytest.raises(DataError, match=message):
        loss(np.zeros((3, 4)), targets)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: MeanSquaredError(np.array([1.0, 0.0])), DataError, "expected positive"),
        (lambda: Huber(scale=-1.0), DataError, "Huber: scale is -1.0"),
        (lambda: Huber(0.0), ConfigError, "delta is 0.0"),
        (lambda: Quantile(1.0), ConfigError, "above 0 and below 1"),
        (lambda: Quantile(()), ConfigError, "above 0 and below 1"),
        (lambda: CrossEntropy(1.5), ConfigError, "label_smoothing is 1.5"),
        (lambda: Focal(-1.0), ConfigError, "gamma is -1.0"),
        (lambda: CrossEntropy(class_weight=[0.0, 0.0]), DataError, "not all 0"),
        (lambda: Focal(class_weight=[1.0, -1.0]), DataError, ">= 0 a class"),
        (lambda: BinaryCrossEntropy([np.nan]), DataError, ">= 0 a class"),
        (lambda: class_weights(np.array([0, 3]), 3), DataError, "0 to 3, expected 0 to 2"),
        (lambda: class_weights(np.array([0.0, 1.0]), 2), DataError, "expected integers"),
    ],
)
def test_settings_that_make_no_sense_are_refused(
    make: Callable[[], Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        make()
