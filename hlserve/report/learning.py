"""What a report on a training holds: plain data, as ``report.json`` has it."""

from __future__ import annotations

from typing import Literal

import msgspec

SCHEMA_VERSION = 1

VerdictKind = Literal["underfitting", "overfitting", "well fitted", "cannot tell"]


class Interval(msgspec.Struct, frozen=True):
    """An estimate and its 95 % interval; low and high are infinite where nothing bounds them."""

    estimate: float
    low: float
    high: float


class Metric(msgspec.Struct, frozen=True):
    """What is measured on every row.

    Attributes:
        name: such as "accuracy".
        is_share: of rows that are right: shown in percent, and more is better. Without, it is
            an error in the targets' units, and less is better.
    """

    name: str
    is_share: bool


class PartFigures(msgspec.Struct, frozen=True):
    """How the network does on one part of the rows.

    Attributes:
        name: "training", "validation" or "test".
        rows: how many rows the part has.
        measured: how many of them were drawn to measure it.
        loss, metric: means over the rows measured.
    """

    name: str
    rows: int
    measured: int
    loss: Interval
    metric: Interval | None


class Baseline(msgspec.Struct, frozen=True):
    """The best answer that looks at no input, on the validation rows.

    Attributes:
        name: what it answers, such as "always 'Bag', the most frequent class".
        loss, metric: means over the validation rows.
        gain: how much better the network's metric is, row by row; positive is better.
    """

    name: str
    loss: float | None
    metric: float | None
    gain: Interval | None


class Column(msgspec.Struct, frozen=True):
    """An input of the network: its name, the shape of one row, and its units."""

    name: str
    shape: tuple[int, ...]
    units: str | None


class DataFacts(msgspec.Struct, frozen=True):
    """The rows that were trained on."""

    name: str
    source: str
    licence: str
    task: str
    inputs: tuple[Column, ...]
    classes: int | None


class LayerRow(msgspec.Struct, frozen=True):
    """A layer of the network; multiply-accumulates (MACs) are for one row."""

    name: str
    kind: str
    output_shape: tuple[int, ...]
    parameters: int
    macs: int


class LayerHealth(msgspec.Struct, frozen=True):
    """What a layer does on some rows after the training.

    Attributes:
        name, kind: of the layer.
        mean, std: of its activations.
        dead: share of its units that are zero on every row; None where that means nothing.
        saturated: share of its activations at the flat ends; None where it has none.
        weight_rms: root mean square of its parameters; None without.
        gradient_rms: the same of their gradients, over batches.
        flags: what stands out, in words.
    """

    name: str
    kind: str
    mean: float
    std: float
    dead: float | None
    saturated: float | None
    weight_rms: float | None
    gradient_rms: float | None
    flags: tuple[str, ...] = ()


class Epoch(msgspec.Struct, frozen=True):
    """One epoch; ``train_loss`` is the mean while it was trained on."""

    epoch: int
    train_loss: float
    validation_loss: float | None
    validation_metric: float | None
    learning_rate: float
    seconds: float


class CurvePoint(msgspec.Struct, frozen=True):
    """A fresh copy trained on a share of the training rows.

    Attributes:
        share: of the training rows, 0 to 1.
        rows, epochs: what the copy was trained on, and how often it saw it.
        train, validation: the score, which is the metric, or the loss where there is none.
    """

    share: float
    rows: int
    epochs: int
    train: Interval
    validation: Interval


class LearningCurve(msgspec.Struct, frozen=True):
    """The same network on growing numbers of rows, the same number of steps each.

    Attributes:
        steps: that every copy trained.
        seconds: what all copies together took.
        points: in order of their rows.
        doubling: how much better the score is with the last point's rows than with half of
            them, row by row; positive is better.
        longer: how much better the whole training is than the last point, which saw the same
            rows in fewer steps.
        wider_spec: the architecture of the wider copy, where one was tried.
        wider: how much better the wider copy, in ``steps`` steps, is than the whole training
            of the network in all of its own; a wider network learns more a step, so the last
            point would be no fair match.
    """

    steps: int
    seconds: float
    points: tuple[CurvePoint, ...]
    doubling: Interval | None = None
    longer: Interval | None = None
    wider_spec: str | None = None
    wider: Interval | None = None


class Confusion(msgspec.Struct, frozen=True):
    """How often validation rows of class i (outer) were taken for class j (inner)."""

    labels: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]


class ClassScore(msgspec.Struct, frozen=True):
    """Precision, recall and F1 of one class or label; None where 0/0."""

    label: str
    rows: int
    precision: float | None
    recall: float | None
    f1: float | None


class ReliabilityBin(msgspec.Struct, frozen=True):
    """Rows whose stated probability lies in ``low``..``high``.

    Attributes:
        low, high: the bin's ends.
        rows: how many.
        confidence: the mean of what they state; None for an empty bin.
        hit_rate: how often it came true, with its interval.
    """

    low: float
    high: float
    rows: int
    confidence: float | None
    hit_rate: Interval | None


class Calibration(msgspec.Struct, frozen=True):
    """Whether stated probabilities come true; ``expected_error`` is the ECE."""

    bins: tuple[ReliabilityBin, ...]
    expected_error: float


class Regression(msgspec.Struct, frozen=True):
    """Predictions of one output beside the targets, on validation rows (a sample of them)."""

    output: str
    targets: tuple[float, ...]
    predictions: tuple[float, ...]
    r2: float | None
    bias: float


class Picture(msgspec.Struct, frozen=True):
    """An image: ``pixels`` holds height * width * channels bytes, row by row."""

    height: int
    width: int
    channels: int
    pixels: bytes


class Example(msgspec.Struct, frozen=True):
    """A validation row with a high loss.

    Attributes:
        row: its number among the rows given to train, from 0.
        truth, predicted: in words.
        probability: that the network gave to the truth; None where it gives none.
        loss: of this row.
        picture: the input, where it is an image.
        values: else the first of its values.
    """

    row: int
    truth: str
    predicted: str
    probability: float | None
    loss: float
    picture: Picture | None = None
    values: tuple[float, ...] = ()


class WorstExamples(msgspec.Struct, frozen=True):
    """The rows with the highest loss, highest first; ``columns`` names their values."""

    examples: tuple[Example, ...]
    columns: tuple[str, ...] = ()


class Slope(msgspec.Struct, frozen=True):
    """How the validation loss moves at the end, per epoch, over the last ``epochs``."""

    epochs: int
    per_epoch: Interval


class Verdict(msgspec.Struct, frozen=True):
    """Whether the network under- or overfits, why, and what to try.

    Attributes:
        kind: the verdict.
        sentence: it in a sentence.
        evidence: what it rests on, in sentences.
        advice: what to try, most promising first.
        gap: validation against training; positive is worse on validation.
        slope: of the validation loss at the end; None with too few epochs.
    """

    kind: VerdictKind
    sentence: str
    evidence: tuple[str, ...]
    advice: tuple[str, ...]
    gap: Interval
    slope: Slope | None


class LearningReport(msgspec.Struct, frozen=True, kw_only=True):
    """The whole report, in the order of the page."""

    title: str
    data: DataFacts
    architecture: str
    layers: tuple[LayerRow, ...]
    settings: dict[str, str]
    metric: Metric | None
    parts: tuple[PartFigures, ...]
    baseline: Baseline
    verdict: Verdict
    epochs: tuple[Epoch, ...]
    best_epoch: int | None
    ending: str
    curve: LearningCurve | None
    health: tuple[LayerHealth, ...]
    confusion: Confusion | None = None
    class_scores: tuple[ClassScore, ...] = ()
    calibration: Calibration | None = None
    regression: tuple[Regression, ...] = ()
    worst: WorstExamples
    schema_version: int = SCHEMA_VERSION
