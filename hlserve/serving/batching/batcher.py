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

from hlserve.errors import CancelledError, HlserveError
from hlserve.serving.batching.admission import Admission
from hlserve.serving.batching.answers import Answers
from hlserve.serving.batching.estimates import RunTimes
from hlserve.serving.batching.pending import (
    Answer,
    Array,
    Deliver,
    Outcome,
    Outputs,
    Pending,
    Plan,
    plan_of,
)
from hlserve.serving.batching.queue import RequestQueue
from hlserve.serving.batching.run import BatchResult, BatchRun, Run
from hlserve.serving.batching.run_threads import RunThreads
from hlserve.serving.batching.runs import Runs
from hlserve.serving.batching.waits import Waits
from hlserve.serving.batching_config import BatchingConfig
from hlserve.serving.outcomes import waited_for
from hlserve.serving.statistics import ModelStatistics, Phases, failure_reason

_LOG = logging.getLogger(__name__)

# By its own clock a caller gives up before its deadline here: by as much as the request's way took.
_GIVES_UP_EARLY_S = 0.010
_MAX_PLANS = 512


def _ignore(_outcome: Outcome) -> None:
    """Nobody is told twice."""


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
        self._label = label
        self._joins = joins
        self._statistics = statistics or ModelStatistics()
        self._clock_ns = clock_ns
        self._queue = RequestQueue(config, label)
        times = RunTimes()
        self._admission = Admission(config, self._queue, times, instances=instances, label=label)
        self._answers = Answers(in_order=config.preserve_ordering)
        self._waits = Waits(config, self._queue, label, expired=self._expire, fail=self._fail)
        self._runs = Runs(
            BatchRun(run, clock_ns, label),
            *(config, threads, self._queue, times, self._admission, self._waits),
            fail=self._fail,
            record=self._record,
            deliver=self._deliver,
            label=label,
            instances=instances,
            threads_a_run=threads_a_run,
            clock_ns=clock_ns,
        )
        self._plans: dict[object, Plan] = {}
        self._usual_level = config.level(0)
        self._usual_timeout_s = config.policy(self._usual_level).timeout_s(0)

    def submit(
        self,
        inputs: Mapping[str, Array],
        outputs: Sequence[str],
        deliver: Deliver,
        *,
        deadline_s: float | None = None,
        priority: int = 0,
        timeout_us: int = 0,
        arrived_ns: int = 0,
        signature: object | None = None,
    ) -> Pending:
        """Takes a request; what becomes of it is delivered once, perhaps before this returns.

        Args:
            inputs: checked against the model; rows first where the model joins.
            outputs: names; none twice.
            deliver: gets the answer or the error; must not submit, and not raise.
            deadline_s: on the event loop's clock.
            priority: 1 is the highest level; 0: the model's default.
            timeout_us: the longest wait in the queue that the caller wants; 0: it says nothing.
            arrived_ns: when it came, on the batcher's clock; 0: now.
            signature: equal for requests that are alike in all but their values; None: not known.

        Raises:
            InvalidRequestError: there is no such priority.
            QueueFullError: too much waits.
            DeadlineExceededError: the deadline passed, or cannot be met.
        """
        arrived_ns = arrived_ns or self._clock_ns()
        try:
            plan = self._plans.get(signature) or self._plan(inputs, outputs, signature)
            level, timeout_s = self._usual_level, self._usual_timeout_s
            if priority or timeout_us:
                level = self._config.level(priority)
                timeout_s = self._config.policy(level).timeout_s(timeout_us / 1e6)
            pending = Pending(inputs, plan, level, arrived_ns, deadline_s, deliver)
            pending.timeout_s = timeout_s
            if deadline_s is not None:
                self._check_deadline(pending, deadline_s)
            self._queue.add(pending)
        except HlserveError as error:
            self._statistics.failed(failure_reason(error), self._clock_ns() - arrived_ns)
            raise
        self._statistics.pending += 1
        if self._answers.in_order:
            self._answers.expect(pending)
        self._runs.take_in(pending, asyncio.get_running_loop())
        return pending

    def cancel(self, pending: Pending) -> None:
        """Its caller went away; without effect where it has its answer."""
        if pending.is_done:
            return
        deadline_s = pending.deadline_s
        if deadline_s is not None and self._clock_ns() / 1e9 >= deadline_s - _GIVES_UP_EARLY_S:
            self._count_in_vain(pending)
        self._fail(pending, CancelledError(f"{self._label}: the caller went away"))

    async def answer(
        self,
        inputs: Mapping[str, Array],
        outputs: Sequence[str],
        deadline_s: float | None = None,
        *,
        priority: int = 0,
        timeout_us: int = 0,
    ) -> Answer:
        """``submit`` for a coroutine: the outputs asked for, and where the time went.

        Raises:
            QueueTimeoutError: it waited longer than the policy of its level allows.
            ShuttingDownError: the server ended before it ran.
            InferenceError: the run of this very request failed.
            HlserveError: as ``submit``.
        """
        return await waited_for(
            lambda deliver: self.submit(
                *(inputs, outputs, deliver),
                deadline_s=deadline_s,
                priority=priority,
                timeout_us=timeout_us,
            ),
            self.cancel,
        )

    async def infer(
        self, inputs: Mapping[str, Array], outputs: Sequence[str], deadline_s: float | None = None
    ) -> Outputs:
        """The outputs alone, asked for without a priority; raises as ``answer``."""
        return (await self.answer(inputs, outputs, deadline_s)).outputs

    def _plan(
        self, inputs: Mapping[str, Array], outputs: Sequence[str], signature: object | None
    ) -> Plan:
        plan = plan_of(inputs, outputs, self._config.max_rows if self._joins else 0)
        if signature is not None:
            if len(self._plans) >= _MAX_PLANS:
                self._plans.clear()
            self._plans[signature] = plan
        return plan

    def _check_deadline(self, pending: Pending, deadline_s: float) -> None:
        now_s = self._clock_ns() / 1e9
        if now_s >= deadline_s:
            raise self._waits.too_late()
        self._admission.check(pending, now_s, self._runs.in_flight)

    # ----- how requests end

    def _expire(self, pending: Pending) -> None:
        if not pending.is_done:
            self._count_in_vain(pending)
            self._fail(pending, self._waits.too_late())

    def _count_in_vain(self, pending: Pending) -> None:
        self._admission.was_in_vain(pending.level)
        if pending.taken_ns:
            self._statistics.late += 1

    def _fail(self, pending: Pending, error: Exception) -> None:
        """Ends one that got no answer of a run."""
        self._hand_over([(pending, error), *self._answers.forget(pending)])

    def _record(self, result: BatchResult) -> None:
        for run in result.executions:
            self._statistics.executed(run.rows, run.input_ns, run.infer_ns, run.output_ns)
        if result.changed_rows and self._joins:
            self._joins = False
            self._plans.clear()
            _LOG.warning(
                "%s: answers for joined rows have another number of rows; from now on each "
                "request runs alone",
                self._label,
            )

    def _deliver(self, batch: Sequence[Pending], result: BatchResult) -> None:
        outcomes: list[tuple[Pending, Outcome]] = []
        phases, last_run, last_arrived_ns = Phases(), None, 0
        for pending, answer in zip(batch, result.answers, strict=True):
            if answer is None:
                outcomes.append((pending, self._not_run(pending, result.started_ns / 1e9)))
            elif isinstance(answer, Exception):
                outcomes.append((pending, answer))
            else:
                outputs, run = answer
                if run is not last_run or pending.arrived_ns != last_arrived_ns:
                    last_run, last_arrived_ns = run, pending.arrived_ns
                    phases = run.phases(pending.taken_ns - last_arrived_ns)
                outcomes.append((pending, Answer(outputs, phases)))
        self._hand_over(self._answers.in_turn(outcomes))

    def _not_run(self, pending: Pending, now_s: float) -> Exception:
        """For one that was found too late right before its run."""
        if pending.is_done or pending.deadline_s is None or pending.begin_by_s is None:
            return self._waits.too_late()
        self._admission.was_in_vain(pending.level)
        left_s = pending.deadline_s - now_s
        if left_s <= 0:
            return self._waits.too_late()
        return self._waits.no_longer_in_time(pending.deadline_s - pending.begin_by_s, left_s)

    def _hand_over(self, outcomes: Sequence[tuple[Pending, Outcome]]) -> None:
        """Ends requests, counts them, then tells their callers; those that ended before stay so."""
        now_ns = self._clock_ns()
        ended = [(pending, outcome) for pending, outcome in outcomes if not pending.is_done]
        for pending, _ in ended:
            pending.is_done = True
            if pending.timers:
                pending.stop_timers()
            if pending.lane is not None:
                self._queue.remove(pending)
                pending.inputs = {}  # it stays in its line until that moves on
        self._statistics.pending -= len(ended)
        self._count(ended, now_ns)
        for pending, outcome in ended:
            deliver, pending.deliver = pending.deliver, _ignore  # leaves no cycle
            try:
                deliver(outcome)
            except Exception:  # a fault of its caller must not cost the others their answers
                _LOG.exception("%s: an answer could not be delivered", self._label)

    def _count(self, ended: Sequence[tuple[Pending, Outcome]], now_ns: int) -> None:
        """Statistics; those that came together and ran together are counted together."""
        statistics = self._statistics
        count = rows = arrived_ns = 0
        phases: Phases | None = None
        for pending, outcome in ended:
            if isinstance(outcome, Exception):
                statistics.failed(failure_reason(outcome), now_ns - pending.arrived_ns)
                continue
            if pending.deadline_s is not None:
                self._admission.was_in_time(pending.level)
            if outcome.phases is not phases:
                if phases is not None:
                    statistics.answered(count, rows, now_ns - arrived_ns, phases)
                phases, arrived_ns, count, rows = outcome.phases, pending.arrived_ns, 0, 0
            count += 1
            rows += pending.rows
        if phases is not None:
            statistics.answered(count, rows, now_ns - arrived_ns, phases)
