"""Signs of under- and overfitting, measured: what the verdict and the advice rest on.

All differences are turned so that positive is worse for a gap and better for a gain. To make
thresholds mean the same for every task, sizes are compared with the error of the baseline, the
best answer that looks at no input: 0.03 is three percent of the way from it to no error at all.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from hlserve.report.intervals import difference, slope_interval
from hlserve.report.learning import (
    Baseline,
    Epoch,
    Interval,
    LearningCurve,
    Metric,
    PartFigures,
    Slope,
)

NOTABLE_GAP = 0.03  # a smaller gap is small in itself, however many rows prove it
NOTABLE_GAIN = 0.03
NOTABLE_LATE_FALL = 0.03  # of the baseline's loss, in the second half of the epochs
NOTABLE_LONGER = 0.10  # of four times the steps; the next four times bring about a third
NOTABLE_RISE = 0.05  # of the baseline's loss
NOTABLE_FALL = 0.01  # of the baseline's loss, in as many more epochs as the slope was seen over
WIDE_GAP = 0.10  # a gap that may be this large for all the rows say is not known
LARGE_ERROR = 0.25  # a training error of a quarter of the baseline's
NO_BETTER = 0.9
_SHORT, _LAST_PART = 3, 4  # epochs of the slope: the last quarter, and at least three
_ROUGH_SHARE, _ROUGH_EPOCHS = 0.4, 6


@dataclass(frozen=True, slots=True)
class Facts:
    """What a training showed; see the fields of LearningReport.

    Attributes:
        curve_failure: why a copy for the learning curve could not be trained; None where all
            that were begun could.
    """

    metric: Metric | None
    train: PartFigures
    validation: PartFigures
    baseline: Baseline
    epochs: Sequence[Epoch]
    best_epoch: int | None
    curve: LearningCurve | None
    curve_failure: str | None = None


@dataclass(frozen=True, slots=True)
class Signs:
    """The measures, and what is notable among them.

    Attributes:
        unit: the baseline's error, in units of the score.
        gap: validation's error less training's.
        train_error: training's error, as a share of the baseline's.
        slope: of the validation loss at the end.
        rise: from the lowest validation loss to that at the end, as a share of the baseline's
            loss; 0 where the training loss did not fall meanwhile.
        lowest_epoch: where the validation loss was lowest.
        is_gap_notable: the gap is large enough to matter, and more than chance.
        is_gap_unknown: chance alone leaves room for a gap that would matter.
        is_rising: the validation loss rose notably while the training loss fell.
        is_improving: the validation loss still falls at the end, by more than chance.
        is_no_better: the training rows themselves are answered hardly better than by the
            baseline.
        helps_longer: the whole training is notably better than a short one, and still got
            better in its second half; None where no short one was tried.
        helps_wider: a wider copy proved it; None where none was tried.
        is_rough: the training loss goes up and down instead of falling.
    """

    unit: float
    gap: Interval
    train_error: float
    slope: Slope | None
    rise: float
    lowest_epoch: int | None
    is_gap_notable: bool
    is_gap_unknown: bool
    is_rising: bool
    is_improving: bool
    is_no_better: bool
    helps_longer: bool | None
    helps_wider: bool | None
    is_rough: bool

    @property
    def has_large_error(self) -> bool:
        """The training rows themselves keep a large part of the baseline's error."""
        return self.train_error > LARGE_ERROR


def read_signs(facts: Facts) -> Signs:
    """Measures everything that the facts tell."""
    unit = _unit(facts)
    gap = _gap(facts)
    slope = end_slope(facts.epochs)
    lowest, rise = validation_rise(facts.epochs)
    loss_unit = _loss_unit(facts)
    train_error = _error(facts.train, facts.metric) / unit
    curve = facts.curve
    return Signs(
        unit=unit,
        gap=gap,
        train_error=train_error,
        slope=slope,
        rise=rise / loss_unit,
        lowest_epoch=lowest,
        is_gap_notable=gap.low > 0 and gap.estimate >= NOTABLE_GAP * unit,
        is_gap_unknown=gap.high >= WIDE_GAP * unit,
        is_rising=rise >= NOTABLE_RISE * loss_unit,
        is_improving=_is_improving(facts.epochs, slope, loss_unit),
        is_no_better=train_error >= NO_BETTER,
        helps_longer=_helps_longer(facts, unit, loss_unit),
        helps_wider=_helps(curve.wider if curve else None, NOTABLE_GAIN * unit),
        is_rough=_is_rough(facts.epochs),
    )


def end_slope(epochs: Sequence[Epoch]) -> Slope | None:
    """How the validation loss moves over the last quarter; None for fewer than three epochs."""
    losses = [e.validation_loss for e in epochs if e.validation_loss is not None]
    window = max(_SHORT, -(-len(losses) // _LAST_PART))
    if len(losses) < _SHORT:
        return None
    return Slope(window, slope_interval(losses[-window:]))


def validation_rise(epochs: Sequence[Epoch]) -> tuple[int | None, float]:
    """The epoch of the lowest validation loss, and how far it rose from there to the end.

    Both are medians of three epochs, so that one lucky or bad epoch tells nothing. The rise is
    0 where the training loss did not fall meanwhile: that is trouble of another kind.
    """
    losses = [e.validation_loss for e in epochs if e.validation_loss is not None]
    if len(losses) < 2 * _SHORT:
        return (losses.index(min(losses)) + 1 if losses else None), 0.0
    smooth = [statistics.median(losses[max(0, i - 1) : i + 2]) for i in range(len(losses))]
    lowest = smooth.index(min(smooth))
    if epochs[-1].train_loss >= epochs[lowest].train_loss:
        return lowest + 1, 0.0
    return lowest + 1, statistics.median(losses[-_SHORT:]) - smooth[lowest]


# ----- below


def _unit(facts: Facts) -> float:
    if facts.metric is None:
        return _loss_unit(facts)
    told = facts.baseline.metric
    error = None if told is None else (1 - told if facts.metric.is_share else told)
    return error if error else 1.0


def _loss_unit(facts: Facts) -> float:
    first = facts.epochs[0].validation_loss if facts.epochs else None
    return facts.baseline.loss or first or 1.0


def _gap(facts: Facts) -> Interval:
    train, validation = facts.train, facts.validation
    if train.metric is None or validation.metric is None or facts.metric is None:
        return difference(validation.loss, train.loss)
    if facts.metric.is_share:
        return difference(train.metric, validation.metric)
    return difference(validation.metric, train.metric)


def _error(part: PartFigures, metric: Metric | None) -> float:
    if metric is None or part.metric is None:
        return part.loss.estimate
    return 1 - part.metric.estimate if metric.is_share else part.metric.estimate


def _helps(gain: Interval | None, notable: float) -> bool | None:
    return None if gain is None else gain.low > 0 and gain.estimate >= notable


def _helps_longer(facts: Facts, unit: float, loss_unit: float) -> bool | None:
    """A short training may just have started slowly, so the losses have to agree."""
    helps = _helps(facts.curve.longer if facts.curve else None, NOTABLE_LONGER * unit)
    losses = [e.validation_loss for e in facts.epochs if e.validation_loss is not None]
    late_fall = losses[(len(losses) - 1) // 2] - losses[-1] if losses else 0.0
    return helps and late_fall >= NOTABLE_LATE_FALL * loss_unit


def _is_improving(epochs: Sequence[Epoch], slope: Slope | None, loss_unit: float) -> bool:
    losses = [e.validation_loss for e in epochs if e.validation_loss is not None]
    if slope is None:  # one or two epochs: nothing has settled yet
        return len(losses) < 2 or losses[-1] < losses[-2]
    fall = -slope.per_epoch.estimate * slope.epochs
    return slope.per_epoch.high < 0 and fall >= NOTABLE_FALL * loss_unit


def _is_rough(epochs: Sequence[Epoch]) -> bool:
    losses = [e.train_loss for e in epochs]
    late = losses[len(losses) // 2 :]
    rises = sum(b > a for a, b in itertools.pairwise(late))
    return len(losses) >= _ROUGH_EPOCHS and rises >= _ROUGH_SHARE * (len(late) - 1)
