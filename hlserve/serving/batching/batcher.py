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
from functools import partial

from hlserve.errors import (
    DeadlineExceededError,
    QueueTimeoutError,
    ShuttingDownError,
)
from hlserve.serving.batching.admission import Admission
from hlserve.serving.batching.answers import Answers
from hlserve.serving.batching.estimates import INLINE_RUN_S, RunTimes
from hlserve.serving.batching.pending import (
    Answer,
    Array,
    Outputs,
    Pending,
    join_key,
    total_elements,
)
from hlserve.serving.batching.queue import RequestQueue
from hlserve.serving.batching.run import BatchResult, BatchRun, InFlight, Run
from hlserve.serving.batching.run_threads import RunThreads
from hlserve.serving.batching_config import BatchingConfig
from hlserve.serving.statistics import ModelStatistics, failure_reason

_LOG = logging.getLogger(__name__)

# A timer fires late, by what the loop has to do first.
_TIMER_SLACK_S = 0.005
# By its own clock a caller gives up before its deadline here: by as much as the request's way took.
_GIVES_UP_EARLY_S = 0.010


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
        # Who came since the turn was scheduled: most are answered in it, and need no timer.
        self._unwatched: list[Pending] = []
        self._busy = 0  # instances that run, or wait for threads
        self._in_flight: list[InFlight] = []

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
        pending = None
        try:
            loop = asyncio.get_running_loop()
            level = self._config.level(priority)
            names = tuple(outputs) if len(outputs) == 1 else tuple(sorted(outputs))
            rows, key = self._rows_and_key(inputs, names)
            future: asyncio.Future[Answer] = loop.create_future()
            pending = Pending(inputs, names, rows, key, level, begun_ns, deadline_s, future)
            pending.timeout_s = self._config.policy(level).timeout_s(timeout_us / 1e6)
            self._enter(pending, loop)
            answer = await future
        except BaseException as error:
            self._statistics.failed(failure_reason(error), self._clock_ns() - begun_ns)
            raise
        finally:
            self._statistics.pending -= 1
            if pending is not None:
                self._leave(pending)
        if deadline_s is not None:
            self._admission.was_in_time(pending.level)
        self._statistics.answered(pending.rows, self._clock_ns() - begun_ns, answer.phases)
        return answer

    async def infer(
        self, inputs: Mapping[str, Array], outputs: Sequence[str], deadline_s: float | None = None
    ) -> Outputs:
        """The outputs alone, asked for without a priority; raises as ``answer``."""
        return (await self.answer(inputs, outputs, deadline_s)).outputs

    def _rows_and_key(
        self, inputs: Mapping[str, Array], names: tuple[str, ...]
    ) -> tuple[int, object | None]:
        if not self._joins:
            return 1, None
        rows = next(iter(inputs.values())).shape[0]
        return rows, join_key(inputs, names) if 0 < rows < self._config.max_rows else None

    def _enter(self, pending: Pending, loop: asyncio.AbstractEventLoop) -> None:
        if pending.deadline_s is not None:
            now_s = pending.arrived_ns / 1e9
            if now_s >= pending.deadline_s:
                raise self._too_late()
            self._admission.check(pending, now_s, [run.until_s for run in self._in_flight])
        self._queue.add(pending)
        self._answers.expect(pending)
        self._schedule(pending, loop)
        if self._turn is None:
            self._watch(pending, loop)
        else:
            self._unwatched.append(pending)

    def _leave(self, pending: Pending) -> None:
        """Nothing of it stays, however it ended."""
        if pending.timers:
            pending.stop_timers()
        if pending.lane is not None:
            self._queue.remove(pending)
        self._answers.forget(pending)
        if pending.deadline_s is None or not pending.answer.cancelled():
            return
        if self._clock_ns() / 1e9 >= pending.deadline_s - _GIVES_UP_EARLY_S:
            self._count_in_vain(pending)

    # ----- waiting too long -----

    def _watch(self, pending: Pending, loop: asyncio.AbstractEventLoop) -> None:
        if pending.deadline_s is not None:
            pending.timers += (loop.call_at(pending.deadline_s, self._expire, pending),)
        if pending.timeout_s > 0:
            at_s = pending.arrived_ns / 1e9 + pending.timeout_s
            pending.timers += (loop.call_at(at_s, self._time_out, pending),)

    def _watch_the_rest(self, loop: asyncio.AbstractEventLoop) -> None:
        for pending in self._unwatched:
            if not pending.answer.done():
                self._watch(pending, loop)
        self._unwatched.clear()

    def _expire(self, pending: Pending) -> None:
        if not pending.answer.done():
            self._count_in_vain(pending)
        pending.fail(self._too_late())
        self._queue.remove(pending)

    def _count_in_vain(self, pending: Pending) -> None:
        self._admission.was_in_vain(pending.level)
        if pending.taken_ns:
            self._statistics.late += 1

    def _time_out(self, pending: Pending) -> None:
        if pending not in self._queue:
            return  # it runs: the timeout is of the queue only
        if self._config.policy(pending.level).timeout_action == "DELAY":
            self._queue.delay(pending)
            return
        self._queue.remove(pending)
        pending.fail(
            QueueTimeoutError(
                f"{self._label}: the request waited {pending.timeout_s * 1000:g} ms, its timeout "
                f"in the queue; try again later"
            )
        )

    def _too_late(self) -> DeadlineExceededError:
        return DeadlineExceededError(f"{self._label}: the deadline passed before an answer")

    # ----- when to run -----

    def _schedule(self, pending: Pending, loop: asyncio.AbstractEventLoop) -> None:
        if self._busy >= self._instances or self._turn is not None:
            return  # the end of a run, or the turn, takes it
        delay_s = self._config.max_queue_delay_s
        is_alone = delay_s <= 0 or pending.key is None
        if is_alone or self._queue.rows_like(pending) >= self._config.enough_rows:
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
            self._turn = loop.call_soon(self._take_turn, loop)

    def _take_turn(self, loop: asyncio.AbstractEventLoop) -> None:
        self._turn = None
        self._go(loop)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _go(self, loop: asyncio.AbstractEventLoop) -> None:
        """Starts as many runs as there are instances for; inline one, then the loop has a turn."""
        if self._turn is not None:
            self._turn.cancel()
            self._turn = None
        if self._timer is not None:
            self._stop_timer()
        self._start_runs(loop)
        if self._unwatched:
            self._watch_the_rest(loop)

    def _start_runs(self, loop: asyncio.AbstractEventLoop) -> None:
        waiting = len(self._queue)
        while waiting and self._busy < self._instances:
            now_ns = self._clock_ns()
            first = self._queue.first(partial(self._is_worth_running, now_ns / 1e9))
            if first is None:
                return
            if self._times.measured_s(self._batch_elements(first)) <= INLINE_RUN_S:
                self._run_inline(first, now_ns)
                if len(self._queue):
                    self._go_soon(loop)
                return
            self._busy += 1
            self._threads.request(self._threads_a_run, partial(self._start, loop))
            if len(self._queue) == waiting:  # the threads are taken: it starts when they are free
                return
            waiting = len(self._queue)

    def _is_worth_running(self, now_s: float, pending: Pending) -> bool:
        """Whether the answer is still wanted, and can come in time."""
        if not pending.is_wanted(now_s):
            pending.fail(self._too_late())
            return False
        if pending.deadline_s is None or now_s + self._least_s(pending) <= pending.deadline_s:
            return True
        if not self._in_flight:
            self._times.relax()
        self._admission.was_in_vain(pending.level)
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
        rows = self._queue.rows_like(first)
        if rows == first.rows:
            return first.elements
        rows = min(rows, max(first.rows, self._config.max_rows))
        return first.elements * rows // max(1, first.rows)

    # ----- the runs -----

    def _take(self, first: Pending, now_ns: int) -> list[Pending]:
        batch = self._queue.take(first, partial(self._is_worth_running, now_ns / 1e9))
        for pending in batch:
            pending.taken_ns = now_ns
        return batch

    def _run_inline(self, first: Pending, now_ns: int) -> None:
        batch = self._take(first, now_ns)
        result = self._runner(batch)
        self._record(result)
        self._deliver(batch, result)

    def _start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Called when threads are free; only now the batch is formed."""
        now_ns = self._clock_ns()
        first = self._queue.first(partial(self._is_worth_running, now_ns / 1e9))
        if first is None:
            self._busy -= 1
            self._threads.release(self._threads_a_run)
            return
        batch = self._take(first, now_ns)
        begun_s = now_ns / 1e9
        usual_s = self._times.expected(total_elements(batch)).mean_s + self._times.overhead_s
        run = InFlight(batch, begun_s, begun_s + usual_s)
        self._in_flight.append(run)
        self._threads.run(loop, partial(self._runner, batch), partial(self._finish, loop, run))
        if len(self._queue) and self._busy < self._instances:
            self._go_soon(loop)

    def _finish(
        self,
        loop: asyncio.AbstractEventLoop,
        run: InFlight,
        result: BatchResult | None,
    ) -> None:
        self._busy -= 1
        self._in_flight.remove(run)
        self._threads.release(self._threads_a_run)
        if result is None:
            for pending in run.batch:
                self._answers.give(pending, ShuttingDownError(f"{self._label}: the server ended"))
            self._go(loop)
            return
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
                phases = answer[1].phases(pending.taken_ns - pending.arrived_ns)
                self._answers.give(pending, Answer(answer[0], phases))
