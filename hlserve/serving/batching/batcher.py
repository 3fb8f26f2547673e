"""The dynamic batcher of one model: takes requests, forms batches, hands out answers.

It counts rows, not requests. What arrives during a run is the next batch, so that load itself
makes batches and a lone request waits for nothing. A request whose deadline passed, or whose
caller went away, never runs. Everything here happens on the event loop; only the runs do not.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from hlserve.errors import (
    DeadlineExceededError,
    InvalidRequestError,
    QueueTimeoutError,
    ShuttingDownError,
)
from hlserve.serving.batching.admission import Admission
from hlserve.serving.batching.answers import Answers
from hlserve.serving.batching.estimates import INLINE_RUN_S, RunTimes
from hlserve.serving.batching.pending import Answer, Array, Outputs, Pending, total_elements
from hlserve.serving.batching.queue import RequestQueue
from hlserve.serving.batching.run import BatchResult, BatchRun, Execution, Run
from hlserve.serving.batching.run_threads import RunThreads
from hlserve.serving.batching_config import BatchingConfig
from hlserve.serving.statistics import ModelStatistics, Phases, failure_reason

_LOG = logging.getLogger(__name__)

# A timer fires late, by what the loop has to do first.
_TIMER_SLACK_S = 0.005


@dataclass(eq=False, slots=True)
class _InFlight:
    """A run in a worker."""

    batch: list[Pending]
    begun_s: float
    until_s: float  # as expected


class DynamicBatcher:
    """Joins requests to one model.

    Args:
        run: inputs, names of outputs -> outputs; called from ``instances`` threads at a time.
        config: how requests queue and how much is joined.
        threads: the server's, where long runs go.
        label: how messages name the model.
        joins: whether rows may be joined at all; False: every request runs alone.
        statistics: where what happens is counted.
        instances: how many runs may go on at once.
        threads_a_run: what a run takes of the budget.
        clock_ns: a monotonic clock; the event loop's time must be the same.
    """

    def __init__(
        self,
        run: Run,
        config: BatchingConfig,
        threads: RunThreads,
        *,
        label: str,
        joins: bool,
        statistics: ModelStatistics | None = None,
        instances: int = 1,
        threads_a_run: int = 1,
        clock_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._config = config
        self._threads = threads
        self._label = label
        self._joins = joins
        self._statistics = statistics or ModelStatistics()
        self._instances = instances
        self._threads_a_run = threads_a_run
        self._clock_ns = clock_ns
        self._runner = BatchRun(run, clock_ns, label)
        self._queue = RequestQueue(config, label)
        self._times = RunTimes()
        self._admission = Admission(
            config, self._queue, self._times, instances=instances, label=label
        )
        self._answers = Answers(in_order=config.preserve_ordering)
        self._turn: asyncio.Handle | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._busy = 0  # instances that run, or wait for threads
        self._in_flight: list[_InFlight] = []

    async def answer(
        self,
        inputs: Mapping[str, Array],
        outputs: Sequence[str],
        deadline_s: float | None = None,
        *,
        priority: int = 0,
        timeout_us: int = 0,
    ) -> Answer:
        """The outputs asked for, by name, and where the time went.

        Args:
            inputs: checked against the model; rows first where the model joins.
            outputs: names; none twice.
            deadline_s: on the event loop's clock.
            priority: 1 is the highest level; 0: the model's default.
            timeout_us: the longest wait in the queue that the caller wants; 0: it says nothing.

        Raises:
            InvalidRequestError: there is no such priority.
            QueueFullError: too much waits.
            QueueTimeoutError: it waited longer than the policy of its level allows.
            DeadlineExceededError: the deadline passed, or cannot be met.
            ShuttingDownError: the server ended before it ran.
            InferenceError: the run of this very request failed.
        """
        begun_ns = self._clock_ns()
        self._statistics.pending += 1
        try:
            level = self._level(priority)
            loop = asyncio.get_running_loop()
            pending = self._pending(inputs, outputs, deadline_s, level, loop.create_future())
            answer = await self._wait(pending, timeout_us, loop)
        except BaseException as error:
            self._statistics.failed(failure_reason(error), self._clock_ns() - begun_ns)
            raise
        finally:
            self._statistics.pending -= 1
        self._statistics.answered(pending.rows, self._clock_ns() - begun_ns, answer.phases)
        return answer

    async def infer(
        self, inputs: Mapping[str, Array], outputs: Sequence[str], deadline_s: float | None = None
    ) -> Outputs:
        """The outputs alone, asked for without a priority; raises as ``answer``."""
        return (await self.answer(inputs, outputs, deadline_s)).outputs

    def _level(self, priority: int) -> int:
        levels = self._config.priority_levels
        if priority < 0 or (levels and priority > levels):
            raise InvalidRequestError(
                f"priority is {priority}, expected 0 (the default) to {levels}"
            )
        return (levels and priority) or self._config.default_priority_level or 1

    def _pending(
        self,
        inputs: Mapping[str, Array],
        outputs: Sequence[str],
        deadline_s: float | None,
        level: int,
        answer: asyncio.Future[Answer],
    ) -> Pending:
        names = tuple(sorted(outputs))
        rows, key = 1, None
        if self._joins:
            rows = next(iter(inputs.values())).shape[0]
            if 0 < rows < self._config.max_rows:
                shapes = {name: (a.shape[1:], a.dtype.str) for name, a in inputs.items()}
                key = (names, tuple(sorted(shapes.items())))
        now_ns = self._clock_ns()
        return Pending(inputs, names, rows, key, level, now_ns, deadline_s, answer)

    async def _wait(
        self, pending: Pending, timeout_us: int, loop: asyncio.AbstractEventLoop
    ) -> Answer:
        now_s = pending.arrived_ns / 1e9
        if not pending.is_wanted(now_s):
            raise self._too_late()
        self._admission.check(pending, now_s, [run.until_s for run in self._in_flight])
        self._queue.add(pending)
        self._answers.expect(pending)
        try:
            self._watch(pending, timeout_us, loop)
            self._schedule(pending, loop)
            return await pending.answer
        finally:
            pending.stop_timers()
            self._queue.remove(pending)
            self._answers.forget(pending)

    # ----- waiting too long -----

    def _watch(self, pending: Pending, timeout_us: int, loop: asyncio.AbstractEventLoop) -> None:
        if pending.deadline_s is not None:
            pending.timers.append(loop.call_at(pending.deadline_s, self._expire, pending))
        policy = self._config.policy(pending.level)
        timeout_s = policy.timeout_s(timeout_us / 1e6) if timeout_us else policy.default_timeout_s
        if timeout_s > 0:
            at_s = pending.arrived_ns / 1e9 + timeout_s
            pending.timers.append(loop.call_at(at_s, self._time_out, pending, timeout_s))

    def _expire(self, pending: Pending) -> None:
        if pending.taken_ns and not pending.answer.done():
            self._statistics.late += 1
        pending.fail(self._too_late())
        self._queue.remove(pending)

    def _time_out(self, pending: Pending, timeout_s: float) -> None:
        if pending not in self._queue:
            return  # it runs: the timeout is of the queue only
        if self._config.policy(pending.level).timeout_action == "DELAY":
            self._queue.delay(pending)
            return
        self._queue.remove(pending)
        pending.fail(
            QueueTimeoutError(
                f"{self._label}: the request waited {timeout_s * 1000:g} ms, its timeout in the "
                f"queue; try again later"
            )
        )

    def _too_late(self) -> DeadlineExceededError:
        return DeadlineExceededError(f"{self._label}: the deadline passed before an answer")

    # ----- when to run -----

    def _schedule(self, pending: Pending, loop: asyncio.AbstractEventLoop) -> None:
        if self._busy >= self._instances or self._turn is not None:
            return  # the end of a run, or the turn, takes it
        delay_s = self._config.max_queue_delay_s
        if (
            delay_s <= 0
            or pending.key is None
            or self._queue.rows_like(pending) >= self._config.enough_rows
        ):
            self._go_soon(loop)
            return
        at_s = pending.arrived_ns / 1e9 + delay_s
        if pending.deadline_s is not None:  # company must not cost it the answer
            at_s = min(at_s, pending.deadline_s - self._least_s(pending) - _TIMER_SLACK_S)
        if self._timer is None or at_s < self._timer.when():
            self._stop_timer()
            self._timer = loop.call_at(at_s, self._go, loop)

    def _go_soon(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._turn is None:
            self._turn = loop.call_soon(self._go, loop)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _go(self, loop: asyncio.AbstractEventLoop) -> None:
        """Starts as many runs as there are instances for; inline one, then the loop has a turn."""
        if self._turn is not None:
            self._turn.cancel()
            self._turn = None
        self._stop_timer()
        waiting = len(self._queue)
        while waiting and self._busy < self._instances:
            first = self._first()
            if first is None:
                return
            if self._is_short(first):
                self._run_inline(first)
                if len(self._queue):
                    self._go_soon(loop)
                return
            self._busy += 1
            self._threads.request(self._threads_a_run, partial(self._start, loop))
            if len(self._queue) == waiting:  # the threads are taken: it starts when they are free
                return
            waiting = len(self._queue)

    def _first(self) -> Pending | None:
        return self._queue.first(partial(self._is_worth_running, self._clock_ns() / 1e9))

    def _is_worth_running(self, now_s: float, pending: Pending) -> bool:
        """Whether the answer is still wanted, and can come in time."""
        if not pending.is_wanted(now_s):
            pending.fail(self._too_late())
            return False
        if pending.deadline_s is None or now_s + self._least_s(pending) <= pending.deadline_s:
            return True
        if not self._in_flight:
            self._times.relax()
        pending.fail(
            DeadlineExceededError(
                f"{self._label}: the request can no longer be answered in time: its run takes "
                f"about {self._least_s(pending) * 1000:.1f} ms, "
                f"{(pending.deadline_s - now_s) * 1000:.1f} ms are left"
            )
        )
        return False

    def _least_s(self, pending: Pending) -> float:
        return self._admission.least_s(self._batch_elements(pending))

    def _batch_elements(self, first: Pending) -> int:
        """Of the batch that would be taken now."""
        rows = min(self._queue.rows_like(first), max(first.rows, self._config.max_rows))
        return first.elements * rows // max(1, first.rows)

    def _is_short(self, first: Pending) -> bool:
        return self._times.measured_s(self._batch_elements(first)) <= INLINE_RUN_S

    # ----- the runs -----

    def _take(self, first: Pending) -> list[Pending]:
        now_ns = self._clock_ns()
        batch = self._queue.take(first, partial(self._is_worth_running, now_ns / 1e9))
        for pending in batch:
            pending.taken_ns = now_ns
        return batch

    def _run_inline(self, first: Pending) -> None:
        batch = self._take(first)
        result = self._runner(batch)
        self._record(result)
        self._deliver(batch, result)

    def _start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Called when threads are free; only now the batch is formed."""
        first = self._first()
        if first is None:
            self._busy -= 1
            self._threads.release(self._threads_a_run)
            return
        batch = self._take(first)
        begun_s = self._clock_ns() / 1e9
        usual_s = self._times.expected(total_elements(batch)).mean_s + self._times.overhead_s
        run = _InFlight(batch, begun_s, begun_s + usual_s)
        self._in_flight.append(run)
        try:
            future = loop.run_in_executor(self._threads.executor, self._runner, batch)
        except RuntimeError:  # the executor was shut down: the drain took too long
            loop.call_soon(self._finish, loop, run, None)
        else:
            future.add_done_callback(partial(self._finish, loop, run))
        if len(self._queue) and self._busy < self._instances:
            self._go_soon(loop)

    def _finish(
        self,
        loop: asyncio.AbstractEventLoop,
        run: _InFlight,
        future: asyncio.Future[BatchResult] | None,
    ) -> None:
        self._busy -= 1
        self._in_flight.remove(run)
        self._threads.release(self._threads_a_run)
        if future is None or future.cancelled() or future.exception() is not None:
            for pending in run.batch:
                self._answers.give(pending, ShuttingDownError(f"{self._label}: the server ended"))
            self._go(loop)
            return
        result = future.result()
        ran_s = (result.ended_ns - result.started_ns) / 1e9
        self._times.record_overhead(self._clock_ns() / 1e9 - run.begun_s - ran_s)
        self._record(result)
        # What waited during the run has waited long enough for company, and a thread is idle: the
        # next run begins before the answers of this one go out.
        self._go(loop)
        self._deliver(run.batch, result)

    def _record(self, result: BatchResult) -> None:
        for run in result.executions:
            self._times.record(run.elements, (run.input_ns + run.infer_ns + run.output_ns) / 1e9)
            self._statistics.executed(run.rows, run.input_ns, run.infer_ns, run.output_ns)
        if result.changed_rows and self._joins:
            self._joins = False
            _LOG.warning(
                "%s: answers for joined rows have another number of rows; from now on each "
                "request runs alone",
                self._label,
            )

    def _deliver(self, batch: Sequence[Pending], result: BatchResult) -> None:
        for pending, answer in zip(batch, result.answers, strict=True):
            if answer is None:
                self._answers.give(pending, self._too_late())
            elif isinstance(answer, Exception):
                self._answers.give(pending, answer)
            else:
                self._answers.give(pending, Answer(answer[0], _phases(pending, answer[1])))


def _phases(pending: Pending, execution: Execution) -> Phases:
    return Phases(
        queue_ns=pending.taken_ns - pending.arrived_ns,
        compute_input_ns=execution.input_ns,
        compute_infer_ns=execution.infer_ns,
        compute_output_ns=execution.output_ns,
    )
