"""What ``hlserve train`` does, from its settings to its summary."""

from __future__ import annotations

import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # ships no stubs

from hlserve.cli.model_rows import FRONTEND_KEY
from hlserve.datasets import Dataset, Rows, load
from hlserve.errors import ConfigError, DataError
from hlserve.frontend import to_json
from hlserve.nn import checkpoint
from hlserve.nn.architectures import build_for
from hlserve.nn.evaluation import Evaluation, evaluate
from hlserve.nn.examples import Examples
from hlserve.nn.history import History
from hlserve.nn.metrics import wilson_interval
from hlserve.nn.network import Network
from hlserve.nn.optimizers import SGD, AdamW, Optimizer
from hlserve.nn.param import Array
from hlserve.nn.split import Indices, validation_split
from hlserve.nn.trainer import LEARNING_RATE, EarlyStopping, fit

# A gap below this is small in itself, however many rows prove it.
NOTABLE_ACCURACY_GAP = 0.02
NOTABLE_LOSS_RATIO = 1.5


@dataclass(frozen=True, slots=True)
class Settings:
    """What the command was asked for; see its help."""

    data: str
    target: str | None
    frontend: str | None
    arch: str
    out: Path
    epochs: int | None
    batch_size: int | None
    optimizer: Literal["adamw", "sgd"]
    learning_rate: float | None
    weight_decay: float | None
    validation: float
    patience: int | None
    seed: int
    threads: int


@dataclass(frozen=True, slots=True)
class Job:
    """Rows, checked, and the fresh network; ``kept`` are trained on, ``apart`` validate."""

    dataset: Dataset
    labels: Array
    network: Network
    kept: Indices
    apart: Indices


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
    """Trains the job's network, saves it and evaluates it."""
    network = job.network
    x = _inputs(network, job.dataset.train)
    with threadpool_limits(limits=settings.threads, user_api="blas"):
        history = fit(
            network,
            x,
            job.labels,
            validation=settings.validation,
            epochs=settings.epochs,
            batch_size=settings.batch_size,
            optimizer=make_optimizer(settings),
            early_stopping=EarlyStopping(settings.patience) if settings.patience else None,
            seed=settings.seed,
            threads=None,
        )
        extra = _provenance(job.dataset, settings, network)
        checkpoint.save(network, settings.out, history=history, extra=extra)
        train = _figure(evaluate(network, x, job.labels, indices=job.kept), history)
        validation = _figure(evaluate(network, x, job.labels, indices=job.apart), history)
        test = _test_figure(network, job.dataset, history)
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


def prepare(settings: Settings) -> Job:
    """Everything that can be wrong with the data or the architecture is found here.

    Raises:
        DataError: the rows or their labels do not fit.
        ConfigError: the architecture or a setting does not.
    """
    dataset = load(settings.data, target=settings.target, frontend=settings.frontend)
    x, labels = dataset.train.x, dataset.train.y
    if labels is None or dataset.task is None:
        raise DataError(f"{dataset.name}: no labels to train on; name them with --target")
    is_classes = dataset.task == "classification"
    kept, apart = validation_split(
        len(x), settings.validation, seed=settings.seed, labels=labels if is_classes else None
    )
    network = build_for(
        settings.arch,
        x if x.dtype == np.uint8 else x[kept],
        labels if is_classes else labels[kept],
        task=dataset.task,
        class_labels=dataset.class_labels,
        units=dataset.units,
        seed=settings.seed,
    )
    if dataset.test is not None and dataset.test.y is not None:
        Examples.checked(network, _inputs(network, dataset.test), dataset.test.y)
    return Job(dataset, labels, network, kept, apart)


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


def make_optimizer(settings: Settings) -> Optimizer:
    """A fresh optimizer, with our defaults where the settings leave it open."""
    rate, decay = settings.learning_rate, settings.weight_decay
    if settings.optimizer == "sgd":
        return SGD(
            0.05 if rate is None else rate,
            nesterov=True,
            weight_decay=1e-4 if decay is None else decay,
        )
    return AdamW(
        LEARNING_RATE if rate is None else rate, weight_decay=0.01 if decay is None else decay
    )


def _test_figure(network: Network, dataset: Dataset, history: History) -> Figure | None:
    if dataset.test is None or dataset.test.y is None:
        return None
    inputs = _inputs(network, dataset.test)
    return _figure(evaluate(network, inputs, dataset.test.y), history)


def _inputs(network: Network, rows: Rows) -> dict[str, Array]:
    return rows.inputs_for([entry.name for entry in network.inputs])


def _figure(evaluation: Evaluation, history: History) -> Figure:
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
    if summary.ending == "interrupted":
        lines.append("interrupted: what follows, and the file, hold the best epoch so far")
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
