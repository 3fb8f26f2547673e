"""What a training run can be asked for, in groups."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, final

import numpy as np

from hlserve.errors import ConfigError, DivergenceError
from hlserve.nn.history import EpochRecord, History
from hlserve.nn.network import Network
from hlserve.nn.param import Array
from hlserve.nn.workspace import Workspace

Callback = Callable[[Network, EpochRecord], bool | None]


class TrainingDivergedError(DivergenceError):
    """The loss became NaN or infinite; the network holds the best epoch's weights, if any.

    Attributes:
        history: of the epochs that ended ahead of it.
    """

    def __init__(self, message: str, history: History) -> None:
        super().__init__(message)
        self.history = history


class StopTraining(Exception):  # noqa: N818  # it is no error: a callback's word, as StopIteration
    """Raised by a callback to end the training, as an early stop does."""


class Augmentation(Protocol):
    """Changes the rows of a batch a little, for training alone; see ``augmentation.Augment``."""

    def __call__(self, rows: Array, rng: np.random.Generator, buffers: Workspace, /) -> Array:
        """Rows of the same shape and type, batch-first, which may lie in ``buffers``."""


@final
@dataclass(frozen=True, slots=True)
class EarlyStopping:
    """Stops once the validation rows have shown no better epoch for ``patience`` epochs."""

    patience: int = 5

    def __post_init__(self) -> None:
        if self.patience < 1:
            raise ConfigError(f"EarlyStopping: patience is {self.patience}, expected 1 or more")


@final
@dataclass(frozen=True, slots=True)
class Gradients:
    """How gradients become a step.

    Attributes:
        clip_norm: the largest Euclidean norm of the gradient of all parameters; a longer one
            is shortened to it. None lets it be.
        accumulate: batches whose gradients are added up for one step, which then equals a step
            on one batch of all their rows, to rounding, and needs the memory of one.
    """

    clip_norm: float | None = None
    accumulate: int = 1

    def __post_init__(self) -> None:
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise ConfigError(f"Gradients: clip_norm is {self.clip_norm}, expected above 0")
        if self.accumulate < 1:
            raise ConfigError(f"Gradients: accumulate is {self.accumulate}, expected 1 or more")


@final
@dataclass(frozen=True, slots=True, eq=False)
class Weighting:
    """How much rows count in the training loss; the weights multiply.

    Attributes:
        class_weight: one number a class, or "balanced": all classes count alike, rows /
            (classes * rows of the class). Validation counts classes as they come.
        sample_weight: (rows,), one number >= 0 a row; counts in validation too.
    """

    class_weight: Literal["balanced"] | Sequence[float] | Array | None = None
    sample_weight: Array | None = None


@final
@dataclass(frozen=True, slots=True)
class StateFile:
    """Where a run keeps all that it needs to go on after an interruption.

    Ctrl-C and SIGTERM write it; the end of the training removes it, unless its caller does so once
    the result is safe. A resumed run ends with the
    weights of an uninterrupted one, bit for bit, on the same machine.

    Attributes:
        path: the file; safetensors.
        every_s: write it after so many seconds too, or after every "epoch".
        resume: go on from the file; False begins anew.
        keep: leave what was written last where it is at the training's end too; ``remove`` it
            once the network is saved.
    """

    path: str | Path
    every_s: float | Literal["epoch"] | None = None
    resume: bool = False
    keep: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.every_s, float | int) and not self.every_s > 0:
            raise ConfigError(f"StateFile: every_s is {self.every_s}, expected above 0")

    def remove(self) -> None:
        """Removes the file, if there is one: nothing is to go on from it any more."""
        Path(self.path).unlink(missing_ok=True)
