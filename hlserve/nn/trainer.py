"""Training: minibatches, validation after every epoch, the best weights kept."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Literal, Never, final

import numpy as np
from numpy.typing import ArrayLike
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # ships no stubs
from tqdm import tqdm

from hlserve.errors import ConfigError, DataError, DivergenceError, ModelFileError
from hlserve.nn.batches import MemoryBatches, n_batches
from hlserve.nn.evaluation import Rows, default_loss, metric_of
from hlserve.nn.history import Ending, History
from hlserve.nn.interruption import Interruption
from hlserve.nn.losses import LABELS, WEIGHTS, Loss, Targets, class_weights
from hlserve.nn.network import Network
from hlserve.nn.optimizers import AdamW, Optimizer
from hlserve.nn.param import Array
from hlserve.nn.schedules import Cosine, Schedule
from hlserve.nn.sharding import n_shards
from hlserve.nn.training_rows import TrainingRows, Validation
from hlserve.nn.training_run import Objective, Plan, TrainingRun
from hlserve.nn.training_settings import (
    Augmentation,
    Callback,
    Gradients,
    StateFile,
    StopTraining,
    TrainingDivergedError,
    Weighting,
)
from hlserve.nn.training_settings import EarlyStopping as EarlyStopping
from hlserve.nn.training_state import (
    read_state,
    require_same_run,
    require_writable,
    told,
    told_network,
    told_rows,
    write_state,
)

# What the defaults aim at: a small set is seen more often, in smaller batches.
LEARNING_RATE = 3e-3  # AdamW's; with the warm-up LeNet-5 reaches 90 % of Fashion-MNIST
WARM_UP = 0.05
FEW_ROWS = 10_000
ENOUGH_STEPS = 1_500


def fit(
    network: Network,
    rows: Rows,
    targets: Targets,
    *,
    loss: Loss | None = None,
    validation: Validation = 0.1,
    epochs: int | None = None,
    batch_size: int | None = None,
    optimizer: Optimizer | None = None,
    schedule: Schedule | None = None,
    early_stopping: EarlyStopping | None = None,
    gradients: Gradients | None = None,
    weighting: Weighting | None = None,
    augment: Augmentation | None = None,
    metric: str | None = None,
    state_file: StateFile | None = None,
    seed: int = 0,
    threads: int | None = 1,
    progress: bool = True,
    callbacks: Sequence[Callback] = (),
) -> History:
    """Trains the network in place; with validation it ends with its best epoch's weights.

    The best epoch has the best ``metric`` on the validation rows, then the lowest loss; where
    none is named, classes are ranked by accuracy and other tasks by the loss alone. Ctrl-C ends
    the training after the step that is under way, as an early stop does. The same arguments on
    the same machine give the same weights bit for bit.

    Rows in a memory map (``np.load(path, mmap_mode="r")``) are streamed from their file: see
    ``streaming``.

    Args:
        network: where ``Param.mask`` is set, masked weights stay zero.
        rows: (rows, ...), or one such array an input, by name.
        targets: class labels (rows,), numbers (rows,) or (rows, outputs), or what ``loss``
            takes, by name; among named ones the metric looks at "labels".
        loss: cross-entropy for classification by default; for regression the squared error
            in standard deviations of the training targets. With ``threads`` a function of
            one's own may be called by several at once; objects are copied, one a thread.
        validation: rows and targets, or the share of rows to set apart (by class), or None.
        epochs: passes over the training rows; by default 12, and more, up to 100, where these
            would make fewer than 1,500 steps.
        batch_size: rows a step; by default 128, or 32 where there are under 10,000 rows.
        optimizer: a fresh ``AdamW(3e-3)`` by default.
        schedule: ``Cosine(warm_up=0.05)`` by default.
        early_stopping: runs all epochs by default.
        gradients: clipping and accumulation; neither by default.
        weighting: weights of classes and rows; every row counts alike by default.
        augment: changes every batch's rows, as the caller shaped them, in networks of one
            input; such as ``augmentation.Augment``.
        metric: what validation measures, by name; by the task by default.
        state_file: lets an interrupted training go on; without, it cannot.
        seed: of the split, the order of rows, dropout and ``augment``; weights come initialized.
        threads: 1 by default: on small networks a second one gains little, and loses much where
            something else is busy. Convolutional and recurrent networks split each batch among
            the threads (see ``sharding``), others leave them to BLAS. None leaves BLAS be.
        progress: whether a terminal shows a bar.
        callbacks: called with the network and its record after every epoch; one that answers
            True, or raises ``StopTraining``, ends the training.

    Raises:
        DataError: rows or targets cannot be trained on.
        ConfigError: a setting makes no sense, or the state file is another run's.
        ModelFileError: the state file cannot be read or written.
        TrainingDivergedError: the loss became NaN or infinite; the network holds the best
            epoch's weights if there is one, and the error the history.
    """
    share = None if isinstance(validation, tuple) else validation
    _require_settings(network, epochs, batch_size, augment)
    if early_stopping is not None and validation is None:
        raise ConfigError("early stopping needs validation rows: give `validation`")
    weighting, gradients = weighting or Weighting(), gradients or Gradients()
    weighed = _with_sample_weight(targets, weighting.sample_weight)
    divided = TrainingRows.checked(network, rows, weighed, validation, seed)
    batch_size = batch_size or (32 if len(divided.source) < FEW_ROWS else 128)
    steps_an_epoch = n_batches(len(divided.source), batch_size * gradients.accumulate)
    plan = Plan(
        epochs=epochs or max(12, min(100, math.ceil(ENOUGH_STEPS / steps_an_epoch))),
        batch_size=batch_size,
        seed=seed,
        n_shards=n_shards(network, threads, batch_size),
        gradients=gradients,
        augment=augment,
        row_shape=np.shape(next(iter(rows.values())) if isinstance(rows, Mapping) else rows)[1:],
        class_weight=_class_table(weighting.class_weight, divided.class_counts),
        metric=metric_of(network, divided.sample.examples, metric),
        is_ranked_by_metric=metric is not None or network.task == "classification",
    )
    objective = Objective(
        loss or default_loss(network, divided.sample),
        optimizer or AdamW(LEARNING_RATE),
        schedule or Cosine(warm_up=WARM_UP),
    )
    run = TrainingRun(network, divided.source, divided.held_out, objective, plan)
    keeper = _Keeper(run, state_file)
    if state_file is not None:
        require_writable(Path(state_file.path))
        keeper.fingerprint = {
            "early stopping": told(early_stopping),
            "validation": told(share),
            **_fingerprint(network, divided, objective, plan, threads),
        }
    bar = tqdm(total=run.n_steps, unit="step", disable=None if progress else True)
    blas_threads = 1 if plan.n_shards > 1 else threads
    with closing(run), bar, threadpool_limits(limits=blas_threads, user_api="blas"):
        keeper.resume(bar)
        try:
            run.history.ending = _Loop(run, keeper, early_stopping, callbacks).train(bar)
        except DivergenceError as error:
            run.history.ending = "diverged"
            raise TrainingDivergedError(str(error), run.history) from error
        finally:
            run.best.restore()
            run.history.best_epoch = run.best.epoch
    return run.history


@final
class _Loop:
    """Epoch after epoch, until something says that it is enough."""

    def __init__(
        self,
        run: TrainingRun,
        keeper: _Keeper,
        early_stopping: EarlyStopping | None,
        callbacks: Sequence[Callback],
    ) -> None:
        self._run = run
        self._keeper = keeper
        self._early_stopping = early_stopping
        self._callbacks = callbacks

    def train(self, bar: tqdm[Never]) -> Ending:
        """Trains, and leaves the state file as the ending wants it."""
        try:
            with Interruption(with_sigterm=self._keeper.is_keeping) as interruption:
                ending = self._epochs(bar, interruption)
        except StopTraining:
            ending = "stopped"
        except KeyboardInterrupt:
            ending = "interrupted"
        except DivergenceError:
            self._keeper.end()  # from there on it would only diverge again
            raise
        if ending in ("interrupted", "terminated"):
            self._keeper.write()
        else:
            self._keeper.end()
        return ending

    def _epochs(self, bar: tqdm[Never], interruption: Interruption) -> Ending:
        run = self._run
        while run.epoch <= run.plan.epochs and not self._has_waited_enough():
            with closing(run.steps(bar)) as steps:
                for _ in steps:
                    self._keeper.after_step()
                    if interruption.received is not None:
                        return _named(interruption.received)
            record = run.end_epoch(bar)
            self._keeper.after_epoch()
            # Every callback sees every epoch, whatever the ones before it answered.
            answers = [callback(run.network, record) for callback in self._callbacks]
            if any(isinstance(answer, bool | np.bool_) and answer for answer in answers):
                return "stopped"
            if interruption.received is not None:
                return _named(interruption.received)
        return "no improvement" if self._has_waited_enough() else "all epochs"

    def _has_waited_enough(self) -> bool:
        stopping, run = self._early_stopping, self._run
        return stopping is not None and run.best.epochs_since(run.epoch - 1) >= stopping.patience


@final
class _Keeper:
    """Writes the run's state when it is asked for, and reads it.

    Attributes:
        fingerprint: tells this run from others; to be set before anything is kept.
    """

    def __init__(self, run: TrainingRun, state_file: StateFile | None) -> None:
        self.fingerprint: dict[str, str] = {}
        self._run = run
        self._state_file = state_file
        self._written = time.monotonic()

    @property
    def is_keeping(self) -> bool:
        """Whether there is a file to write to."""
        return self._state_file is not None

    def resume(self, bar: tqdm[Never]) -> None:
        """Puts the run where the file says, if that was asked for."""
        if self._state_file is None or not self._state_file.resume:
            return
        path = Path(self._state_file.path)
        progress, tensors = read_state(path)
        require_same_run(path, progress.fingerprint, self.fingerprint)
        try:
            self._run.load_state(progress, tensors)
        except (KeyError, ValueError) as error:
            raise ModelFileError(f"training state {path}: damaged: {error}") from error
        bar.update(progress.step)

    def after_step(self) -> None:
        """Writes if it is time."""
        every = self._state_file.every_s if self._state_file else None
        if isinstance(every, float | int) and time.monotonic() - self._written >= every:
            self.write()

    def after_epoch(self) -> None:
        """Writes if every epoch was asked for."""
        if self._state_file is not None and self._state_file.every_s == "epoch":
            self.write()

    def write(self) -> None:
        """Writes the state, where there is one to go on from.

        Inside a step there is none; only an exception of the caller's own code gets there, and
        then what was written last stands.
        """
        if self._state_file is not None and self._run.is_between_steps:
            write_state(Path(self._state_file.path), *self._run.state(self.fingerprint))
            self._written = time.monotonic()

    def end(self) -> None:
        """Removes the file, unless the caller wants to: the training has ended."""
        if self._state_file is not None and not self._state_file.keep:
            self._state_file.remove()


def _named(signal_number: int) -> Ending:
    return "terminated" if signal_number == signal.SIGTERM else "interrupted"


def _fingerprint(
    network: Network,
    divided: TrainingRows,
    objective: Objective,
    plan: Plan,
    threads: int | None,
) -> dict[str, str]:
    held_out = divided.held_out
    sample = None if held_out is None else MemoryBatches(held_out, network.dtype).sample()
    # The first difference is told: settings stand before what follows from them.
    return {
        **{name: told(getattr(plan, name)) for name in _PLANNED},
        "loss": told(objective.loss),
        "optimizer": told(objective.optimizer),
        "schedule": told(objective.schedule),
        "threads": told(threads),
        "network": told_network(network),
        "training rows": told_rows(len(divided.source), divided.source.sample()),
        "validation rows": "none" if sample is None else told_rows(len(held_out or ()), sample),
    }


# What of the plan makes a run another one.
_PLANNED = (
    *("epochs", "batch_size", "seed", "gradients", "augment", "class_weight", "metric"),
    "is_ranked_by_metric",
)


def _require_settings(
    network: Network,
    epochs: int | None,
    batch_size: int | None,
    augment: Augmentation | None,
) -> None:
    for name, value in (("epochs", epochs), ("batch_size", batch_size)):
        if value is not None and value < 1:
            raise ConfigError(f"{name} is {value}, expected 1 or more")
    if augment is not None and len(network.inputs) != 1:
        raise ConfigError(
            f"augment changes the rows of one input, the network takes {len(network.inputs)}"
        )


def _with_sample_weight(targets: Targets, sample_weight: Array | None) -> Targets:
    if sample_weight is None:
        return targets
    named = dict(targets) if isinstance(targets, Mapping) else {LABELS: targets}
    if WEIGHTS in named:
        raise DataError("weights of the rows came twice: in the targets and as sample_weight")
    return {**named, WEIGHTS: sample_weight}


def _class_table(
    class_weight: Literal["balanced"] | ArrayLike | None, counts: Array | None
) -> Array | None:
    """The weight of every class, (classes,), or None where all count alike."""
    if class_weight is None:
        return None
    if counts is None:
        raise ConfigError("class_weight needs class labels, one a row, in a classification")
    if isinstance(class_weight, str):
        if class_weight != "balanced":
            raise ConfigError(f'class_weight is {class_weight!r}, expected "balanced" or numbers')
        return class_weights(np.repeat(np.arange(len(counts)), counts), len(counts))
    table = np.array(class_weight, np.float64)
    if table.shape != counts.shape or not (np.isfinite(table).all() and (table >= 0).all()):
        raise ConfigError(f"class_weight is {table}, expected {len(counts)} numbers of 0 or more")
    return table
