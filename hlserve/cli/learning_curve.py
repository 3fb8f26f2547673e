"""Trains fresh copies of a network on growing numbers of rows, at a bounded cost."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hlserve.cli.report_measures import Subject, sample
from hlserve.cli.training import FitOptions
from hlserve.nn.network import Network
from hlserve.nn.split import Indices
from hlserve.nn.trainer import fit
from hlserve.report.learning import CurvePoint, Interval, LearningCurve

SHARES = (0.1, 0.25, 0.5, 1.0)
FEWEST_ROWS = 10
LARGEST_COPY_BYTES = 512 * 2**20  # of rows: those of a copy are gathered into memory
_WATCHED_ROWS = 1_000  # of validation, after every epoch of a copy
_TRAIN_ROWS = 2_000  # that tell how well a copy knows its own rows


@dataclass(frozen=True, slots=True)
class CurveJob:
    """What the copies are trained like.

    Attributes:
        subject: rows, targets and loss.
        kept, apart: the rows to train on, and those that validate.
        make_options: gives those of the training, with a fresh optimizer and schedule.
        batch_size: of the training; its ``gradients`` may add up several for a step.
        total_steps: that the training took; all copies together take about as many.
        seed, threads: as in ``fit``.
    """

    subject: Subject
    kept: Indices
    apart: Indices
    make_options: Callable[[], FitOptions]
    batch_size: int
    total_steps: int
    seed: int
    threads: int

    @property
    def steps(self) -> int:
        """How many every copy takes."""
        return max(1, self.total_steps // len(SHARES))


@dataclass(frozen=True, slots=True)
class Trained:
    """A copy after its training; ``scores`` are those of the rows ``apart``, one each."""

    point: CurvePoint
    scores: NDArray[np.float64]


def learning_curve(
    network: Network, job: CurveJob, whole_scores: NDArray[np.float64]
) -> LearningCurve | None:
    """The curve; None where Ctrl-C ended it or the rows are too few.

    Every copy starts anew and takes the same number of steps, so that copies differ by their
    rows alone; each holds the rows of the one before.

    Args:
        network: its architecture is copied, its values are not.
        job: see there.
        whole_scores: of the rows ``apart`` after the whole training.

    Raises:
        DivergenceError: a copy's loss became infinite, though the network's own did not.
    """
    started = time.perf_counter()
    order = np.random.default_rng(job.seed).permutation(job.kept)
    copies: list[Trained] = []
    for share in _shares(job, order):
        fresh = network.copy().initialize(np.random.default_rng(job.seed))
        trained = train_copy(fresh, job, share, order[: round(share * len(order))])
        if trained is None:
            return None
        copies.append(trained)
    if not copies:
        return None
    last = copies[-1]
    is_whole = last.point.share == 1.0
    return LearningCurve(
        steps=job.steps,
        seconds=time.perf_counter() - started,
        points=tuple(copy.point for copy in copies),
        doubling=_doubling(copies, job.subject),
        longer=job.subject.gain(whole_scores, last.scores) if is_whole else None,
    )


def train_copy(network: Network, job: CurveJob, share: float, rows: Indices) -> Trained | None:
    """Trains the fresh network on these rows; None where Ctrl-C ended it.

    Raises:
        DivergenceError: its loss became infinite.
    """
    subject = job.subject
    watched = sample(job.apart, _WATCHED_ROWS)
    options = job.make_options()
    rows_a_step = job.batch_size * options["gradients"].accumulate
    epochs = max(1, round(job.steps / math.ceil(len(rows) / rows_a_step)))
    history = fit(
        network,
        {name: array[rows] for name, array in subject.inputs.items()},
        subject.targets[rows],
        loss=subject.loss,
        validation=(
            {name: array[watched] for name, array in subject.inputs.items()},
            subject.targets[watched],
        ),
        epochs=epochs,
        batch_size=job.batch_size,
        seed=job.seed,
        threads=job.threads,
        **options,
    )
    if history.is_interrupted:
        return None
    train = subject.scores(subject.results(network, sample(rows, _TRAIN_ROWS)))
    scores = subject.scores(subject.results(network, sample(job.apart)))
    point = CurvePoint(share, len(rows), epochs, subject.interval(train), subject.interval(scores))
    return Trained(point, scores)


def _shares(job: CurveJob, order: Indices) -> list[float]:
    """Those with enough rows, of more than one class, that fit into memory."""
    row_bytes = sum(array[:1].nbytes for array in job.subject.inputs.values())
    shares = []
    for share in SHARES:
        rows = round(share * len(order))
        fits = rows * row_bytes <= LARGEST_COPY_BYTES
        labels = job.subject.targets[order[:rows]]
        is_one_class = job.subject.kind == "classes" and rows > 0 and np.all(labels == labels[0])
        if rows >= FEWEST_ROWS and fits and not is_one_class:
            shares.append(share)
    return shares


def _doubling(copies: list[Trained], subject: Subject) -> Interval | None:
    if len(copies) < 2 or copies[-2].point.share * 2 != copies[-1].point.share:
        return None
    return subject.gain(copies[-1].scores, copies[-2].scores)
