from dataclasses import replace

import pytest

from hlserve.report.advice import Levers
from hlserve.report.learning import Interval, LearningCurve, Verdict
from hlserve.report.signs import Facts, end_slope, read_signs, validation_rise
from hlserve.report.verdict import judge
from tests.report.samples import (
    ERROR,
    FALLING,
    FLAT,
    LEVERS,
    SLOWING,
    TURNING,
    curve,
    epochs,
    error_part,
    facts,
    part,
)

YES, NO = Interval(0.10, 0.05, 0.15), Interval(0.0, -0.02, 0.02)


def judged(told: Facts, levers: Levers = LEVERS) -> Verdict:
    return judge(told, levers)


CASES = [
    ("a proven gap", facts(part("t", 0.99, 5000), part("v", 0.85, 500)), "overfitting"),
    (
        "a proven gap, and still improving",
        facts(part("t", 0.99, 5000), part("v", 0.85, 500), FALLING),
        "overfitting",
    ),
    (
        "a validation loss that turned up",
        facts(part("t", 0.9, 5000), part("v", 0.89, 500), TURNING),
        "overfitting",
    ),
    (
        "errors larger on validation",
        facts(error_part("t", 1.0, 5000), error_part("v", 2.0, 500), metric=ERROR),
        "overfitting",
    ),
    ("still improving", facts(part("t", 0.9, 5000), part("v", 0.9, 1000), FALLING), "underfitting"),
    ("one epoch", facts(part("t", 0.9, 5000), part("v", 0.9, 1000), [1.0]), "underfitting"),
    ("bad on its own rows", facts(part("t", 0.5, 5000), part("v", 0.5, 1000)), "underfitting"),
    ("no better than guessing", facts(part("t", 0.11, 5000), part("v", 0.1, 900)), "underfitting"),
    (
        "a wider copy is better",
        facts(part("t", 0.9, 5000), part("v", 0.9, 1000), curve=curve(wider=YES)),
        "underfitting",
    ),
    (
        "more steps brought much",
        facts(part("t", 0.9, 5000), part("v", 0.9, 1000), SLOWING, curve=curve(longer=YES)),
        "underfitting",
    ),
    (
        "a short copy that only started slowly",
        facts(part("t", 0.9, 5000), part("v", 0.9, 1000), FLAT, curve=curve(longer=YES)),
        "well fitted",
    ),
    (
        "ten validation rows",
        facts(part("t", 0.97, 90), part("v", 0.9, 10)),
        "cannot tell",
    ),
    (
        "twelve rows with errors",
        facts(error_part("t", 2.0, 100), error_part("v", 2.2, 12), metric=ERROR),
        "cannot tell",
    ),
    ("both good", facts(part("t", 0.95, 5000), part("v", 0.94, 2000)), "well fitted"),
    (
        "a gap that is certain and tiny",
        facts(part("t", 0.95, 500_000), part("v", 0.94, 500_000)),
        "well fitted",
    ),
    (
        "noise that a wider copy cannot learn either",
        facts(part("t", 0.6, 5000), part("v", 0.6, 2000), curve=curve(wider=NO, longer=NO)),
        "well fitted",
    ),
    (
        "errors alike",
        facts(error_part("t", 1.0, 5000), error_part("v", 1.02, 2000), metric=ERROR),
        "well fitted",
    ),
]


@pytest.mark.parametrize(("told", "kind"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_each_kind_of_training_gets_its_verdict_with_evidence(told: Facts, kind: str) -> None:
    verdict = judged(told)
    assert verdict.kind == kind
    assert verdict.evidence
    assert "(95 %: " in verdict.evidence[0]
    assert verdict.advice


def test_a_large_gap_from_few_rows_is_no_proof_and_more_of_the_same_are() -> None:
    assert judged(facts(part("t", 0.95, 100), part("v", 0.9, 20))).kind == "cannot tell"
    assert judged(facts(part("t", 0.95, 10_000), part("v", 0.9, 2000))).kind == "overfitting"


def test_without_a_metric_the_losses_are_compared() -> None:
    train, validation = error_part("t", 0.5, 5000), error_part("v", 1.5, 500)
    assert judged(facts(train, validation, metric=None)).kind == "overfitting"
    assert judged(facts(train, train, metric=None)).kind == "well fitted"


@pytest.mark.parametrize(
    ("made", "line"),
    [
        (None, "No learning curve over growing training sizes was made: a copy diverged."),
        (curve(), "Nothing tells what a wider network would gain: a copy diverged."),
    ],
    ids=["any copy", "the wider copy"],
)
def test_a_copy_that_could_not_be_trained_is_told(made: LearningCurve | None, line: str) -> None:
    told = facts(part("t", 0.9, 5000), part("v", 0.9, 1000), curve=made)
    assert line in judged(replace(told, curve_failure="a copy diverged")).evidence
    assert not any("a copy diverged" in other for other in judged(told).evidence)


def test_one_bad_epoch_at_the_end_is_no_rise() -> None:
    lowest, rise = validation_rise(epochs([*FLAT, 2.0]))
    assert rise == pytest.approx(0.0, abs=0.002)  # FLAT itself wobbles by a thousandth
    assert lowest is not None


def test_a_rise_counts_only_while_the_training_loss_falls() -> None:
    told = epochs(TURNING, train=[0.1] * 4 + [0.2] * 8)
    assert validation_rise(told) == (4, 0.0)


def test_the_slope_is_taken_over_the_last_quarter() -> None:
    slope = end_slope(epochs([2.0] * 30 + FALLING[:10]))
    assert slope is not None
    assert slope.epochs == 10
    assert slope.per_epoch.estimate == pytest.approx(-0.05, abs=1e-12)  # rounding
    assert end_slope(epochs([1.0, 0.5])) is None


def test_a_loss_that_goes_up_and_down_asks_for_a_lower_learning_rate() -> None:
    rough = [1.0, 0.5, 0.7, 0.4, 0.8, 0.3, 0.7, 0.35, 0.9, 0.4, 0.8, 0.5]
    told = facts(part("t", 0.95, 5000), part("v", 0.95, 2000), train_losses=rough)
    assert read_signs(told).is_rough
    assert any("--learning-rate 0.001" in line for line in judged(told).advice)
    assert not read_signs(facts(part("t", 0.95, 5000), part("v", 0.95, 2000))).is_rough


# ----- what to try


def test_underfitting_is_answered_with_epochs_and_the_wider_spec() -> None:
    told = facts(part("t", 0.5, 5000), part("v", 0.5, 1000), FALLING)
    advice = judged(told).advice
    assert advice[0] == "More epochs: --epochs 40."
    assert any("--arch mlp:64" in line for line in advice)


def test_width_is_not_advised_where_a_wider_copy_did_not_help() -> None:
    told = facts(part("t", 0.5, 5000), part("v", 0.5, 1000), FALLING, curve=curve(wider=NO))
    assert not any("--arch" in line for line in judged(told).advice)


def test_overfitting_is_answered_with_what_more_rows_would_bring() -> None:
    over = (part("t", 0.99, 5000), part("v", 0.85, 500))
    first = judged(facts(*over, curve=curve(doubling=YES))).advice[0]
    assert "the last doubling brought 10.0 points (95 %: 5.0 to 15.0)" in first
    later = judged(facts(*over, curve=curve(doubling=NO))).advice
    assert "More rows are not known to help" in later[-1]
    assert any("--weight-decay 0.1" in line for line in later)
    assert any("--arch mlp:8" in line for line in later)


def test_images_are_answered_with_augmentation() -> None:
    images = Levers(20, 0.003, 0.0, None, None, is_image=True, validation_share=0.1)
    advice = judged(facts(part("t", 0.99, 5000), part("v", 0.85, 500)), images).advice
    assert any("Augmentation" in line for line in advice)
    assert any("--weight-decay 0.01" in line for line in advice)
    assert not any("--arch" in line for line in advice)


def test_too_few_validation_rows_are_answered_with_how_many_would_do() -> None:
    few = judged(facts(part("t", 0.95, 400), part("v", 0.92, 45))).advice[0]
    assert "validation rows would tell (there are 45)" in few
    assert "--validation 0." in few
    fewer = judged(facts(part("t", 0.97, 90), part("v", 0.9, 10))).advice[0]
    assert "more rows are needed, or cross-validation" in fewer
