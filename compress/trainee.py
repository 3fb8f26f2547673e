"""A process that goes on from one network to another by the steps that it is sent."""

from __future__ import annotations

import contextlib
import signal
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # ships no stubs

from compress.recipe import Recipe
from compress.technique import Compressed, Data, Report
from hlserve.datasets import Rows
from hlserve.errors import HlserveError
from hlserve.nn import checkpoint
from hlserve.nn.network import Network

LABELS, LOGITS, INPUT = "labels.npy", "logits.npy", "input-{}.npy"
BLAS_THREADS = 1  # more would change last bits, and a result must be made again bit by bit


@dataclass(frozen=True, slots=True)
class Lesson:
    """What all steps learn from.

    Attributes:
        rows: the folder that ``write_rows`` filled.
        inputs: the names of the network's inputs, in order.
        seed, image_shape: see Data.
    """

    rows: Path
    inputs: tuple[str, ...]
    seed: int
    image_shape: tuple[int, int, int] | None = None


@dataclass(frozen=True, slots=True)
class Order:
    """Steps to take from a checkpoint to another."""

    source: Path
    steps: str  # as TOML
    target: Path


@dataclass(frozen=True, slots=True)
class Finished:
    """The checkpoint is written."""

    reports: tuple[Report, ...]


@dataclass(frozen=True, slots=True)
class Failed:
    """The steps do not fit the network or the rows."""

    reason: str


Message = Finished | Failed


def work(connection: Connection, lesson: Lesson) -> None:
    """Takes orders until the other end of the pipe is closed, or SIGTERM comes."""
    signal.signal(signal.SIGTERM, _leave)  # else semaphores of libraries would be left behind
    data = read_rows(lesson)
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            order: Order = connection.recv()
            connection.send(_carry_out(order, data))


def take_steps(network: Network, recipe: Recipe, data: Data) -> Compressed:
    """The recipe's steps with one BLAS thread, so that it gives the same bits wherever it runs."""
    with threadpool_limits(limits=BLAS_THREADS, user_api="blas"):
        return recipe.apply(network, data)


def write_rows(data: Data, folder: Path) -> None:
    """The rows as files that workers read."""
    for number, array in enumerate(data.train.inputs.values()):
        np.save(folder / INPUT.format(number), array)
    for file, optional in ((LABELS, data.train.y), (LOGITS, data.teacher_logits)):
        if optional is not None:
            np.save(folder / file, optional)


def read_rows(lesson: Lesson) -> Data:
    """The rows that were written, in memory: ``fit`` would stream a map of a file."""
    inputs = {name: np.load(lesson.rows / INPUT.format(n)) for n, name in enumerate(lesson.inputs)}
    labels, logits = (
        np.load(lesson.rows / file) if (lesson.rows / file).exists() else None
        for file in (LABELS, LOGITS)
    )
    return Data(Rows(inputs, labels), logits, lesson.image_shape, seed=lesson.seed)


# ----- below


def _leave(*_: Any) -> None:
    raise SystemExit


def _carry_out(order: Order, data: Data) -> Message:
    try:
        done = take_steps(checkpoint.load(order.source), Recipe.from_toml(order.steps), data)
        checkpoint.save(done.network, order.target)
    except HlserveError as error:
        return Failed(str(error))
    except KeyboardInterrupt:  # a training that was told to end is no result
        return Failed("its process was told to end")
    return Finished(done.reports)
