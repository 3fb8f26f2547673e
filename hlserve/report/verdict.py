"""The verdict: does the network under- or overfit, and what is the evidence?"""

from __future__ import annotations

from collections.abc import Iterator

from hlserve.report.advice import Levers, advise
from hlserve.report.learning import Verdict, VerdictKind
from hlserve.report.signs import LARGE_ERROR, NOTABLE_GAP, Facts, Signs, read_signs
from hlserve.report.wording import change, number, percent, rows


def judge(facts: Facts, levers: Levers) -> Verdict:
    """The verdict with its evidence and what to try."""
    signs = read_signs(facts)
    kind = verdict_kind(signs)
    return Verdict(
        kind=kind,
        sentence=_sentence(kind, facts, signs),
        evidence=tuple(_evidence(facts, signs)),
        advice=tuple(advise(kind, facts, signs, levers)),
        gap=signs.gap,
        slope=signs.slope,
    )


def verdict_kind(signs: Signs) -> VerdictKind:
    """Overfitting first: a proven gap stands, whatever else could be better."""
    if signs.is_gap_notable or signs.is_rising:
        return "overfitting"
    if _underfits(signs):
        return "underfitting"
    return "cannot tell" if signs.is_gap_unknown else "well fitted"


def _underfits(signs: Signs) -> bool:
    # A large training error alone may be noise in the rows: where a wider copy was tried, it
    # decides; where none could be, the error has to.
    is_too_small = signs.has_large_error if signs.helps_wider is None else signs.helps_wider
    return is_too_small or signs.is_improving or signs.is_no_better or bool(signs.helps_longer)


def _sentence(kind: VerdictKind, facts: Facts, signs: Signs) -> str:
    if kind == "overfitting":
        if signs.is_gap_notable:
            return (
                "The network has learnt its training rows better than what they have in common "
                "with others: on validation rows it does clearly worse."
            )
        return (
            f"From epoch {signs.lowest_epoch} on the network learnt its training rows by heart: "
            "the validation loss rose while the training loss fell."
        )
    if kind == "underfitting":
        return "The network could learn more from these rows: " + _what_is_missing(signs)
    if kind == "cannot tell":
        return (
            f"{rows(facts.validation.measured, 'validation row')} are too few to tell whether "
            "the network overfits: the interval of the gap leaves room for both."
        )
    if signs.has_large_error:
        return (
            "Training and validation agree. The error that is left is large, but neither more "
            "steps nor a wider copy proved that it can be learnt: it may lie in the rows (noise, "
            "or inputs that do not tell enough)."
        )
    return "Training and validation agree, and nothing shows that more could be learnt soon."


def _what_is_missing(signs: Signs) -> str:
    if signs.is_no_better:
        return "it answers hardly better than without looking at its input."
    if signs.helps_wider:
        return "a wider copy does clearly better, and in fewer steps."
    if signs.is_improving:
        return "it was still getting better when the training ended."
    if signs.helps_longer:
        return "more steps brought much, and may bring more."
    return "it answers even its training rows badly."


def _evidence(facts: Facts, signs: Signs) -> Iterator[str]:
    yield _gap_line(facts, signs)
    yield (
        f"Training error: {percent(signs.train_error)} of the baseline's"
        + (f" (above {percent(LARGE_ERROR)} is large)." if signs.has_large_error else ".")
    )
    if facts.baseline.gain is not None:
        yield (
            f"Against the baseline ({facts.baseline.name}): better by "
            f"{change(facts.baseline.gain, facts.metric)} on validation rows."
        )
    yield from _history_lines(facts, signs)
    yield from _curve_lines(facts, signs)


def _gap_line(facts: Facts, signs: Signs) -> str:
    name = facts.metric.name if facts.metric else "loss"
    told = (
        f"Generalization gap: validation is worse than training by "
        f"{change(signs.gap, facts.metric)} in {name}"
    )
    if signs.is_gap_notable:
        return f"{told}, more than chance and large enough to matter."
    if signs.gap.low > 0:
        notable = percent(NOTABLE_GAP)
        return f"{told}, more than chance, but below {notable} of the baseline's error: small."
    if signs.is_gap_unknown:
        return f"{told}: with this few rows it may be nothing, or much."
    return f"{told}: no more than chance."


def _history_lines(facts: Facts, signs: Signs) -> Iterator[str]:
    if signs.is_rising:
        yield (
            f"The validation loss was lowest near epoch {signs.lowest_epoch} and rose from there "
            f"by {percent(signs.rise)} of the baseline's loss, while the training loss fell."
        )
    if signs.slope is None:
        yield f"{len(facts.epochs)} epochs are too few for a slope of the validation loss."
        return
    slope = signs.slope.per_epoch
    told = (
        f"The validation loss moves by {number(slope.estimate)} an epoch over the last "
        f"{signs.slope.epochs} epochs (95 %: {number(slope.low)} to {number(slope.high)}): "
    )
    yield told + ("still improving." if signs.is_improving else "no longer improving notably.")


def _curve_lines(facts: Facts, signs: Signs) -> Iterator[str]:
    curve = facts.curve
    if curve is None:
        why = "" if facts.curve_failure is None else f": {facts.curve_failure}"
        yield f"No learning curve over growing training sizes was made{why}."
        return
    if curve.doubling is not None:
        yield (
            f"Learning curve: the last doubling of the training rows gained "
            f"{change(curve.doubling, facts.metric)}."
        )
    if curve.longer is not None:
        yield (
            f"Against a copy with the same rows and {curve.steps:,} steps the whole training "
            f"gained {change(curve.longer, facts.metric)}."
        )
    if curve.wider is not None:
        helps = "it helps" if signs.helps_wider else "no proof that width helps"
        yield (
            f"Against the whole training a wider copy ({curve.wider_spec}) gained "
            f"{change(curve.wider, facts.metric)} in {curve.steps:,} steps: {helps}."
        )
    if facts.curve_failure is not None:
        yield f"Nothing tells what a wider network would gain: {facts.curve_failure}."
