"""When batches run and where: at the end of the loop's turn, inline, or in a worker thread.

A worker's next batch lies ready behind the one that runs, where nothing could join it any more:
under overload the loop has its hands full with refusals, and the thread must not wait for it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from functools import partial

from hlserve.errors import ShuttingDownError
from hlserve.serving.batching.admission import Admission
from hlserve.serving.batching.estimates import RunTimes
from hlserve.serving.batching.flights import InFlight
from hlserve.serving.batching.pending import Pending, total_elements
from hlserve.serving.batching.queue import RequestQueue
from hlserve.serving.batching.run import BatchResult, BatchRun
from hlserve.serving.batching.run_threads import RunThreads
from hlserve.serving.batching.waits import Fail, Waits
from hlserve.serving.batching_config import BatchingConfig

# A timer fires late, by what the loop has to do first.
_TIMER_SLACK_S = 0.005

Done = Callable[[Sequence[Pending], BatchResult], None]


class Runs:
    """Takes batches from a queue and runs them.

    Args:
        runner: runs a batch.
        config: how much is joined, and how long it may wait for company.
        threads: the server's, where long runs go.
        queue: what waits.
        times: what runs took, by what is recorded here.
        admission: hears who was let in vain.
        waits: sets the timers at the end of a turn.
        fail: ends a request with an error.
        record: called with what a run was, before the next one begins.
        deliver: called with a batch and what became of it, after that.
        label: how messages name the model.
        instances: how many runs may go on at once.
        threads_a_run: what a run takes of the budget.
        clock_ns: a monotonic clock.

    Attributes:
        in_flight: the runs in worker threads.
    """

    def __init__(
        self,
        runner: BatchRun,
        config: BatchingConfig,
        threads: RunThreads,
        queue: RequestQueue,
        times: RunTimes,
        admission: Admission,
        waits: Waits,
        *,
        fail: Fail,
        record: Callable[[BatchResult], None],
        deliver: Done,
        label: str,
        instances: int,
        threads_a_run: int,
        clock_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._runner = runner
        self._config = config
        self._threads = threads
        self._queue = queue
        self._times = times
        self._admission = admission
        self._waits = waits
        self._fail = fail
        self._record = record
        self._deliver = deliver
        self._label = label
        self._instances = instances
        self._threads_a_run = threads_a_run
        self._clock_ns = clock_ns
        self._delay_s = config.max_queue_delay_s
        self._has_turn = False  # whether the end of the loop's turn will look at the queue
        self._timer: asyncio.TimerHandle | None = None
        self._busy = 0  # instances that run, or wait for threads
        self.in_flight: list[InFlight] = []

    def take_in(self, pending: Pending, loop: asyncio.AbstractEventLoop) -> None:
        """One more stands in the queue: it runs at once, soon, or when a run ends."""
        if not self._has_turn:
            if self._busy < self._instances:
                self._schedule(pending, loop)
            else:
                self._lay_behind()
            if not self._has_turn:
                if not pending.is_done:  # it may be found too late for any run already
                    self._waits.watch(pending, loop)
                return
        if pending.deadline_s is not None or pending.timeout_s:
            self._waits.watch_soon(pending)

    def _schedule(self, pending: Pending, loop: asyncio.AbstractEventLoop) -> None:
        delay_s = self._delay_s
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
        if not self._has_turn:
            self._has_turn = True
            self._threads.turn.run_later(loop, partial(self._take_turn, loop))

    def _take_turn(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._has_turn:
            self._go(loop)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _go(self, loop: asyncio.AbstractEventLoop) -> None:
        """Starts as many runs as there are instances for; inline one, then the loop has a turn."""
        self._has_turn = False
        if self._timer is not None:
            self._stop_timer()
        self._start_runs(loop)
        self._waits.watch_rest(loop)

    def _start_runs(self, loop: asyncio.AbstractEventLoop) -> None:
        waiting = len(self._queue)
        while waiting and self._busy < self._instances:
            now_ns = self._clock_ns()
            first = self._first(now_ns)
            if first is None:
                return
            if self._times.is_short(self._batch_elements(first)):
                self._run_inline(first, now_ns)
                if len(self._queue):
                    self._go_soon(loop)
                return
            self._busy += 1
            self._threads.request(self._threads_a_run, partial(self._start, loop))
            if len(self._queue) == waiting:  # the threads are taken: it starts when they are free
                return
            waiting = len(self._queue)

    def _first(self, now_ns: int) -> Pending | None:
        return self._queue.first(partial(self._is_worth_running, now_ns / 1e9))

    def _is_worth_running(self, now_s: float, pending: Pending) -> bool:
        """Whether the answer is still wanted, and can come in time."""
        if not pending.is_wanted(now_s):
            self._fail(pending, self._waits.too_late())
            return False
        if pending.deadline_s is None or now_s + self._least_s(pending) <= pending.deadline_s:
            return True
        if not self.in_flight:
            self._times.relax()
        self._admission.was_in_vain(pending.level)
        left_s = pending.deadline_s - now_s
        self._fail(pending, self._waits.no_longer_in_time(self._least_s(pending), left_s))
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

    def _take(self, first: Pending, now_ns: int) -> list[Pending]:
        now_s = now_ns / 1e9
        sure_s = now_s + self._least_s(first)  # as for the largest batch that may come of it
        return self._queue.take(first, partial(self._is_worth_running, now_s), sure_s)

    def _run_inline(self, first: Pending, now_ns: int) -> None:
        batch = self._take(first, now_ns)
        result = self._runner(batch)
        self._note(result, is_inline=True)
        self._deliver(batch, result)

    # ----- in a thread

    def _start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Called when threads are free; only now the batch is formed."""
        now_ns = self._clock_ns()
        first = self._first(now_ns)
        if first is None:
            self._busy -= 1
            self._threads.release(self._threads_a_run)
            return
        run = self._flight(loop, self._take(first, now_ns), now_ns / 1e9)
        self.in_flight.append(run)
        self._threads.run(loop, run)
        self._lay_behind()
        if len(self._queue) and self._busy < self._instances:
            self._go_soon(loop)

    def _flight(
        self, loop: asyncio.AbstractEventLoop, batch: list[Pending], begins_s: float
    ) -> InFlight:
        usual_s = self._times.expected(total_elements(batch)).mean_s + self._times.overhead_s
        done = partial(self._finish, loop)
        return InFlight(batch, self._runner, done, begun_s=begins_s, usual_s=usual_s)

    def _lay_behind(self) -> None:
        """Lays the next batch behind a run, if it is final: nothing may join or overtake it."""
        free = [run for run in self.in_flight if run.following is None]
        if not free or self._busy < self._instances or self._threads.has_waiting:
            return
        if self._config.priority_levels > 1:
            return  # a later one may be served first
        now_ns = self._clock_ns()
        first = self._first(now_ns) if len(self._queue) else None
        if first is None or first.timeout_s:
            return  # with a timeout of the queue it may still leave
        if first.key is not None and self._queue.rows_like(first) < self._config.max_rows:
            return
        if self._times.is_short(self._batch_elements(first)):
            return  # it goes inline
        batch = self._take(first, now_ns)
        least_s = self._admission.least_s(total_elements(batch))
        for pending in batch:
            if pending.deadline_s is not None:
                pending.begin_by_s = pending.deadline_s - least_s
        loop = asyncio.get_running_loop()
        run = min(free, key=lambda run: run.until_s)
        run.following = self._flight(loop, batch, max(run.until_s, now_ns / 1e9))
        run.lay(run.following)

    def _finish(
        self, loop: asyncio.AbstractEventLoop, run: InFlight, result: BatchResult | None
    ) -> None:
        self.in_flight.remove(run)
        if result is None:
            self._give_up(loop, run)
            return
        ran_s = (result.ended_ns - result.started_ns) / 1e9
        self._times.record_overhead(self._clock_ns() / 1e9 - run.begun_s - ran_s)
        self._note(result)
        if run.following is not None:
            self._go_on(loop, run, result.ended_ns / 1e9)
        else:
            self._free_thread()
        # What waited during the run has waited long enough for company, and a thread is idle: the
        # next run begins before the answers of this one go out.
        self._go(loop)
        self._deliver(run.batch, result)

    def _go_on(self, loop: asyncio.AbstractEventLoop, run: InFlight, ended_s: float) -> None:
        """The thread has gone on with what lay behind, or ended just before it was laid."""
        # Whoever began the first of them knows it as long as the thread goes on: no chain is left.
        following, run.following = run.following, None
        assert following is not None
        following.begin_at(ended_s)
        self.in_flight.append(following)
        if run.take() is not None:
            self._threads.run(loop, following)
        self._lay_behind()

    def _give_up(self, loop: asyncio.AbstractEventLoop, run: InFlight) -> None:
        lost = list(run.batch)
        if run.following is not None:
            run.take()
            lost += run.following.batch
        self._free_thread()
        for pending in lost:
            self._fail(pending, ShuttingDownError(f"{self._label}: the server ended"))
        self._go(loop)

    def _free_thread(self) -> None:
        self._busy -= 1
        self._threads.release(self._threads_a_run)

    def _note(self, result: BatchResult, *, is_inline: bool = False) -> None:
        for run in result.executions:
            took_s = (run.input_ns + run.infer_ns + run.output_ns) / 1e9
            self._times.record(run.elements, took_s, is_inline=is_inline)
        self._record(result)
