"""What a report on a compression holds: plain data; all but the first few may be missing."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np

from hlserve.errors import DataError

SCHEMA_VERSION = 2  # of report.json; 1 told of no layers

Ends = tuple[float | None, float | None]
Matrix = tuple[tuple[int, ...], ...]
Shape = tuple[int | str | None, ...]


class Metric(msgspec.Struct, frozen=True):
    """What is measured on every row; ``is_share`` is shown in percent and points."""

    name: str = "accuracy"
    is_share: bool = True
    higher_is_better: bool = True


class RowCounts(msgspec.Struct, frozen=True):
    """Rows trained on, searched with, and untouched until the end."""

    train: int | None = None
    search: int | None = None
    test: int | None = None


class Machine(msgspec.Struct, frozen=True):
    """Where latency was measured; ``floor_s`` is what a call costs that computes nothing."""

    cpu: str | None = None
    flags: tuple[str, ...] = ()
    cores: int | None = None
    onnxruntime: str | None = None
    floor_s: float | None = None


class Latency(msgspec.Struct, frozen=True):
    """Seconds a run: median, 95th percentile, and the median's 95 % interval."""

    p50: float | None = None
    p95: float | None = None
    lower: float | None = None
    upper: float | None = None


class SpeedUp(msgspec.Struct, frozen=True):
    """How many times faster than the original; ``lower`` is a one-sided 95 % bound."""

    ratio: float | None = None
    lower: float | None = None


class Step(msgspec.Struct, frozen=True):
    """One technique of a recipe, and the network after it."""

    technique: str
    settings: dict[str, Any] = {}
    parameters: int | None = None
    macs: int | None = None
    size_bytes: int | None = None
    seconds: float | None = None


class Row(msgspec.Struct, frozen=True):
    """One model: the original, or a candidate; by batch size where a run is timed."""

    name: str
    family: str = ""
    value: float | None = None
    interval: Ends | None = None
    drop: float | None = None
    drop_upper: float | None = None
    is_proven: bool | None = None
    parameters: int | None = None
    macs: int | None = None
    size_bytes: int | None = None
    packed_bytes: int | None = None
    memory_bytes: int | None = None
    latency_s: dict[str, Latency] = {}
    speed_up: dict[str, SpeedUp] = {}
    int8_share: float | None = None
    refusal: str | None = None
    steps: tuple[Step, ...] = ()


class LastLook(msgspec.Struct, frozen=True):
    """The one look at rows that nothing was chosen by."""

    rows: int | None = None
    original: float | None = None
    best: float | None = None
    drop: float | None = None
    drop_upper: float | None = None
    original_interval: Ends | None = None
    best_interval: Ends | None = None


class GroupSensitivity(msgspec.Struct, frozen=True):
    """Loss by how many of a group's channels are kept: (kept, loss); a share, or a count."""

    group: str
    width: int | None = None
    losses: tuple[tuple[float, float | None], ...] = ()


class LayerSensitivity(msgspec.Struct, frozen=True):
    """What quantizing one layer alone costs."""

    layer: str
    damage: float | None = None
    kept_float: bool = False


class Sensitivity(msgspec.Struct, frozen=True):
    """By group for pruning, by layer for integers."""

    pruning: tuple[GroupSensitivity, ...] = ()
    quantization: tuple[LayerSensitivity, ...] = ()


class LayerState(msgspec.Struct, frozen=True):
    """A layer before or after."""

    shape: Shape = ()
    parameters: int | None = None
    format: str | None = None
    rank: int | None = None


class Layer(msgspec.Struct, frozen=True):
    """What was done to a layer; without ``after`` it is gone."""

    name: str
    kind: str = ""
    before: LayerState | None = None
    after: LayerState | None = None
    why: str = ""


class Histogram(msgspec.Struct, frozen=True):
    """Values seen in calibration, in bins of equal width, and where they are cut.

    ``clipped`` is the share of values beyond the cuts, ``not_finite`` counts NaN and infinity.
    """

    name: str
    counts: tuple[float, ...] = ()
    low: float | None = None
    high: float | None = None
    cut_low: float | None = None
    cut_high: float | None = None
    clipped: float | None = None
    not_finite: int | None = None


class ClassChange(msgspec.Struct, frozen=True):
    """One class: the share of its rows that is right; ``p`` is corrected for their number."""

    label: str
    rows: int
    original: float | None
    best: float | None
    worse: int | None = None
    better: int | None = None
    p: float | None = None


class Classes(msgspec.Struct, frozen=True):
    """Confusion matrices, [true][answered], and the change of every class."""

    labels: tuple[str, ...] = ()
    original: Matrix | None = None
    best: Matrix | None = None
    changes: tuple[ClassChange, ...] = ()
    warnings: tuple[str, ...] = ()


class CompressionReport(msgspec.Struct, frozen=True):
    """The whole report. ``licence``, ``source`` and ``command`` are the user's, where known."""

    original: Row
    best: Row | None = None
    schema_version: int = 2
    model: str = "model"
    data: str | None = None
    evaluation: str | None = None
    licence: str | None = None
    source: str | None = None
    command: str | None = None
    rows: RowCounts = RowCounts()
    metric: Metric = Metric()
    output: str | None = None
    max_drop: float | None = None
    minimize: str | None = None
    provider: str | None = None
    batches: tuple[int, ...] = ()
    seed: int | None = None
    seconds: float | None = None
    is_proven: bool = False
    smallest_provable_drop: float | None = None
    comparisons: int | None = None
    machine: Machine = Machine()
    tried: tuple[Row, ...] = ()
    pareto: tuple[str, ...] = ()
    test: LastLook | None = None
    sensitivity: Sensitivity = Sensitivity()
    layers: tuple[Layer, ...] = ()
    calibration: tuple[Histogram, ...] = ()
    classes: Classes | None = None
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def is_kept(self) -> bool:
        """Whether the original is what is handed back."""
        return self.best is None or self.best.name == self.original.name

    @property
    def chosen(self) -> Row:
        """What is handed back."""
        return self.original if self.best is None else self.best

    @property
    def all_warnings(self) -> tuple[str, ...]:
        """Those of the classes too, each once."""
        of_classes = self.classes.warnings if self.classes else ()
        return tuple(dict.fromkeys((*self.warnings, *of_classes)))

    @property
    def timed_batches(self) -> tuple[str, ...]:
        """Batch sizes with a latency, ascending."""
        found = {b for r in (self.original, self.chosen, *self.tried) for b in r.latency_s}
        return tuple(sorted(found, key=lambda b: (len(b), b)))


def as_json(report: dict[str, Any]) -> bytes:
    """The dict as JSON, with what it holds besides; not-a-number and infinity become null."""
    return msgspec.json.encode(report, enc_hook=_plain)


def read_report(report: dict[str, Any]) -> CompressionReport:
    """The typed report; keys that are missing or null take their defaults, others are ignored.

    Raises:
        DataError: a value is not of the kind that its key holds.
    """
    try:
        plain = _without_nulls(msgspec.json.decode(as_json(report)))
        return msgspec.convert(plain, type=CompressionReport)
    except (msgspec.ValidationError, TypeError) as error:
        raise DataError(f"compression report: {error}") from error


# ----- below


def _without_nulls(value: Any) -> Any:
    """The same, without the keys whose value is null."""
    if isinstance(value, dict):
        return {k: _without_nulls(v) for k, v in value.items() if v is not None}
    return [_without_nulls(v) for v in value] if isinstance(value, list) else value


def _plain(value: object) -> Any:
    """NumPy's scalars and arrays as Python's, anything else as its text."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    return str(value)
