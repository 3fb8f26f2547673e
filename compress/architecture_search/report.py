"""What a search found, as plain values: what ``search.json`` holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from compress.architecture_search.front import Behind
from hlserve.nn.atomic_file import write_atomically

SCHEMA_VERSION = 1
FILE = "search.json"

RULE = (
    "of the front, the fewest multiply-accumulates among the networks that the validation rows "
    "do not show to be worse than the best one: the one-sided 95 % bound of the paired "
    "difference does not exclude zero (not corrected for the number of networks compared)"
)


class Figure(msgspec.Struct, frozen=True):
    """The metric on some rows, with its 95 % interval."""

    rows: int
    value: float
    low: float
    high: float


class FrontNetwork(msgspec.Struct, frozen=True, kw_only=True):
    """A network of the front.

    Attributes:
        file: its checkpoint, in the search's folder.
        train_options: with which ``hlserve train`` trains it again.
        behind_best: how much worse than the best network, on the validation rows.
        latency_us: p50 in ONNX Runtime on one thread, by rows a run.
        test: on rows that nothing was chosen by; None where the data has none.
    """

    trial: int
    architecture: str
    learning_rate: float
    weight_decay: float
    epochs: int
    parameters: int
    macs: int
    file: str
    train_options: str
    validation: Figure
    behind_best: Behind
    latency_us: dict[str, float]
    test: Figure | None


class Tried(msgspec.Struct, frozen=True, kw_only=True):
    """A candidate; ``metric`` is that of its best epoch on the validation rows."""

    trial: int
    architecture: str
    learning_rate: float
    weight_decay: float
    parameters: int
    macs: int
    state: str
    reason: str
    metric: float | None
    epochs: int
    seconds: float


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """A whole search.

    Attributes:
        settings: what decides the trials, so that they can be made again.
        metric: "accuracy", or "mae", where less is better.
        recommended: a trial of the front, by the ``rule``.
        ending: "all trials", "budget" or "interrupted".
        front: from the cheapest to the best.
    """

    settings: dict[str, Any]
    metric: str
    ending: str
    rule: str
    recommended: int
    front: list[FrontNetwork]
    trials: list[Tried]
    schema_version: int = SCHEMA_VERSION

    @property
    def is_interrupted(self) -> bool:
        """Whether Ctrl-C ended it."""
        return self.ending == "interrupted"

    def write(self, folder: Path) -> Path:
        """Writes it beside the checkpoints."""
        path = folder / FILE
        write_atomically(path, msgspec.json.format(msgspec.json.encode(self), indent=1) + b"\n")
        return path
