"""A training run: its steps, its epochs, and the state between two of them."""

from __future__ import annotations

import math
import time
from collections.abc import Generator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from typing import Never, final

import numpy as np
from tqdm import tqdm

from hlserve.errors import ConfigError, DivergenceError
from hlserve.nn.batches import Batch, BatchSource, n_batches
from hlserve.nn.best_epoch import Best
from hlserve.nn.divergence import (
    ROWS_TO_NAME,
    first_layer_not_finite,
    first_param_not_finite,
)
from hlserve.nn.evaluation import Evaluation, Metric, Part, evaluate_part
from hlserve.nn.history import EpochRecord, History
from hlserve.nn.losses import LABELS, WEIGHTS, Loss
from hlserve.nn.network import Network
from hlserve.nn.optimizers import Optimizer, clip_norm
from hlserve.nn.param import Array
from hlserve.nn.schedules import Schedule
from hlserve.nn.sharding import Shards
from hlserve.nn.training_settings import Augmentation, Gradients
from hlserve.nn.training_state import (
    AdaptiveSchedule,
    Progress,
    generator_state,
    prefixed,
    set_generator_state,
    without_prefix,
)
from hlserve.nn.workspace import Workspace


@final
@dataclass(frozen=True, slots=True)
class Plan:
    """What a run does, with every default filled in.

    Attributes:
        n_shards: threads that share a batch.
        row_shape: of a row as the caller gave it, which is what ``augment`` sees.
        class_weight: one number a class, or None.
        metric: what validation measures beside the loss; None where there is nothing.
        is_ranked_by_metric: whether the best epoch is that of the best metric, and the lowest
            loss among its equals; else that of the lowest loss.
    """

    epochs: int
    batch_size: int
    seed: int
    n_shards: int
    gradients: Gradients
    augment: Augmentation | None
    row_shape: tuple[int, ...]
    class_weight: Array | None
    metric: Metric | None
    is_ranked_by_metric: bool


@final
@dataclass(frozen=True, slots=True)
class Objective:
    """What is made small, and how."""

    loss: Loss
    optimizer: Optimizer
    schedule: Schedule


@dataclass(slots=True)
class _Epoch:
    """How far the current epoch is."""

    number: int = 1
    steps: int = 0
    loss_sum: float = 0.0
    weight_sum: float = 0.0
    seconds: float = 0.0
    shuffling: str = ""  # the generator's state at the start
    rate_factor: float = field(default=0.0)


@final
class TrainingRun:
    """What a training holds from step to step.

    Attributes:
        network: what is trained.
        history: of the epochs that ended.
        best: the best of them.
        n_steps: of the whole run.
        is_between_steps: whether ``state`` tells a moment from which the run can go on.
    """

    def __init__(
        self,
        network: Network,
        source: BatchSource,
        held_out: Part | None,
        objective: Objective,
        plan: Plan,
    ) -> None:
        shuffling, dropping, augmenting = np.random.SeedSequence(plan.seed).spawn(3)
        self.plan = plan
        self.history = History(metric=plan.metric.name if plan.metric else None)
        self.best = Best(network, plan.metric if plan.is_ranked_by_metric else None)
        self.step = 0
        self.is_between_steps = True
        self.network = network
        self._source = source
        self._held_out = held_out
        self._loss = objective.loss
        self._optimizer = objective.optimizer
        self._schedule = objective.schedule
        self._shuffle = np.random.default_rng(shuffling)
        self._augmenting = np.random.default_rng(augmenting)
        self._shards = Shards(network, self._loss, _generators(dropping, plan.n_shards))
        self._buffers = Workspace(network.dtype)
        self._masked = [p for p in network.params().values() if p.mask is not None]
        self._rows_a_step = plan.batch_size * plan.gradients.accumulate
        self._steps_an_epoch = n_batches(len(source), self._rows_a_step)
        self.n_steps = plan.epochs * self._steps_an_epoch
        self._epoch = _Epoch(shuffling=generator_state(self._shuffle))

    @property
    def epoch(self) -> int:
        """The epoch that is under way, or comes next; from 1."""
        return self._epoch.number

    def close(self) -> None:
        """Ends the run's threads."""
        self._shards.close()

    def steps(self, bar: tqdm[Never]) -> Generator[None, None, None]:
        """Trains on every row of the epoch that was not yet seen in it; stops after each step."""
        epoch = self._epoch
        bar.set_description(f"epoch {epoch.number}", refresh=False)
        batches = self._source.epoch(self._shuffle, self._rows_a_step, epoch.steps)
        with closing(batches):
            while True:
                started = time.perf_counter()
                batch = next(batches, None)
                if batch is None:
                    break
                # Overflow is found by looking at the loss, and then told with the layer's name.
                with np.errstate(all="ignore"):
                    self._train_on(batch)
                bar.update()
                epoch.seconds += time.perf_counter() - started
                yield

    def end_epoch(self, bar: tqdm[Never]) -> EpochRecord:
        """Validates, writes the epoch down and tells the schedule."""
        started, epoch = time.perf_counter(), self._epoch
        checked = self._validate()
        record = EpochRecord(
            epoch=epoch.number,
            train_loss=epoch.loss_sum / (epoch.weight_sum or 1.0),
            validation_loss=checked.loss if checked else None,
            validation_metric=checked.metric if checked else None,
            learning_rate=self._optimizer.learning_rate * epoch.rate_factor,
            seconds=epoch.seconds + time.perf_counter() - started,
        )
        bar.set_postfix_str(_postfix(record))
        self.is_between_steps = False
        self.history.epochs.append(record)
        self.best.offer(record)
        if isinstance(self._schedule, AdaptiveSchedule):
            watched = record.validation_loss
            self._schedule.observe(record.train_loss if watched is None else watched)
        self._epoch = _Epoch(epoch.number + 1, shuffling=generator_state(self._shuffle))
        self.is_between_steps = True
        return record

    # ----- one step

    def _train_on(self, batch: Batch) -> None:
        self.is_between_steps = False
        network = self.network
        batch = self._weighed(self._augmented(batch))
        value, weight = self._gradient_of(batch)
        factor = self._schedule(self.step, self.n_steps)
        self._optimizer.step(network.value, network.grad, rate_factor=factor)
        for param in self._masked:
            param.value *= param.mask
        self.step += 1
        epoch = self._epoch
        epoch.steps += 1
        epoch.loss_sum += value * weight
        epoch.weight_sum += weight
        epoch.rate_factor = factor
        self.is_between_steps = True

    def _gradient_of(self, batch: Batch) -> tuple[float, float]:
        size, limit = self.plan.batch_size, self.plan.gradients.clip_norm
        parts = [batch.rows(start, start + size) for start in range(0, len(batch), size)]
        value, weight = self._shards.add_gradients(parts)
        where = f"epoch {self._epoch.number}, step {self.step + 1}"
        if not math.isfinite(value):
            raise self._diverged(batch.inputs, f"{where}: the loss became {value}")
        if limit is not None:
            norm = clip_norm(self.network.grad, limit)
            if not math.isfinite(norm):
                named = first_param_not_finite(self.network, "grad")
                raise self._diverged({}, f"{where}: the gradient of {named} is not finite")
        return value, weight

    def _augmented(self, batch: Batch) -> Batch:
        augment = self.plan.augment
        if augment is None:
            return batch
        ((name, rows),) = batch.inputs.items()
        seen = rows.reshape(len(rows), *self.plan.row_shape)
        changed = augment(seen, self._augmenting, self._buffers.scope("augment"))
        if changed.shape != seen.shape or changed.dtype != seen.dtype:
            raise ConfigError(
                f"augment made {changed.dtype} {changed.shape} of rows that were {seen.dtype} "
                f"{seen.shape}; it must keep both"
            )
        return Batch({name: changed.reshape(rows.shape)}, batch.targets)

    def _weighed(self, batch: Batch) -> Batch:
        table = self.plan.class_weight
        if table is None:
            return batch
        named = batch.targets if isinstance(batch.targets, Mapping) else {LABELS: batch.targets}
        weights = self._buffers.empty("weights", (len(batch),))
        np.take(table, named[LABELS], out=weights, mode="clip")
        if WEIGHTS in named:
            weights *= named[WEIGHTS]
        return Batch(batch.inputs, {**named, WEIGHTS: weights})

    # ----- after an epoch

    def _validate(self) -> Evaluation | None:
        if self._held_out is None:
            self._require_finite_values()
            return None
        with np.errstate(all="ignore"):  # overflow is found by looking at the loss
            checked = evaluate_part(
                self._shards.network,
                self._held_out,
                self._loss,
                self._shards.workspace,
                self._buffers,
                metric=self.plan.metric.name if self.plan.metric else None,
            )
        if not math.isfinite(checked.loss):
            part = self._held_out
            inputs, _ = part.examples.take(part.indices[:ROWS_TO_NAME], Workspace())
            where = f"after epoch {self._epoch.number}: the loss became {checked.loss}"
            raise self._diverged(inputs, where)
        return checked

    def _require_finite_values(self) -> None:
        # Without validation no later loss would show that the last step diverged.
        named = first_param_not_finite(self.network, "value")
        if named:
            raise self._diverged({}, f"after epoch {self._epoch.number}: {named} is not finite")

    def _diverged(self, inputs: dict[str, Array], what: str) -> DivergenceError:
        told = [what]
        if inputs:
            told.append(first_layer_not_finite(self.network, inputs))
            named = first_param_not_finite(self.network, "value")
            if named:
                told.append(f"{named} was made NaN or infinite by the gradient of an earlier step")
        told.append(f"try a learning rate below {self._optimizer.learning_rate:g}")
        return DivergenceError("; ".join(told))

    # ----- to be resumed

    def state(self, fingerprint: dict[str, str]) -> tuple[Progress, dict[str, Array]]:
        """All that the next step depends on; only between two steps."""
        epoch, best = self._epoch, self.best
        progress = Progress(
            fingerprint=fingerprint,
            epoch=epoch.number,
            epoch_step=epoch.steps,
            step=self.step,
            loss_sum=epoch.loss_sum,
            weight_sum=epoch.weight_sum,
            seconds=epoch.seconds,
            shuffling=epoch.shuffling,
            augmenting=generator_state(self._augmenting),
            dropping=tuple(generator_state(rng) for rng in self._shards.rngs),
            best_epoch=best.epoch,
            history=self.history,
        )
        tensors = {"value": self.network.value, "statistics": self.network.statistics}
        tensors |= prefixed("best", best.state())
        tensors |= prefixed("optimizer", self._optimizer.state())
        if isinstance(self._schedule, AdaptiveSchedule):
            tensors |= prefixed("schedule", self._schedule.state())
        return progress, tensors

    def load_state(self, progress: Progress, tensors: Mapping[str, Array]) -> None:
        """Goes on from what ``state`` gave to a run of the same fingerprint."""
        network = self.network
        network.value[...] = tensors["value"]
        network.statistics[...] = tensors["statistics"]
        self._shards.share_statistics()
        self._optimizer.load_state(without_prefix("optimizer", tensors))
        if isinstance(self._schedule, AdaptiveSchedule):
            self._schedule.load_state(without_prefix("schedule", tensors))
        self.best.load(progress.best_epoch, without_prefix("best", tensors))
        self.history = progress.history
        self.step = progress.step
        set_generator_state(self._shuffle, progress.shuffling)
        set_generator_state(self._augmenting, progress.augmenting)
        for rng, text in zip(self._shards.rngs, progress.dropping, strict=True):
            set_generator_state(rng, text)
        self._epoch = _Epoch(
            progress.epoch,
            progress.epoch_step,
            progress.loss_sum,
            progress.weight_sum,
            progress.seconds,
            progress.shuffling,
            self._schedule(max(0, self.step - 1), self.n_steps),
        )


def _generators(dropping: np.random.SeedSequence, n_shards: int) -> list[np.random.Generator]:
    # The first draws what it draws without threads.
    others = dropping.spawn(n_shards - 1)
    return [np.random.default_rng(seed) for seed in (dropping, *others)]


def _postfix(record: EpochRecord) -> str:
    text = f"loss {record.train_loss:.4f}"
    if record.validation_metric is not None:
        text += f", validation {record.validation_metric:.4f}"
    return text
