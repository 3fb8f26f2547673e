"""What ``hlserve train`` does, from its settings to its summary."""

from __future__ import annotations

import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypedDict

import msgspec
import numpy as np
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # ships no stubs

from hlserve.cli.training_choices import (
    class_weight_of,
    make_augment,
    make_loss,
    make_optimizer,
    make_schedule,
    names_of,
    save_every_of,
    state_path,
)
from hlserve.datasets import Dataset, Rows, load
from hlserve.errors import ConfigError, DataError, DivergenceError
from hlserve.frontend import FRONTEND_KEY, MASK, to_json
from hlserve.nn import checkpoint
from hlserve.nn.architectures import build_for
from hlserve.nn.augmentation import Augment
from hlserve.nn.evaluation import Evaluation, evaluate
from hlserve.nn.examples import Examples
from hlserve.nn.history import History
from hlserve.nn.losses import Loss
from hlserve.nn.metrics import wilson_interval
from hlserve.nn.network import Network
from hlserve.nn.optimizers import Optimizer
from hlserve.nn.param import Array
from hlserve.nn.schedules import Schedule
from hlserve.nn.split import Indices, validation_split
from hlserve.nn.trainer import fit
from hlserve.nn.training_rows import stream_split
from hlserve.nn.training_settings import (
    EarlyStopping,
    Gradients,
    StateFile,
    TrainingDivergedError,
    Weighting,
)
from hlserve.row_blocks import is_mapped, rows_at

# A gap below this is small in itself, however many rows prove it.
NOTABLE_ACCURACY_GAP = 0.02
NOTABLE_LOSS_RATIO = 1.5


@dataclass(frozen=True, slots=True)
class Settings:
    """What the command was asked for; see its help."""

    data: str
    target: str | None
    categorical: str | None
    ignore: str | None
    image_size: str | None
    frontend: str | None
    arch: str
    out: Path
    epochs: int | None
    batch_size: int | None
    accumulate: int
    optimizer: Literal["adamw", "rmsprop", "sgd"]
    learning_rate: float | None
    weight_decay: float | None
    schedule: str
    clip_norm: float | None
    loss: str | None
    label_smoothing: float
    class_weight: str | None
    augment: str | None
    metric: str | None
    validation: float
    patience: int | None
    seed: int
    threads: int
    save_every: str | None
    resume: bool


@dataclass(frozen=True, slots=True)
class Job:
    """Rows, checked, and the fresh network; ``kept`` are trained on, ``apart`` validate.

    Of rows that are streamed from a file, ``kept`` are some of those that are trained on.
    """

    dataset: Dataset
    labels: Array
    network: Network
    kept: Indices
    apart: Indices


class FitOptions(TypedDict):
    """How steps are made and judged; see ``fit``."""

    optimizer: Optimizer
    schedule: Schedule
    gradients: Gradients
    weighting: Weighting
    augment: Augment | None
    metric: str | None


class Figure(msgspec.Struct, frozen=True):
    """How the network does on one part of the rows; for accuracy with its 95 % interval."""

    rows: int
    loss: float
    metric: float | None
    low: float | None
    high: float | None


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """What the command says at its end; ``--json`` prints it."""

    data: str
    architecture: str
    file: str
    size_bytes: int
    parameters: int
    epochs: int
    best_epoch: int | None
    ending: str
    seconds: float
    metric: str | None
    train: Figure
    validation: Figure | None
    test: Figure | None
    advice: str | None


def train(settings: Settings, job: Job) -> tuple[Summary, History]:
    """Trains the job's network, saves it and evaluates it.

    Raises:
        DivergenceError: the loss was no number any more; the best epoch before is saved.
    """
    network = job.network
    with threadpool_limits(limits=settings.threads, user_api="blas"):
        history = _fit_and_save(settings, job)
        train = _figure(settings, job, job.kept, history)
        validation = _figure(settings, job, job.apart, history)
        test = _test_figure(settings, job, history)
    summary = Summary(
        data=job.dataset.name,
        architecture=settings.arch,
        file=str(settings.out),
        size_bytes=settings.out.stat().st_size,
        parameters=network.n_parameters,
        epochs=len(history.epochs),
        best_epoch=history.best_epoch,
        ending=history.ending,
        seconds=history.seconds,
        metric=history.metric,
        train=train,
        validation=validation,
        test=test,
        advice=_advice(train, validation),
    )
    return summary, history


def _fit_and_save(settings: Settings, job: Job) -> History:
    """Removes the training's state only when the network is saved: a full disk loses neither."""
    path, every_s = state_path(settings.out), save_every_of(settings.save_every)
    state = StateFile(path, every_s, settings.resume, keep=True)
    try:
        history = _fit(settings, job, state)
    except TrainingDivergedError as error:
        best = error.history.best_epoch
        if best is None:
            state.remove()
            raise
        _save(settings, job, error.history)
        state.remove()
        told = f"{error}; {settings.out} holds the best epoch before that, {best}"
        raise DivergenceError(told) from error
    _save(settings, job, history)
    if not history.is_interrupted:
        state.remove()
    return history


def _save(settings: Settings, job: Job, history: History) -> None:
    extra = _provenance(job.dataset, settings, job.network)
    checkpoint.save(job.network, settings.out, history=history, extra=extra)


def _fit(settings: Settings, job: Job, state: StateFile) -> History:
    return fit(
        job.network,
        inputs_of(job.network, job.dataset.train),
        job.labels,
        validation=settings.validation,
        epochs=settings.epochs,
        batch_size=settings.batch_size,
        loss=loss_of(settings, job),
        early_stopping=EarlyStopping(settings.patience) if settings.patience else None,
        state_file=state,
        seed=settings.seed,
        threads=settings.threads,
        **fit_options(settings),
    )


def fit_options(settings: Settings) -> FitOptions:
    """What trains the network and its copies alike, made anew at each call: some keep a state."""
    return FitOptions(
        optimizer=optimizer_of(settings),
        schedule=make_schedule(settings.schedule),
        gradients=Gradients(settings.clip_norm, settings.accumulate),
        weighting=Weighting(class_weight_of(settings.class_weight)),
        augment=make_augment(settings.augment),
        metric=settings.metric,
    )


def prepare(settings: Settings) -> Job:
    """Everything that can be wrong with the data, the architecture or a setting is found here.

    Raises:
        DataError: the rows or their labels do not fit.
        ConfigError: the architecture or a setting does not.
    """
    _require_settings(settings)
    dataset = load(
        settings.data,
        target=settings.target,
        frontend=settings.frontend,
        categorical=names_of(settings.categorical),
        ignore=names_of(settings.ignore),
        image_size=settings.image_size,
    )
    x, labels = dataset.train.x, dataset.train.y
    if labels is None or dataset.task is None:
        raise DataError(f"{dataset.name}: no labels to train on; name them with --target")
    is_classes, is_streamed = dataset.task == "classification", is_mapped(x)
    if is_streamed:
        kept, apart = stream_split({"x": x}, labels, settings.validation, settings.seed)
    else:
        kept, apart = validation_split(
            len(x), settings.validation, seed=settings.seed, labels=labels if is_classes else None
        )
    network = build_for(
        settings.arch,
        x if is_streamed or x.dtype == np.uint8 else x[kept],
        labels if is_streamed or is_classes else labels[kept],
        task=dataset.task,
        class_labels=dataset.class_labels,
        units=dataset.units,
        n_ids=dataset.n_ids,
        has_mask=MASK in dataset.train.inputs,
        categories=dataset.categories,
        will_have_gaps=dataset.has_gaps,
        seed=settings.seed,
    )
    if dataset.test is not None and dataset.test.y is not None and not is_mapped(dataset.test.x):
        Examples.checked(network, inputs_of(network, dataset.test), dataset.test.y)
    job = Job(dataset, labels, network, kept, apart)
    loss_of(settings, job)
    return job


def _require_settings(settings: Settings) -> None:
    make_schedule(settings.schedule)
    make_augment(settings.augment)
    class_weight_of(settings.class_weight)
    save_every_of(settings.save_every)


def loss_of(settings: Settings, job: Job) -> Loss | None:
    """The loss that was asked for, or None for the task's own."""
    assert job.dataset.task is not None  # prepare
    targets = rows_at(job.labels, job.kept)
    return make_loss(settings.loss, settings.label_smoothing, job.dataset.task, targets)


def require_writable(out: Path) -> None:
    """Makes the folder, and finds out before the work that the file can be written.

    Raises:
        ConfigError: it cannot, or has another ending.
    """
    if out.suffix != ".safetensors":
        raise ConfigError(f"--out {out}: expected a file named *.safetensors")
    if out.is_dir():
        raise ConfigError(f"--out {out}: is a folder, expected a file in it")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out.parent):
            pass
    except OSError as error:
        raise ConfigError(f"--out {out}: cannot write there: {error.strerror}") from error


def optimizer_of(settings: Settings) -> Optimizer:
    """A fresh optimizer, with our defaults where the settings leave it open."""
    return make_optimizer(settings.optimizer, settings.learning_rate, settings.weight_decay)


def _test_figure(settings: Settings, job: Job, history: History) -> Figure | None:
    test = job.dataset.test
    if test is None or test.y is None:
        return None
    if is_mapped(test.x):
        looked_at, _ = stream_split({"x": test.x}, test.y, 0.5, settings.seed)
        rows = Job(replace(job.dataset, train=test), test.y, job.network, looked_at, looked_at)
        return _figure(settings, rows, looked_at, history)
    return _told(_evaluate(settings, job, inputs_of(job.network, test), test.y), history)


def inputs_of(network: Network, rows: Rows) -> dict[str, Array]:
    """What the network reads of the rows, by input name."""
    return rows.inputs_for([entry.name for entry in network.inputs])


def _figure(settings: Settings, job: Job, indices: Indices, history: History) -> Figure:
    x, labels = job.dataset.train.x, job.labels
    if is_mapped(x):
        rows, targets = rows_at(x, indices), rows_at(labels, indices)
        return _told(_evaluate(settings, job, rows, targets), history)
    inputs = inputs_of(job.network, job.dataset.train)
    return _told(_evaluate(settings, job, inputs, labels, indices), history)


def _evaluate(
    settings: Settings,
    job: Job,
    x: Array | dict[str, Array],
    labels: Array,
    indices: Indices | None = None,
) -> Evaluation:
    loss = loss_of(settings, job)
    return evaluate(job.network, x, labels, loss=loss, indices=indices, metric=settings.metric)


def _told(evaluation: Evaluation, history: History) -> Figure:
    low = high = None
    if history.metric == "accuracy" and evaluation.metric is not None:
        low, high = wilson_interval(round(evaluation.metric * evaluation.n_rows), evaluation.n_rows)
    return Figure(evaluation.n_rows, evaluation.loss, evaluation.metric, low, high)


def _advice(train: Figure, validation: Figure) -> str | None:
    if train.low is not None and validation.high is not None:
        gap = (train.metric or 0.0) - (validation.metric or 0.0)
        is_overfit = gap > NOTABLE_ACCURACY_GAP and train.low > validation.high
        told = f"{100 * gap:.1f} points of accuracy"
    else:
        ratio = validation.loss / max(train.loss, 1e-12)
        is_overfit, told = ratio > NOTABLE_LOSS_RATIO, f"a loss {ratio:.1f} times as high"
    if not is_overfit:
        return None
    return (
        f"validation differs from training by {told}: this looks like overfitting; more rows, "
        "a smaller network, more weight decay or --patience may help"
    )


def _provenance(dataset: Dataset, settings: Settings, network: Network) -> dict[str, Any]:
    named = {
        name: str(value) if isinstance(value, Path) else value
        for name, value in asdict(settings).items()
    }
    facts = {"name": dataset.name, "licence": dataset.licence, "source": dataset.source}
    extra = {"architecture": settings.arch, "data": facts, "settings": named}
    if dataset.frontend is None:
        return extra
    frontend = dataset.frontend.feeding([entry.name for entry in network.inputs])
    return extra | {FRONTEND_KEY: to_json(frontend)}


def as_text(summary: Summary) -> str:
    """The summary in lines."""
    lines = [
        f"{summary.architecture} on {summary.data}: {summary.parameters:,} parameters, "
        f"{summary.epochs} epochs in {summary.seconds:.1f} s ({summary.ending})"
    ]
    if summary.ending in ("interrupted", "terminated"):
        lines.append(
            "interrupted: what follows, and the file, hold the best epoch so far; the same command "
            "with --resume goes on"
        )
    if summary.best_epoch is not None:
        lines.append(f"best epoch   {summary.best_epoch}")
    named = {"train": summary.train, "validation": summary.validation, "test": summary.test}
    lines += [f"{name:<12} {_line(figure, summary.metric)}" for name, figure in named.items()]
    if summary.advice:
        lines.append(f"note         {summary.advice}")
    lines.append(f"saved        {summary.file} ({summary.size_bytes:,} bytes)")
    return "\n".join(lines)


def _line(figure: Figure | None, metric: str | None) -> str:
    if figure is None:
        return "the data has no test rows of its own; validation chose the epoch and flatters"
    if figure.metric is None or figure.low is None or figure.high is None:
        told = "" if figure.metric is None else f"{metric} {figure.metric:.6g}, "
        return f"{told}loss {figure.loss:.4f} on {figure.rows:,} rows"
    interval = f"95 %: {100 * figure.low:.2f} to {100 * figure.high:.2f}"
    return f"{100 * figure.metric:.2f} % {metric} on {figure.rows:,} rows ({interval})"
