"""The dynamic batcher: many requests, one run, each answer as if it had run alone.

It counts rows, not requests. One run of a model is in flight at a time; what arrives meanwhile
is the next batch, so that load itself makes batches and a lone request waits for nothing. A
request whose deadline passed, or whose caller went away, never runs.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hlserve.errors import (
    DeadlineExceededError,
    InferenceError,
    QueueFullError,
    ShuttingDownError,
)
from hlserve.serving.config import BatchingConfig

Array = NDArray[Any]
Outputs = Mapping[str, Array]
Run = Callable[[Mapping[str, Array], Sequence[str]], Outputs]

_LOG = logging.getLogger(__name__)

# A run shorter than this goes inline: a worker thread costs about 60 us to wake and to answer,
# and the event loop can bear so short a pause.
INLINE_RUN_S = 0.0002
_SMOOTHING = 0.25  # weight of the newest measurement of a run


@dataclass(eq=False, slots=True)
class _Pending:
    """One waiting request; ``key`` says which others it may run with, None: none."""

    inputs: Mapping[str, Array]
    outputs: tuple[str, ...]
    rows: int
    key: object | None
    deadline_s: float | None
    answer: asyncio.Future[Outputs]

    def is_wanted(self, now_s: float) -> bool:
        """Whether somebody still waits for the answer."""
        in_time = self.deadline_s is None or now_s < self.deadline_s
        return in_time and not self.answer.done()


class DynamicBatcher:
    """Joins requests to one model.

    Args:
        run: inputs, names of outputs -> outputs; called from one thread at a time.
        config: how much is joined, and how long the first waits.
        executor: where long runs go.
        label: how messages name the model.
        joins: whether rows may be joined at all; False: every request runs alone.
    """

    def __init__(
        self, run: Run, config: BatchingConfig, executor: Executor, *, label: str, joins: bool
    ) -> None:
        self._run = run
        self._config = config
        self._executor = executor
        self._label = label
        self._joins = joins
        self._queue: dict[_Pending, None] = {}  # ordered, and a cancelled one leaves in O(1)
        self._queued_rows = 0
        self._flush_handle: asyncio.Handle | None = None
        self._running: asyncio.Task[None] | None = None
        self._run_times = _RunTimes()

    async def infer(
        self, inputs: Mapping[str, Array], outputs: Sequence[str], deadline_s: float | None = None
    ) -> Outputs:
        """The outputs asked for, by name.

        Args:
            inputs: checked against the model; rows first where the model joins.
            outputs: names; none twice.
            deadline_s: on the event loop's clock.

        Raises:
            QueueFullError: too many rows wait.
            DeadlineExceededError: the deadline passed.
            InferenceError: the run of this very request failed.
        """
        loop = asyncio.get_running_loop()
        pending = self._pending(inputs, tuple(sorted(outputs)), deadline_s, loop.create_future())
        if not pending.is_wanted(loop.time()):
            raise self._too_late()
        self._enqueue(pending, loop)
        try:
            async with asyncio.timeout_at(deadline_s):
                return await pending.answer
        except TimeoutError as error:
            raise self._too_late() from error
        finally:
            self._forget(pending)

    def _pending(
        self,
        inputs: Mapping[str, Array],
        outputs: tuple[str, ...],
        deadline_s: float | None,
        answer: asyncio.Future[Outputs],
    ) -> _Pending:
        rows, key = 1, None
        if self._joins:
            rows = next(iter(inputs.values())).shape[0]
            if 0 < rows < self._config.max_rows:
                shapes = {name: (a.shape[1:], a.dtype.str) for name, a in inputs.items()}
                key = (outputs, tuple(sorted(shapes.items())))
        return _Pending(inputs, outputs, rows, key, deadline_s, answer)

    def _enqueue(self, pending: _Pending, loop: asyncio.AbstractEventLoop) -> None:
        limit = self._config.max_queue_rows
        if self._queue and self._queued_rows + pending.rows > limit:
            raise QueueFullError(
                f"{self._label}: {self._queued_rows} rows wait, {pending.rows} more would exceed "
                f"the queue's {limit}; try again later"
            )
        self._queue[pending] = None
        self._queued_rows += pending.rows
        self._schedule_flush(loop)

    def _forget(self, pending: _Pending) -> None:
        if pending in self._queue:
            del self._queue[pending]
            self._queued_rows -= pending.rows

    def _too_late(self) -> DeadlineExceededError:
        return DeadlineExceededError(f"{self._label}: the deadline passed before an answer")

    def _schedule_flush(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._running is not None:
            return  # its end flushes
        delay_s = self._config.max_queue_delay_s
        if delay_s > 0 and self._joins and self._queued_rows < self._config.max_rows:
            if self._flush_handle is None:
                self._flush_handle = loop.call_later(delay_s, self._flush, loop)
            return
        if isinstance(self._flush_handle, asyncio.TimerHandle):
            self._flush_handle.cancel()
            self._flush_handle = None
        if self._flush_handle is None:
            self._flush_handle = loop.call_soon(self._flush, loop)

    def _flush(self, loop: asyncio.AbstractEventLoop) -> None:
        self._flush_handle = None
        batch = self._take_batch(loop.time())
        if not batch:
            return
        if self._run_times.estimate_s(batch) <= INLINE_RUN_S:
            _deliver(batch, self._answers(batch))
            self._flush_rest(loop)
        else:
            self._running = loop.create_task(self._run_in_worker(batch, loop))

    async def _run_in_worker(self, batch: list[_Pending], loop: asyncio.AbstractEventLoop) -> None:
        try:
            answers = await loop.run_in_executor(self._executor, self._answers, batch)
        except RuntimeError:  # the executor was shut down: the drain took too long
            answers = [ShuttingDownError(f"{self._label}: the server ended")] * len(batch)
        self._running = None
        _deliver(batch, answers)
        self._flush_rest(loop)

    def _flush_rest(self, loop: asyncio.AbstractEventLoop) -> None:
        """What waited during a run goes next; it has waited long enough for company."""
        if self._queue and self._flush_handle is None:
            self._flush_handle = loop.call_soon(self._flush, loop)

    def _take_batch(self, now_s: float) -> list[_Pending]:
        """The oldest wanted request, and those behind it that may run with it, up to the limit."""
        batch: list[_Pending] = []
        rows = 0
        for pending in self._queue:
            if not pending.is_wanted(now_s):
                continue  # its own caller answers and forgets it
            if batch and (pending.key is None or pending.key != batch[0].key):
                continue
            if batch and rows + pending.rows > self._config.max_rows:
                break
            batch.append(pending)
            rows += pending.rows
            if pending.key is None:
                break
        for pending in batch:
            self._forget(pending)
        return batch

    def _answers(self, batch: list[_Pending]) -> list[Outputs | Exception]:
        """An answer or an error for each; if the joined run fails, each runs alone.

        Never raises: an error that reached nobody would leave its callers waiting.
        """
        if len(batch) > 1:
            try:
                return list(self._run_joined(batch))
            except Exception:
                # One bad row must not fail its neighbours; alone, the culprit raises it again.
                _LOG.debug("%s: a joined run failed, going one by one", self._label, exc_info=True)
        return [self._run_alone(pending) for pending in batch]

    def _run_joined(self, batch: list[_Pending]) -> list[Outputs]:
        names = batch[0].inputs
        joined = {name: np.concatenate([p.inputs[name] for p in batch]) for name in names}
        started_s = time.perf_counter()
        outputs = self._run(joined, batch[0].outputs)
        self._run_times.record(batch, time.perf_counter() - started_s)
        ends = np.cumsum([pending.rows for pending in batch]).tolist()
        for name, array in outputs.items():
            if array.ndim == 0 or array.shape[0] != ends[-1]:
                raise InferenceError(
                    f"{self._label}: output {name!r} has shape {array.shape} for {ends[-1]} rows"
                )
        starts = [0, *ends[:-1]]
        return [
            {name: array[start:end] for name, array in outputs.items()}
            for start, end in zip(starts, ends, strict=True)
        ]

    def _run_alone(self, pending: _Pending) -> Outputs | Exception:
        if not pending.is_wanted(time.monotonic()):  # the event loop's clock
            return self._too_late()
        started_s = time.perf_counter()
        try:
            outputs = self._run(pending.inputs, pending.outputs)
        except Exception as error:  # handed to the caller, who raises it
            return error
        self._run_times.record([pending], time.perf_counter() - started_s)
        return outputs


def _deliver(batch: Sequence[_Pending], answers: Sequence[Outputs | Exception]) -> None:
    for pending, answer in zip(batch, answers, strict=True):
        if pending.answer.done():
            continue  # cancelled or too late while it ran
        if isinstance(answer, Exception):
            pending.answer.set_exception(answer)
        else:
            pending.answer.set_result(answer)


class _RunTimes:
    """How long runs take, by the size of their inputs (a power of two of elements)."""

    def __init__(self) -> None:
        self._seconds: dict[int, float] = {}

    def estimate_s(self, batch: Sequence[_Pending]) -> float:
        """The expected time; infinite for a size not seen yet, so that it goes to a worker."""
        return self._seconds.get(_size_class(batch), float("inf"))

    def record(self, batch: Sequence[_Pending], seconds: float) -> None:
        """Moves the estimate toward a measurement."""
        size_class = _size_class(batch)
        old = self._seconds.get(size_class, seconds)
        self._seconds[size_class] = old + _SMOOTHING * (seconds - old)


def _size_class(batch: Sequence[_Pending]) -> int:
    return sum(array.size for pending in batch for array in pending.inputs.values()).bit_length()
