"""A process that trains one candidate after another and tells after every epoch how it goes.

Between the processes go only the plain values below, through a pipe that nobody else can open.
Every worker reads the rows from files into memory of its own.
"""

from __future__ import annotations

import contextlib
import signal
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from compress.architecture_search.space import Candidate
from hlserve.datasets import Task
from hlserve.errors import DivergenceError, HlserveError
from hlserve.frontend import FRONTEND_KEY, FrontEnd, Table, to_json
from hlserve.nn import checkpoint
from hlserve.nn.architectures import build_for
from hlserve.nn.history import EpochRecord
from hlserve.nn.network import Network
from hlserve.nn.optimizers import AdamW
from hlserve.nn.param import Array
from hlserve.nn.split import Indices, validation_split
from hlserve.nn.trainer import fit

ROWS, LABELS = "x.npy", "y.npy"


@dataclass(frozen=True, slots=True)
class Lesson:
    """What all candidates are trained with, so that they differ in nothing else.

    Attributes:
        rows: the folder that holds the training rows and their labels.
        validation: the share of the rows that is set apart.
        has_gaps: whether a value is missing in any of the data's rows.
        frontend: what made the rows, kept in every checkpoint; None where nothing did.
    """

    rows: Path
    task: Task
    class_labels: tuple[str, ...] | None
    units: str | None
    validation: float
    epochs: int | None
    seed: int
    has_gaps: bool = False
    frontend: FrontEnd | None = None


@dataclass(frozen=True, slots=True)
class Order:
    """One candidate to train, and the checkpoint to write."""

    candidate: Candidate
    file: Path


@dataclass(frozen=True, slots=True)
class Epoch:
    """The validation metric after an epoch; the worker waits for ``True`` to go on."""

    number: int
    metric: float


@dataclass(frozen=True, slots=True)
class Trained:
    """A candidate was trained to its end and saved."""

    metric: float
    epochs: int
    best_epoch: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Stopped:
    """A candidate was given up.

    Attributes:
        reason: "no" was answered after an epoch, or the loss became infinite.
    """

    reason: str


@dataclass(frozen=True, slots=True)
class Failed:
    """A candidate cannot be trained at all, which is no news about it but a mistake."""

    reason: str


Message = Epoch | Trained | Stopped | Failed


def work(connection: Connection, lesson: Lesson) -> None:
    """Takes orders until the other end of the pipe is closed, or SIGTERM comes."""
    signal.signal(signal.SIGTERM, _leave)  # else semaphores of libraries would be left behind
    # In memory, each worker its own: fit would stream a map of the file, with another split.
    x = np.load(lesson.rows / ROWS)
    y = np.load(lesson.rows / LABELS)
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            order: Order = connection.recv()
            connection.send(_train(order, lesson, x, y, connection))


def file_name(number: int | str) -> str:
    """The checkpoint of a trial."""
    return f"{number}.safetensors"


def split(lesson: Lesson, y: Array) -> tuple[Indices, Indices]:
    """The rows that are trained on and those that validate, as ``fit`` divides them."""
    labels = np.asarray(y) if lesson.task == "classification" else None
    return validation_split(len(y), lesson.validation, seed=lesson.seed, labels=labels)


def _leave(*_: object) -> None:
    raise SystemExit


class _UnwantedError(Exception):
    """The other end does not want the training to go on."""


def _train(order: Order, lesson: Lesson, x: Array, y: Array, connection: Connection) -> Message:
    def report(_: Network, record: EpochRecord) -> None:
        assert record.validation_metric is not None  # there are always validation rows
        connection.send(Epoch(record.epoch, record.validation_metric))
        if not connection.recv():
            raise _UnwantedError

    candidate = order.candidate
    try:
        network = _build(candidate.spec, lesson, x, y)
        history = fit(
            network,
            x,
            y,
            validation=lesson.validation,
            epochs=lesson.epochs,
            optimizer=AdamW(candidate.learning_rate, weight_decay=candidate.weight_decay),
            seed=lesson.seed,
            threads=1,  # more would add up to more than there are cores, and change last bits
            progress=False,
            callbacks=[report],
        )
    except _UnwantedError:
        return Stopped("behind the median of networks that cost no more")
    except DivergenceError as error:
        return Stopped(str(error))
    except HlserveError as error:
        return Failed(str(error))
    if history.is_interrupted:  # what is trained by half is not written down
        return Failed("its process was told to end")
    extra: dict[str, Any] = {"architecture": candidate.spec}
    if lesson.frontend is not None:
        fed = lesson.frontend.feeding([entry.name for entry in network.inputs])
        extra[FRONTEND_KEY] = to_json(fed)
    checkpoint.save(network, order.file, history=history, extra=extra)
    best = history.best
    assert best is not None
    assert best.validation_metric is not None
    return Trained(best.validation_metric, len(history.epochs), best.epoch, history.seconds)


def _build(spec: str, lesson: Lesson, x: Array, y: Array) -> Network:
    """As ``hlserve train`` builds it: preprocessing looks at training rows alone."""
    kept, _ = split(lesson, y)
    is_classes = lesson.task == "classification"
    return build_for(
        spec,
        x if x.dtype == np.uint8 else x[kept],
        y if is_classes else y[kept],
        task=lesson.task,
        class_labels=lesson.class_labels,
        units=lesson.units,
        categories=lesson.frontend.categories if isinstance(lesson.frontend, Table) else None,
        will_have_gaps=lesson.has_gaps,
        seed=lesson.seed,
    )
