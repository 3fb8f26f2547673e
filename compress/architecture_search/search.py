"""The search itself: ask for a candidate, have it trained, write down what became of it."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Never

import numpy as np
from tqdm import tqdm

from compress.architecture_search.evaluation import evaluate_front
from compress.architecture_search.front import front
from compress.architecture_search.journal import Journal, Running
from compress.architecture_search.report import Report
from compress.architecture_search.rows import require_numbers_in_memory
from compress.architecture_search.space import SMALLEST, Space, make_space
from compress.architecture_search.stopping import is_hopeless
from compress.architecture_search.worker import (
    LABELS,
    ROWS,
    Epoch,
    Failed,
    Lesson,
    Message,
    Order,
    Stopped,
    Trained,
    file_name,
    work,
)
from compress.crew import Crew
from compress.metric import ACCURACY, MAE, Metric
from hlserve.datasets import Dataset
from hlserve.errors import ConfigError, DataError, TrainingError
from hlserve.nn.architectures import build
from hlserve.nn.examples import Examples, require_several_classes
from hlserve.nn.layer import Layer
from hlserve.nn.network import Network
from hlserve.nn.param import Array
from hlserve.nn.spec_options import ACTIVATIONS
from hlserve.nn.split import validation_split
from hlserve.nn.table import table_preprocessing

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Settings:
    """What decides the trials; a search is resumed with the same.

    Attributes:
        max_parameters: that no network has more of.
        family: ``auto`` tries convolutions beside perceptrons where the rows are images.
        validation: the share of the training rows that scores the trials.
        epochs: of each training; None leaves it to the trainer.
        seed: of the sampler, the split, the weights and the order of rows.
    """

    max_parameters: int
    family: Literal["mlp", "cnn", "auto"] = "auto"
    validation: float = 0.2
    epochs: int | None = None
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is tried, which may differ from one resumption to the next.

    Attributes:
        trials: in all, those of earlier runs included.
        jobs: trainings at a time, each in a process of its own with one thread.
        budget_s: after which no training goes on, once one network is trained; None for none.
    """

    trials: int = 50
    jobs: int = 1
    budget_s: float | None = None

    def __post_init__(self) -> None:
        if self.trials < 1 or self.jobs < 1:
            raise ConfigError(f"trials are {self.trials}, jobs {self.jobs}; expected 1 or more")
        if self.budget_s is not None and self.budget_s <= 0:
            raise ConfigError(f"the budget is {self.budget_s} s, expected more than 0")


def search(
    dataset: Dataset,
    settings: Settings,
    effort: Effort,
    folder: Path,
    *,
    is_resumed: bool = False,
    progress: bool = False,
    tell: Tell | None = None,
) -> Report:
    """Trains candidates and answers the front of the metric against multiply-accumulates.

    ``folder`` gets the journal, the checkpoints of the front's networks (``<trial>.safetensors``)
    and ``search.json``. Ctrl-C ends the search with what is trained by then.

    Args:
        dataset: its test rows are looked at once, at the end, for the networks of the front.
        settings: see Settings.
        effort: see Effort.
        folder: is made.
        is_resumed: whether to go on with the search that is there.
        progress: whether a terminal shows a bar.
        tell: is called with one line for each trial.

    Raises:
        ConfigError: nothing keeps the bound, or the folder holds a search, or another one, or
            files that are named as its networks would be.
        DataError: the rows have no labels, are too few, are ids of words, or are streamed.
        TrainingError: a worker died, or no network could be trained.
        KeyboardInterrupt: Ctrl-C came before a network was trained.
    """
    labels = _labels(dataset)
    require_numbers_in_memory(dataset)
    space = _space(dataset, settings)
    _require_trainable(dataset, settings)
    identity = _identity(dataset, settings)
    with _alone_in(folder), tempfile.TemporaryDirectory(prefix="hlserve-") as shared:
        journal = Journal(folder, identity, is_resumed=is_resumed)
        np.save(Path(shared) / ROWS, dataset.train.x)
        np.save(Path(shared) / LABELS, labels)
        lesson = _lesson(dataset, settings, Path(shared))
        run = _Run(journal, space, effort, folder, metric_of(dataset), tell or _silence)
        ending = run.until_the_end(lesson, progress=progress)
        report = evaluate_front(
            journal.trials(),
            dataset,
            lesson,
            folder,
            metric=metric_of(dataset),
            settings=identity,
            ending=ending,
            progress=progress,
        )
    report.write(folder)
    return report


def metric_of(dataset: Dataset) -> Metric:
    """What trials are scored by: accuracy of classes, the absolute error of numbers."""
    return ACCURACY if dataset.task == "classification" else MAE


class _Run:
    """The trials from the first that is missing to the last."""

    def __init__(
        self,
        journal: Journal,
        space: Space,
        effort: Effort,
        folder: Path,
        metric: Metric,
        tell: Tell,
    ) -> None:
        self._journal = journal
        self._space = space
        self._effort = effort
        self._folder = folder
        self._metric = metric
        self._tell = tell
        self._running: dict[int, tuple[Running, float]] = {}  # and when it began
        self._finished = journal.trials()
        self._stop = time.monotonic() + (effort.budget_s or float("inf"))

    def until_the_end(self, lesson: Lesson, *, progress: bool) -> str:
        """Tries what is missing; answers why it ended, ``Report.ending``."""
        bar: tqdm[Never] = tqdm(
            total=self._effort.trials,
            initial=min(len(self._finished), self._effort.trials),
            desc="search",
            unit="trial",
            disable=None if progress else True,
        )
        ending = "all trials"
        with bar, Crew[Lesson, Order, Message](work, lesson, self._effort.jobs) as crew:
            try:
                self._drop_dominated()  # an interrupted run may have left one
                self._show_best(bar)
                while self._fill(crew):
                    for number, message in crew.messages(self._left_s()):
                        self._hear(crew, number, message, bar)
                    if self._is_spent:
                        ending = "budget"
                        break
            except KeyboardInterrupt:
                ending = "interrupted"
            finally:
                for number in self._running:
                    self._journal.abandoned(number)
        if ending == "interrupted" and not self._is_any_trained:
            raise KeyboardInterrupt
        return ending

    @property
    def _is_any_trained(self) -> bool:
        return any(trial.state == "trained" for trial in self._finished)

    @property
    def _is_spent(self) -> bool:
        return self._is_any_trained and time.monotonic() >= self._stop

    def _left_s(self) -> float | None:
        """How long may be waited; at least a moment, for a first network beyond the budget."""
        return None if self._effort.budget_s is None else max(0.1, self._stop - time.monotonic())

    def _fill(self, crew: Crew[Lesson, Order, Message]) -> bool:
        """Starts what may be started; answers whether anything runs."""
        tried = len(self._finished) + len(self._running)
        while crew.is_free and tried < self._effort.trials:
            trial = self._journal.ask(self._space)
            file = self._folder / file_name(trial.number)
            crew.start(trial.number, Order(trial.candidate, file))
            self._running[trial.number] = (trial, time.monotonic())
            tried += 1
        return bool(self._running)

    def _hear(
        self, crew: Crew[Lesson, Order, Message], number: int, message: Message, bar: tqdm[Never]
    ) -> None:
        trial, started = self._running[number]
        if isinstance(message, Epoch):
            trial.curve.append(self._score(message.metric))
            crew.answer(number, go_on=not is_hopeless(trial, self._finished))
            return
        crew.release(number)
        del self._running[number]
        seconds = time.monotonic() - started
        match message:
            case Trained(metric=metric):
                self._journal.trained(trial, self._score(metric), seconds)
            case Stopped(reason=reason):
                self._journal.stopped(trial, seconds, reason)
            case Failed(reason=reason):
                self._journal.abandoned(number)
                raise TrainingError(f"trial {number}, {trial.candidate.spec}: {reason}")
        self._finished = self._journal.trials()
        self._drop_dominated()
        self._tell(self._line(number))
        bar.update()
        self._show_best(bar)

    def _score(self, metric: float) -> float:
        return metric if self._metric.higher_is_better else -metric

    def _drop_dominated(self) -> None:
        """What is dominated once stays so: its checkpoint will never be asked for."""
        trained = [trial for trial in self._finished if trial.state == "trained"]
        kept = {file_name(trial.number) for trial in front(trained)}
        kept |= {file_name(number) for number in self._running}
        for number in self._journal.numbers():
            if file_name(number) not in kept:
                (self._folder / file_name(number)).unlink(missing_ok=True)

    def _line(self, number: int) -> str:
        (trial,) = (t for t in self._finished if t.number == number)
        told = "no epoch" if trial.score is None else f"{self._metric.name} {abs(trial.score):.4f}"
        reason = f"; stopped after {len(trial.curve)} epochs: {trial.reason}" * bool(trial.reason)
        return f"{number}: {trial.candidate.spec}, {trial.parameters:,} parameters, {told}{reason}"

    def _show_best(self, bar: tqdm[Never]) -> None:
        trained = [trial for trial in self._finished if trial.state == "trained"]
        if trained:
            best = front(trained)[-1]
            assert best.score is not None
            shown = f"best {self._metric.name} {abs(best.score):.4f} ({best.candidate.spec})"
            bar.set_postfix_str(shown)


# ----- before the first trial


@contextlib.contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Makes the folder and keeps other searches out of it; the lock ends with the process."""
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise ConfigError(f"--out {folder}: another search is running there") from error
    finally:
        os.close(descriptor)


def _labels(dataset: Dataset) -> Array:
    labels = dataset.train.y
    if labels is None or dataset.task is None:
        raise DataError(f"{dataset.name}: no labels to train on; name them with --target")
    return labels


def _space(dataset: Dataset, settings: Settings) -> Space:
    ahead = _table_layers(dataset, settings)

    def cost(spec: str) -> tuple[int, int]:
        network = _built(spec, dataset, ahead)
        return network.n_parameters, network.macs()

    return make_space(settings.family, dataset.train.x.shape[1:], settings.max_parameters, cost)


def _table_layers(dataset: Dataset, settings: Settings) -> list[Layer]:
    """What a table with gaps or categories needs ahead, from the rows that are trained on."""
    x, labels = dataset.train.x, _labels(dataset)
    if x.ndim != 2 or x.dtype.kind != "f" or not (dataset.categories or dataset.has_gaps):
        return []
    classes = labels if dataset.task == "classification" else None
    kept, _ = validation_split(len(labels), settings.validation, seed=settings.seed, labels=classes)
    return table_preprocessing(x[kept], dataset.categories, will_have_gaps=dataset.has_gaps)


def _built(spec: str, dataset: Dataset, ahead: Sequence[Layer]) -> Network:
    """A network for these rows, but for what else preprocessing learns from them."""
    labels, task, known = _labels(dataset), dataset.task, dataset.class_labels
    assert task is not None  # there are labels
    n_outputs = 1 if labels.ndim == 1 else labels.shape[1]
    if task == "classification":
        n_outputs = int(labels.max()) + 1 if known is None else len(known)
    return build(
        spec,
        input_shape=dataset.train.x.shape[1:],
        n_outputs=n_outputs,
        task=task,
        preprocessing=ahead,
        class_labels=known,
    )


def _require_trainable(dataset: Dataset, settings: Settings) -> None:
    """Finds out before the work what is wrong with the rows."""
    labels = _labels(dataset)
    validation_split(len(labels), settings.validation, seed=settings.seed)
    network = _built(f"mlp:{SMALLEST}", dataset, _table_layers(dataset, settings))
    Examples.checked(network, dataset.train.x, labels)
    if dataset.task == "classification":
        require_several_classes(labels, network.class_labels)
    if dataset.test is not None and dataset.test.y is not None:
        Examples.checked(network, dataset.test.x, dataset.test.y)


def _lesson(dataset: Dataset, settings: Settings, rows: Path) -> Lesson:
    assert dataset.task is not None
    return Lesson(
        rows=rows,
        task=dataset.task,
        class_labels=dataset.class_labels,
        units=dataset.units,
        validation=settings.validation,
        epochs=settings.epochs,
        seed=settings.seed,
        has_gaps=dataset.has_gaps,
        frontend=dataset.frontend,
    )


def _identity(dataset: Dataset, settings: Settings) -> dict[str, Any]:
    """What must be the same for a search to go on: the settings, the rows, and what is drawn."""
    facts = {
        "data": dataset.name,
        "rows": _digest(dataset.train.x, _labels(dataset)),
        "activations": list(ACTIVATIONS),
    }
    return asdict(settings) | facts


def _digest(*arrays: Array) -> str:
    """Tells these rows from others."""
    digest = hashlib.blake2b(digest_size=8)
    for array in arrays:
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _silence(_: str) -> None:
    pass
