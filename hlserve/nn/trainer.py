"""Training: minibatches, validation after every epoch, the best weights kept."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Never, final

import numpy as np
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # ships no stubs
from tqdm import tqdm

from hlserve.errors import ConfigError, DivergenceError
from hlserve.nn.evaluation import (
    Evaluation,
    Part,
    Rows,
    default_loss,
    evaluate_part,
    metric_of,
)
from hlserve.nn.examples import Examples, require_several_classes
from hlserve.nn.history import EpochRecord, History
from hlserve.nn.losses import Loss, Targets
from hlserve.nn.network import Network
from hlserve.nn.optimizers import AdamW, Optimizer
from hlserve.nn.param import Array
from hlserve.nn.schedules import Cosine, Schedule
from hlserve.nn.split import Indices, validation_split
from hlserve.nn.workspace import Workspace

Callback = Callable[[Network, EpochRecord], None]

# What the defaults aim at: a small set is seen more often, in smaller batches.
LEARNING_RATE = 3e-3  # AdamW's; with the warm-up LeNet-5 reaches 90 % of Fashion-MNIST
WARM_UP = 0.05
FEW_ROWS = 10_000
ENOUGH_STEPS = 1_500


@final
@dataclass(frozen=True, slots=True)
class EarlyStopping:
    """Stops once the validation rows have shown no better epoch for ``patience`` epochs."""

    patience: int = 5

    def __post_init__(self) -> None:
        if self.patience < 1:
            raise ConfigError(f"EarlyStopping: patience is {self.patience}, expected 1 or more")


def fit(
    network: Network,
    rows: Rows,
    targets: Targets,
    *,
    loss: Loss | None = None,
    validation: tuple[Rows, Targets] | float | None = 0.1,
    epochs: int | None = None,
    batch_size: int | None = None,
    optimizer: Optimizer | None = None,
    schedule: Schedule | None = None,
    early_stopping: EarlyStopping | None = None,
    seed: int = 0,
    threads: int | None = 1,
    progress: bool = True,
    callbacks: Sequence[Callback] = (),
) -> History:
    """Trains the network in place; with validation it ends with its best epoch's weights.

    The best epoch has the highest accuracy, then the lowest loss, on the validation rows; for
    other tasks the lowest loss. Ctrl-C ends the training as an early stop does. The same
    arguments on the same machine give the same weights bit for bit.

    Args:
        network: where ``Param.mask`` is set, masked weights stay zero.
        rows: (rows, ...), or one such array an input, by name.
        targets: class labels (rows,), numbers (rows,) or (rows, outputs), or what ``loss``
            takes, by name; among named ones the metric looks at "labels".
        loss: cross-entropy for classification by default; for regression the squared error
            in standard deviations of the training targets.
        validation: rows and targets, or the share of rows to set apart (by class), or None.
        epochs: passes over the training rows; by default 12, and more, up to 100, where these
            would make fewer than 1,500 steps.
        batch_size: rows a step; by default 128, or 32 where there are under 10,000 rows.
        optimizer: a fresh ``AdamW(3e-3)`` by default.
        schedule: ``Cosine(warm_up=0.05)`` by default.
        early_stopping: runs all epochs by default.
        seed: of the split, the order of rows and dropout; weights come initialized.
        threads: of BLAS meanwhile; None leaves them be. On networks of this size a second one
            gains little, and loses much where something else is busy: OpenBLAS waits actively.
        progress: whether a terminal shows a bar.
        callbacks: called with the network and its record after every epoch.

    Raises:
        DataError: rows or targets cannot be trained on.
        ConfigError: a setting makes no sense.
        DivergenceError: the loss became NaN or infinite; the network holds the best epoch's
            weights if there is one.
    """
    _require_settings(epochs, batch_size, validation, early_stopping)
    examples = Examples.checked(network, rows, targets)
    training, held_out = _divide(network, examples, validation, seed)
    run = _Run(
        network,
        training,
        held_out,
        loss or default_loss(network, training),
        optimizer or AdamW(LEARNING_RATE),
        schedule or Cosine(warm_up=WARM_UP),
        _plan(len(training), epochs, batch_size, seed),
    )
    best = _Best(network)
    metric = metric_of(network, examples)
    history = History(metric=None if metric is None else metric.name)
    bar = tqdm(total=run.n_steps, unit="step", disable=None if progress else True)
    with bar, threadpool_limits(limits=threads, user_api="blas"):
        try:
            for epoch in range(1, run.plan.epochs + 1):
                record = run.epoch(epoch, bar)
                history.epochs.append(record)
                best.offer(record)
                for callback in callbacks:
                    callback(network, record)
                if early_stopping and best.epochs_since(epoch) >= early_stopping.patience:
                    history.ending = "no improvement"
                    break
        except KeyboardInterrupt:
            history.ending = "interrupted"
        finally:
            best.restore()
    history.best_epoch = best.epoch
    return history


@dataclass(frozen=True, slots=True)
class _Plan:
    epochs: int
    batch_size: int
    seed: int


class _Run:
    """What a training run holds from step to step."""

    def __init__(
        self,
        network: Network,
        training: Part,
        held_out: Part | None,
        loss: Loss,
        optimizer: Optimizer,
        schedule: Schedule,
        plan: _Plan,
    ) -> None:
        shuffling, dropping = np.random.SeedSequence(plan.seed).spawn(2)
        self._network = network
        self._training = training
        self._held_out = held_out
        self._loss = loss
        self._optimizer = optimizer
        self._schedule = schedule
        self.plan = plan
        self.n_steps = plan.epochs * math.ceil(len(training) / plan.batch_size)
        self._shuffle = np.random.default_rng(shuffling)
        self._workspace = network.workspace(np.random.default_rng(dropping))
        self._buffers = Workspace(network.dtype)
        self._masked = [p for p in network.params().values() if p.mask is not None]
        self._step = 0

    def epoch(self, epoch: int, bar: tqdm[Never]) -> EpochRecord:
        """Trains on every row once, then validates."""
        started = time.perf_counter()
        order = self._shuffle.permutation(self._training.indices)
        total, factor = 0.0, 0.0
        bar.set_description(f"epoch {epoch}", refresh=False)
        # Overflow is found by looking at the loss, and then told with the layer's name.
        with np.errstate(all="ignore"):
            for start in range(0, len(order), self.plan.batch_size):
                batch = order[start : start + self.plan.batch_size]
                factor = self._schedule(self._step, self.n_steps)
                total += self._train_on(batch, factor, epoch) * len(batch)
                bar.update()
            checked = self._validate(epoch)
        record = EpochRecord(
            epoch=epoch,
            train_loss=total / len(order),
            validation_loss=checked.loss if checked else None,
            validation_metric=checked.metric if checked else None,
            learning_rate=self._optimizer.learning_rate * factor,
            seconds=time.perf_counter() - started,
        )
        bar.set_postfix_str(_postfix(record))
        return record

    def _train_on(self, batch: Indices, rate_factor: float, epoch: int) -> float:
        network = self._network
        inputs, targets = self._training.examples.take(batch, self._buffers)
        network.grad.fill(0)
        scores, backward = network.forward(
            inputs, training=True, workspace=self._workspace, until=network.logits_node
        )
        value, d_scores = self._loss(scores, targets)
        if not math.isfinite(value):
            raise self._diverged(inputs, f"epoch {epoch}, step {self._step + 1}: the loss", value)
        backward(d_scores)
        self._optimizer.step(network.value, network.grad, rate_factor=rate_factor)
        for param in self._masked:
            param.value *= param.mask
        self._step += 1
        return value

    def _validate(self, epoch: int) -> Evaluation | None:
        # Without validation rows some training rows still show whether the last step diverged.
        part = self._held_out or Part(self._training.examples, self._training.indices[:1])
        checked = evaluate_part(self._network, part, self._loss, self._workspace, self._buffers)
        if not math.isfinite(checked.loss):
            inputs, _ = part.examples.take(part.indices, Workspace())
            raise self._diverged(inputs, f"after epoch {epoch}: the loss", checked.loss)
        return checked if self._held_out else None

    def _diverged(self, inputs: dict[str, Array], where: str, value: float) -> DivergenceError:
        named = _first_not_finite(self._network, inputs)
        return DivergenceError(
            f"{where} became {value}; {named}; try a learning rate below "
            f"{self._optimizer.learning_rate:g}"
        )


class _Best:
    """Remembers the weights of the best epoch."""

    def __init__(self, network: Network) -> None:
        self.epoch: int | None = None
        self._network = network
        self._rank: tuple[float, float] | None = None
        self._value: Array | None = None
        self._statistics: Array | None = None

    def offer(self, record: EpochRecord) -> None:
        if record.validation_loss is None:
            return
        is_accuracy = self._network.task == "classification"
        metric = record.validation_metric if is_accuracy else None
        rank = (metric if metric is not None else 0.0, -record.validation_loss)
        if self._rank is None or rank > self._rank:
            self._rank, self.epoch = rank, record.epoch
            self._value = self._network.value.copy()
            self._statistics = self._network.statistics.copy()

    def epochs_since(self, epoch: int) -> int:
        return epoch - (self.epoch or 0)

    def restore(self) -> None:
        if self._value is not None and self._statistics is not None:
            self._network.value[...] = self._value
            self._network.statistics[...] = self._statistics


def _divide(
    network: Network,
    examples: Examples,
    validation: tuple[Rows, Targets] | float | None,
    seed: int,
) -> tuple[Part, Part | None]:
    labels = examples.class_ids(network)
    if labels is not None:
        require_several_classes(labels, network.class_labels)
    everything = Part(examples, np.arange(len(examples)))
    if validation is None:
        return everything, None
    if isinstance(validation, tuple):
        other = Examples.checked(network, *validation)
        return everything, Part(other, np.arange(len(other)))
    kept, apart = validation_split(len(examples), validation, seed=seed, labels=labels)
    return Part(examples, kept), Part(examples, apart)


def _plan(n_rows: int, epochs: int | None, batch_size: int | None, seed: int) -> _Plan:
    if batch_size is None:
        batch_size = 32 if n_rows < FEW_ROWS else 128
    if epochs is None:
        steps_an_epoch = math.ceil(n_rows / batch_size)
        epochs = max(12, min(100, math.ceil(ENOUGH_STEPS / steps_an_epoch)))
    return _Plan(epochs, batch_size, seed)


def _require_settings(
    epochs: int | None,
    batch_size: int | None,
    validation: tuple[Rows, Targets] | float | None,
    early_stopping: EarlyStopping | None,
) -> None:
    for name, value in (("epochs", epochs), ("batch_size", batch_size)):
        if value is not None and value < 1:
            raise ConfigError(f"{name} is {value}, expected 1 or more")
    if early_stopping is not None and validation is None:
        raise ConfigError("early stopping needs validation rows: give `validation`")


def _first_not_finite(network: Network, inputs: dict[str, Array]) -> str:
    """Says which layer first gives NaN or infinity for these rows."""
    names = [node.name for node in network.nodes]
    values = network.activations(inputs, names)
    for node in network.nodes:
        if not np.isfinite(values[node.name]).all():
            kind = type(node.layer).__name__
            return f"layer {node.name!r} ({kind}) is the first whose output is not finite"
    return "every layer's output is finite, so it arose in the loss"


def _postfix(record: EpochRecord) -> str:
    text = f"loss {record.train_loss:.4f}"
    if record.validation_metric is not None:
        text += f", validation {record.validation_metric:.4f}"
    return text
