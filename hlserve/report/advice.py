"""What to try next, as concrete as the evidence allows."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from hlserve.report.learning import Interval, VerdictKind
from hlserve.report.signs import NOTABLE_GAIN, WIDE_GAP, Facts, Signs
from hlserve.report.wording import change, number

_LARGEST_VALIDATION_SHARE = 0.5


@dataclass(frozen=True, slots=True)
class Levers:
    """What the training was set to, and what could be set instead.

    Attributes:
        epochs: that were run.
        learning_rate, weight_decay: the optimizer's.
        wider_spec, narrower_spec: architectures to try instead; None where none is known.
        is_image: the rows are pictures.
        validation_share: of the rows that was set apart.
    """

    epochs: int
    learning_rate: float
    weight_decay: float
    wider_spec: str | None
    narrower_spec: str | None
    is_image: bool
    validation_share: float | None


def advise(kind: VerdictKind, facts: Facts, signs: Signs, levers: Levers) -> Iterator[str]:
    """Sentences, most promising first."""
    if kind == "overfitting":
        yield from _against_overfitting(facts, signs, levers)
    elif kind == "underfitting":
        yield from _against_underfitting(signs, levers)
    elif kind == "cannot tell":
        yield _more_validation_rows(facts, signs, levers)
    else:
        yield from _for_well_fitted(facts, signs)
    if signs.is_rough:
        yield (
            "The training loss goes up and down in the later epochs: lower the learning rate "
            f"(--learning-rate {number(levers.learning_rate / 3)}) or raise --batch-size."
        )


def more_rows(facts: Facts, signs: Signs) -> str:
    """What the learning curve says that more rows would bring."""
    gain = facts.curve.doubling if facts.curve else None
    if gain is None:
        return "More rows; without a learning curve nothing tells how much they would bring."
    brought = f"the last doubling brought {change(gain, facts.metric)}"
    if _is_notable(gain, signs):
        return f"More rows: {brought}; another one may bring about half of that to all of it."
    if gain.low > 0:
        return f"More rows help a little: {brought}."
    return f"More rows are not known to help: {brought}, which may be chance."


def _against_overfitting(facts: Facts, signs: Signs, levers: Levers) -> Iterator[str]:
    gain = facts.curve.doubling if facts.curve else None
    is_promising = gain is None or _is_notable(gain, signs)
    if is_promising:
        yield more_rows(facts, signs)
    if levers.is_image:
        yield "Augmentation: shifted or mirrored copies of the images act like more rows."
    if signs.is_rising:
        yield (
            "Stop earlier: --patience 5 (the weights kept are those of epoch "
            f"{facts.best_epoch} already; it saves the time after)."
        )
    decay = levers.weight_decay * 10 if levers.weight_decay else 0.01
    yield f"More regularization: --weight-decay {number(decay)}, or dropout before the last layers."
    if levers.narrower_spec is not None:
        yield f"A smaller network: --arch {levers.narrower_spec}."
    if not is_promising:
        yield more_rows(facts, signs)


def _against_underfitting(signs: Signs, levers: Levers) -> Iterator[str]:
    longer = f"More epochs: --epochs {2 * levers.epochs}."
    is_short = signs.is_improving or bool(signs.helps_longer)
    if is_short:
        yield longer
    if signs.is_no_better:
        yield (
            "Check that labels and rows belong together. Then another learning rate: "
            f"--learning-rate {number(levers.learning_rate * 3)}, or "
            f"{number(levers.learning_rate / 10)} if the loss jumped."
        )
    if signs.helps_wider is not False:
        yield _wider(signs, levers)
    if levers.weight_decay > 0 and not is_short:
        yield f"Less regularization: --weight-decay {number(levers.weight_decay / 10)}."
    if not is_short:
        yield longer


def _wider(signs: Signs, levers: Levers) -> str:
    if levers.wider_spec is None:
        return "A wider or deeper network."
    proof = " (a short training of it was clearly better)" if signs.helps_wider else ""
    return f"A wider network: --arch {levers.wider_spec}{proof}."


def _more_validation_rows(facts: Facts, signs: Signs, levers: Levers) -> str:
    """Widths shrink with the square root of the rows."""
    half = (signs.gap.high - signs.gap.low) / 2
    factor = (half / (WIDE_GAP / 2 * signs.unit)) ** 2
    if not math.isfinite(factor):
        return "More rows, and more of them for validation: --validation 0.3."
    needed = math.ceil(facts.validation.measured * max(factor, 1.5))
    told = f"About {needed:,} validation rows would tell (there are {facts.validation.measured:,})"
    share = levers.validation_share
    raised = None if share is None else share * needed / facts.validation.rows
    if raised is None or raised > _LARGEST_VALIDATION_SHARE:
        return f"{told}: more rows are needed, or cross-validation."
    return f"{told}: --validation {math.ceil(100 * raised) / 100:g}."


def _for_well_fitted(facts: Facts, signs: Signs) -> Iterator[str]:
    gain = facts.curve.doubling if facts.curve else None
    if gain is not None and _is_notable(gain, signs):
        yield more_rows(facts, signs)
        return
    yield "Nothing has to change. For a smaller and faster model go on with: hlserve compress."
    if signs.has_large_error:
        yield "To get better, look at the worst examples: other inputs or cleaner labels."


def _is_notable(gain: Interval, signs: Signs) -> bool:
    return gain.low > 0 and gain.estimate >= NOTABLE_GAIN * signs.unit
