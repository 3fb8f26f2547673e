"""What happened in a training run, epoch by epoch."""

from __future__ import annotations

import math
from typing import Literal

import msgspec

from hlserve.errors import ModelFileError

SCHEMA_VERSION = 1

Ending = Literal["all epochs", "no improvement", "stopped", "interrupted", "terminated", "diverged"]


class EpochRecord(msgspec.Struct, frozen=True):
    """One epoch.

    Attributes:
        epoch: counted from 1.
        train_loss: mean over the epoch's rows while they were trained on, dropout and all.
        validation_loss: over the validation rows after the epoch; None without them.
        validation_metric: the same for the history's metric; None where there is none, NaN where
            it is not defined, such as the ROC-AUC of rows of one class.
        learning_rate: that of the epoch's last step.
        seconds: wall time with validation.
    """

    epoch: int
    train_loss: float
    validation_loss: float | None
    validation_metric: float | None
    learning_rate: float
    seconds: float


class History(msgspec.Struct):
    """A training run.

    Attributes:
        metric: what the validation metric is, "accuracy" or "mean absolute error"; or None.
        epochs: one record a finished epoch.
        best_epoch: the epoch whose weights the network holds; None where nothing was
            validated, and the weights are the last.
        ending: why it stopped; "stopped" is by a callback, "interrupted" by Ctrl-C,
            "terminated" by SIGTERM; "diverged" when the loss was no number any more.
    """

    metric: str | None = None
    epochs: list[EpochRecord] = msgspec.field(default_factory=list)
    best_epoch: int | None = None
    ending: Ending = "all epochs"
    schema_version: int = SCHEMA_VERSION

    def __post_init__(self) -> None:
        # JSON has no NaN and holds null instead. A metric that was measured tells it from none.
        self.epochs = [
            msgspec.structs.replace(record, validation_metric=math.nan)
            if self.metric is not None
            and record.validation_loss is not None
            and record.validation_metric is None
            else record
            for record in self.epochs
        ]

    @property
    def is_interrupted(self) -> bool:
        """Whether it was stopped from outside: Ctrl-C or SIGTERM."""
        return self.ending in ("interrupted", "terminated")

    @property
    def best(self) -> EpochRecord | None:
        """The record of the weights that the network holds; None before a first epoch ends."""
        if self.best_epoch is not None:
            return self.epochs[self.best_epoch - 1]
        return self.epochs[-1] if self.epochs else None

    @property
    def seconds(self) -> float:
        """Wall time of all finished epochs."""
        return sum(record.seconds for record in self.epochs)

    def to_json(self) -> str:
        """The run as JSON text."""
        return msgspec.json.encode(self).decode()

    @classmethod
    def from_json(cls, text: str | bytes) -> History:
        """The run that ``to_json`` wrote.

        Raises:
            ModelFileError: the text is something else.
        """
        try:
            return msgspec.json.decode(text, type=cls)
        except msgspec.MsgspecError as error:
            raise ModelFileError(f"history: {error}") from error
