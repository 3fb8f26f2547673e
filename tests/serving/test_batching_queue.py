"""Who waits, how long, and who goes first: priorities, policies, deadlines, admission, ordering.

Time is a clock that the tests turn: nothing here sleeps.
"""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from hlserve.errors import (
    ConfigError,
    DeadlineExceededError,
    InvalidRequestError,
    QueueFullError,
    QueueTimeoutError,
)
from hlserve.serving.batching import DynamicBatcher, RunThreads
from hlserve.serving.batching_config import BatchingConfig, QueuePolicy
from hlserve.serving.statistics import ModelStatistics

Array = NDArray[Any]
START_S = 1000.0


class ManualLoop(asyncio.SelectorEventLoop):
    """An event loop whose time stands still until ``turn_clock``."""

    def __init__(self) -> None:
        super().__init__()
        self.now_ns = round(START_S * 1e9)

    def time(self) -> float:
        return self.now_ns / 1e9

    async def turn_clock(self, seconds: float) -> None:
        self.now_ns += round(seconds * 1e9)
        await turns()


async def turns(count: int = 6) -> None:
    """Lets everything that is ready happen."""
    for _ in range(count):
        await asyncio.sleep(0)


@dataclass
class Bench:
    """A batcher on a manual clock, over a model that runs when it is told to.

    Attributes:
        loop: turns the clock.
        run_s: what a run takes on that clock.
        runs: the first value of each row of each run, as they were run.
        ready: released once for each run that may end.
    """

    loop: ManualLoop
    threads: RunThreads
    statistics: ModelStatistics = field(default_factory=ModelStatistics)
    run_s: float = 0.010
    runs: list[list[float]] = field(default_factory=list)
    ready: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    started: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        self.runs.append(inputs["x"][:, 0].tolist())
        self.started.release()
        assert self.ready.acquire(timeout=20)
        self.loop.now_ns += round(self.run_s * 1e9)
        return {"y": inputs["x"] * 2}

    def batcher(self, *, instances: int = 1, cost: int = 1, **config: Any) -> DynamicBatcher:
        return DynamicBatcher(
            self.run,
            BatchingConfig(**config),
            self.threads,
            label="model 'm'",
            joins=True,
            statistics=self.statistics,
            instances=instances,
            threads_a_run=cost,
            clock_ns=lambda: self.loop.now_ns,
        )

    def ask(self, target: DynamicBatcher, value: float, **kwargs: Any) -> asyncio.Task[Any]:
        rows = kwargs.pop("rows", 1)
        inputs = {"x": np.full((rows, kwargs.pop("width", 2)), value, np.float32)}
        if "in_s" in kwargs:
            kwargs["deadline_s"] = self.loop.time() + kwargs.pop("in_s")
        return asyncio.ensure_future(target.infer(inputs, ("y",), **kwargs))

    async def busy(self, target: DynamicBatcher, value: float = 0.0) -> asyncio.Task[Any]:
        """A request that runs until ``finish``."""
        task = self.ask(target, value)
        await turns()
        await asyncio.to_thread(self.started.acquire)
        return task

    async def finish(self, *tasks: Awaitable[Any]) -> list[Any]:
        """Lets as many runs end as are needed for these answers."""
        for _ in tasks:
            self.ready.release()
        return await asyncio.gather(*tasks, return_exceptions=True)

    async def learn(self, target: DynamicBatcher, rows: int = 1) -> None:
        """Three runs, after which the batcher trusts what they took."""
        for _ in range(3):
            await self.finish(self.ask(target, -1.0, rows=rows))
        self.runs.clear()


def on_bench(main: Callable[[Bench], Coroutine[Any, Any, Any]], threads: int = 1) -> Any:
    budget = RunThreads(threads)
    try:
        with asyncio.Runner(loop_factory=ManualLoop) as runner:
            loop = runner.get_loop()
            assert isinstance(loop, ManualLoop)
            return runner.run(main(Bench(loop, budget)))
    finally:
        budget.shutdown(wait=True)


# ----- priorities -----


@settings(max_examples=40, deadline=None)
@given(priorities=st.lists(st.integers(0, 3), min_size=1, max_size=8))
def test_levels_are_strict_and_first_come_first_served_inside(priorities: list[int]) -> None:
    async def main(bench: Bench) -> list[list[float]]:
        target = bench.batcher(max_rows=1, priority_levels=3, default_priority_level=2)
        first = await bench.busy(target, -1.0)
        rest = []
        for number, priority in enumerate(priorities):
            rest.append(bench.ask(target, float(number), priority=priority))
            await turns(1)
        await bench.finish(first, *rest)
        return bench.runs[1:]

    order = sorted(range(len(priorities)), key=lambda number: priorities[number] or 2)
    assert on_bench(main) == [[float(number)] for number in order]


def test_a_run_that_higher_rows_do_not_fill_takes_lower_ones() -> None:
    async def main(bench: Bench) -> list[list[float]]:
        target = bench.batcher(max_rows=3, priority_levels=2, default_priority_level=2)
        first = await bench.busy(target)
        rest = [bench.ask(target, float(n), priority=p) for n, p in ((1, 2), (2, 2), (3, 1))]
        await turns()
        await bench.finish(first, *rest)
        return bench.runs[1:]

    assert on_bench(main) == [[3.0, 1.0, 2.0]]


@pytest.mark.parametrize(("levels", "priority"), [(3, 4), (3, -1), (0, 1)])
def test_a_priority_that_is_not_there_is_refused(levels: int, priority: int) -> None:
    async def main(bench: Bench) -> None:
        target = bench.batcher(priority_levels=levels, default_priority_level=min(levels, 1))
        with pytest.raises(InvalidRequestError, match=f"priority is {priority}, expected 0"):
            await bench.ask(target, 0.0, priority=priority)
        assert bench.statistics.failures["OTHER"] == 1

    on_bench(main)


# ----- timeouts in the queue -----


def test_a_rejecting_timeout_answers_when_it_expires_not_when_the_run_ends() -> None:
    async def main(bench: Bench) -> None:
        target = bench.batcher()
        first = await bench.busy(target)
        waiting = bench.ask(target, 1.0, timeout_us=5000)
        await turns()
        await bench.loop.turn_clock(0.0049)
        assert not waiting.done()
        await bench.loop.turn_clock(0.0002)
        with pytest.raises(QueueTimeoutError, match="waited 5 ms"):
            waiting.result()
        assert not first.done()
        await bench.finish(first)
        await turns()
        assert bench.runs == [[0.0]]
        assert bench.statistics.failures["REJECTED"] == 1

    on_bench(main)


def test_a_delaying_timeout_puts_a_request_behind_all_others_of_its_level() -> None:
    async def main(bench: Bench) -> list[list[float]]:
        policy = QueuePolicy(timeout_action="DELAY")
        target = bench.batcher(max_rows=1, queue_policy=policy)
        first = await bench.busy(target)
        late = bench.ask(target, 1.0, timeout_us=1000)
        await turns()
        await bench.loop.turn_clock(0.002)
        rest = [bench.ask(target, 2.0), bench.ask(target, 3.0)]
        await turns()
        await bench.finish(first, late, *rest)
        return bench.runs[1:]

    assert on_bench(main) == [[2.0], [3.0], [1.0]]


def test_a_timeout_does_not_end_what_runs() -> None:
    async def main(bench: Bench) -> None:
        target = bench.batcher()
        task = bench.ask(target, 1.0, timeout_us=1000)
        await turns()
        await asyncio.to_thread(bench.started.acquire)
        await bench.loop.turn_clock(1.0)
        (answer,) = await bench.finish(task)
        assert answer["y"].tolist() == [[2.0, 2.0]]

    on_bench(main)


@pytest.mark.parametrize(
    ("default_s", "allows", "asked_s", "expected_s"),
    [
        (0.0, True, 0.0, 0.0),
        (0.0, True, 2.0, 2.0),
        (0.0, False, 2.0, 0.0),
        (5.0, True, 2.0, 2.0),
        (5.0, True, 9.0, 5.0),
        (5.0, False, 2.0, 5.0),
        (5.0, True, 0.0, 5.0),
    ],
)
def test_a_request_may_shorten_its_timeout_where_the_policy_lets_it(
    default_s: float, allows: bool, asked_s: float, expected_s: float
) -> None:
    policy = QueuePolicy(default_timeout_s=default_s, allow_timeout_override=allows)
    assert policy.timeout_s(asked_s) == expected_s


def test_each_level_has_its_own_policy() -> None:
    async def main(bench: Bench) -> None:
        target = bench.batcher(
            priority_levels=2,
            default_priority_level=1,
            priority_queue_policies={2: QueuePolicy(max_queue_size=1)},
        )
        first = await bench.busy(target)
        low = bench.ask(target, 1.0, priority=2)
        await turns()
        with pytest.raises(QueueFullError, match="1 requests of this priority wait, 1 more"):
            await bench.ask(target, 2.0, priority=2)
        high = [bench.ask(target, 3.0, priority=1) for _ in range(3)]
        await turns()
        answers = await bench.finish(first, low, *high)
        assert all(isinstance(answer, dict) for answer in answers)

    on_bench(main)


def test_waiting_bytes_are_bounded() -> None:
    async def main(bench: Bench) -> None:
        target = bench.batcher(max_queue_bytes=100)
        first = await bench.busy(target)
        waiting = bench.ask(target, 1.0, rows=8)  # 8 rows of 2 float32: 64 bytes
        await turns()
        with pytest.raises(QueueFullError, match=r"64 bytes wait, 40 more would exceed .* 100"):
            await bench.ask(target, 1.0, rows=5)
        waiting.cancel()
        await turns()
        last = bench.ask(target, 1.0, rows=50)  # nothing waits: one request of any size may
        await turns()
        await bench.finish(first, last)

    on_bench(main)


# ----- waiting for company -----


def test_a_preferred_size_ends_the_wait_and_never_makes_a_run_smaller() -> None:
    async def main(bench: Bench) -> list[list[float]]:
        target = bench.batcher(max_rows=8, preferred_rows=(3, 6), max_queue_delay_s=1.0)
        tasks = [bench.ask(target, 1.0), bench.ask(target, 2.0)]
        await turns()
        assert bench.runs == []
        tasks.append(bench.ask(target, 3.0))
        await turns()
        await asyncio.to_thread(bench.started.acquire)
        tasks += [bench.ask(target, float(n)) for n in range(4, 11)]
        await turns()
        await bench.finish(*tasks)
        return bench.runs

    assert on_bench(main) == [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0]]


def test_when_the_delay_is_over_what_is_there_runs() -> None:
    async def main(bench: Bench) -> list[list[float]]:
        target = bench.batcher(max_rows=8, max_queue_delay_s=0.5)
        tasks = [bench.ask(target, 1.0), bench.ask(target, 2.0)]
        await turns()
        await bench.loop.turn_clock(0.49)
        assert bench.runs == []
        await bench.loop.turn_clock(0.02)
        await bench.finish(*tasks)
        return bench.runs

    assert on_bench(main) == [[1.0, 2.0]]


def test_waiting_for_company_does_not_cost_a_request_its_deadline() -> None:
    async def main(bench: Bench) -> list[list[float]]:
        target = bench.batcher(max_rows=8, max_queue_delay_s=10.0)
        for _ in range(3):
            task = bench.ask(target, -1.0)
            await turns()
            await bench.loop.turn_clock(10.0)
            await bench.finish(task)
        task = bench.ask(target, 1.0, in_s=1.0)
        await bench.loop.turn_clock(0.981)
        assert len(bench.runs) == 3
        await bench.loop.turn_clock(0.004)  # a run takes 10 ms: no more time to lose
        (answer,) = await bench.finish(task)
        assert isinstance(answer, dict), answer
        return bench.runs[-1:]

    assert on_bench(main) == [[1.0]]


def test_requests_that_cannot_run_together_take_turns_by_age() -> None:
    async def main(bench: Bench) -> list[list[float]]:
        target = bench.batcher(max_rows=4)
        first = await bench.busy(target)
        widths = (2, 3, 2, 3, 4, 2)
        rest = [bench.ask(target, float(n), width=w) for n, w in enumerate(widths)]
        await turns()
        await bench.finish(first, *rest)
        return bench.runs[1:]

    assert on_bench(main) == [[0.0, 2.0, 5.0], [1.0, 3.0], [4.0]]


# ----- deadlines -----


def test_what_cannot_be_answered_in_time_is_refused_at_once() -> None:
    async def main(bench: Bench) -> None:
        target = bench.batcher(max_rows=1)
        await bench.learn(target)  # a run takes 10 ms
        first = await bench.busy(target)
        waiting = [bench.ask(target, float(n), in_s=10.0) for n in range(4)]
        await turns()
        hopeless = bench.ask(target, 9.0, in_s=0.050)
        await turns()
        with pytest.raises(
            DeadlineExceededError,
            match=r"cannot be answered in time: 4 rows wait, about \d\d\.\d ms, 50\.0 ms left",
        ):
            hopeless.result()
        fine = bench.ask(target, 5.0, in_s=0.100)
        await turns()
        answers = await bench.finish(first, *waiting, fine)
        assert all(isinstance(answer, dict) for answer in answers)
        assert [9.0] not in bench.runs
        assert bench.statistics.late == 0

    on_bench(main)


def test_nobody_is_refused_on_the_strength_of_what_is_not_known() -> None:
    async def main(bench: Bench) -> None:
        target = bench.batcher(max_rows=1)
        first = await bench.busy(target)
        waiting = [bench.ask(target, 1.0) for _ in range(50)]
        await turns()
        task = bench.ask(target, 9.0, in_s=0.001)
        await turns()
        assert not task.done()
        await bench.loop.turn_clock(0.002)
        with pytest.raises(DeadlineExceededError, match="the deadline passed"):
            task.result()
        await bench.finish(first, *waiting)

    on_bench(main)


def test_one_slow_moment_does_not_refuse_everybody_for_ever() -> None:
    async def main(bench: Bench) -> None:
        target = bench.batcher(max_rows=1)
        await bench.learn(target)
        bench.run_s = 5.0
        await bench.finish(bench.ask(target, 1.0))
        bench.run_s = 0.010
        for _ in range(60):
            task = bench.ask(target, 2.0, in_s=0.100)
            (answer,) = await bench.finish(task)
            if isinstance(answer, dict):
                return
            assert isinstance(answer, DeadlineExceededError)
            bench.ready.acquire(blocking=False)  # it did not run
        pytest.fail("still refused after 60 requests")

    on_bench(main)


def test_a_short_deadline_is_enough_for_a_short_run() -> None:
    async def main(bench: Bench) -> None:
        bench.run_s = 0.0001
        target = bench.batcher()
        await bench.learn(target)
        (answer,) = await bench.finish(bench.ask(target, 1.0, in_s=0.0005))
        assert isinstance(answer, dict), answer

    on_bench(main)


def test_an_expired_or_cancelled_request_is_not_in_a_batch_that_is_formed() -> None:
    async def main(bench: Bench) -> None:
        target = bench.batcher(max_rows=8)
        first = await bench.busy(target)
        good, late, gone = (
            bench.ask(target, 1.0),
            bench.ask(target, 2.0, in_s=0.005),
            bench.ask(target, 3.0),
        )
        await turns()
        gone.cancel()
        bench.run_s = 0.020  # the run that now ends does so after the deadline of the second
        await bench.finish(first, good)
        await turns()
        assert bench.runs == [[0.0], [1.0]]
        with pytest.raises(DeadlineExceededError):
            late.result()
        assert bench.statistics.late == 0
        assert bench.statistics.failures["CANCELED"] == 1

    on_bench(main)


def test_a_request_that_can_no_longer_be_answered_in_time_does_not_run() -> None:
    async def main(bench: Bench) -> None:
        target = bench.batcher(max_rows=1)
        await bench.learn(target)
        first = await bench.busy(target)
        tight = bench.ask(target, 1.0, in_s=0.030)  # 10 ms for each of the two, and the way back
        await turns()
        bench.run_s = 0.022  # longer than any before
        await bench.finish(first)
        await turns()
        with pytest.raises(DeadlineExceededError, match=r"can no longer .* 8\.0 ms are left"):
            tight.result()
        assert bench.runs == [[0.0]]

    on_bench(main)


def test_an_answer_after_its_deadline_is_counted_as_late() -> None:
    async def main(bench: Bench) -> None:
        target = bench.batcher()
        task = bench.ask(target, 1.0, in_s=0.005)
        await turns()
        await asyncio.to_thread(bench.started.acquire)
        await bench.loop.turn_clock(0.006)
        with pytest.raises(DeadlineExceededError):
            task.result()
        assert bench.statistics.late == 1
        bench.ready.release()
        await bench.finish(bench.ask(target, 2.0))

    on_bench(main)


# ----- instances, threads, order -----


def test_instances_run_at_once_as_far_as_the_threads_go() -> None:
    async def main(bench: Bench) -> int:
        target = bench.batcher(max_rows=1, instances=3, cost=2)
        tasks = [bench.ask(target, float(n)) for n in range(5)]
        await turns()
        for _ in range(2):  # four threads, two a run
            await asyncio.to_thread(bench.started.acquire)
        await turns()
        at_once = len(bench.runs)
        await bench.finish(*tasks)
        return at_once

    assert on_bench(main, threads=4) == 2


def test_instances_that_waited_for_threads_all_start_when_they_are_free() -> None:
    async def main(bench: Bench) -> int:
        other, target = bench.batcher(cost=2), bench.batcher(max_rows=1, instances=2)
        first = await bench.busy(other)
        tasks = [bench.ask(target, float(n)) for n in range(1, 3)]
        await turns()
        assert bench.runs == [[0.0]]
        await bench.finish(first)
        for _ in tasks:
            assert await asyncio.to_thread(bench.started.acquire, timeout=20)
        await bench.finish(*tasks)
        return len(bench.runs)

    assert on_bench(main, threads=2) == 3


def test_a_run_that_wants_more_than_all_threads_takes_all() -> None:
    async def main(bench: Bench) -> None:
        (answer,) = await bench.finish(bench.ask(bench.batcher(cost=64), 1.0))
        assert isinstance(answer, dict)

    on_bench(main, threads=2)


def test_models_that_share_a_thread_take_turns() -> None:
    async def main(bench: Bench) -> list[list[float]]:
        busy, other = bench.batcher(max_rows=1), bench.batcher(max_rows=1)
        first = await bench.busy(busy)
        flood = [bench.ask(busy, 1.0) for _ in range(6)]
        rest = [bench.ask(other, 2.0) for _ in range(3)]
        await turns()
        await bench.finish(first, *flood, *rest)
        return bench.runs[1:7]

    assert sorted(on_bench(main)) == [[1.0]] * 3 + [[2.0]] * 3


def test_the_budget_is_never_exceeded_and_serves_in_order() -> None:
    threads = RunThreads(4)
    started: list[int] = []
    for number, cost in enumerate((3, 2, 1, 4)):
        threads.request(cost, lambda number=number: started.append(number))  # type: ignore[misc]
    assert started == [0]  # the second does not fit, and the third must not overtake it
    threads.release(3)
    assert started == [0, 1, 2]
    threads.release(2)
    assert started == [0, 1, 2]
    threads.release(1)
    assert started == [0, 1, 2, 3]
    threads.shutdown(wait=True)


@pytest.mark.parametrize("preserves", [False, True])
def test_answers_leave_in_the_order_of_their_requests_where_that_is_asked_for(
    preserves: bool,
) -> None:
    gates = {value: threading.Event() for value in (1.0, 2.0, 3.0)}

    def run(inputs: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        assert gates[float(inputs["x"][0, 0])].wait(20)
        return {"y": inputs["x"]}

    async def main(bench: Bench) -> list[float]:
        target = DynamicBatcher(
            run,
            BatchingConfig(max_rows=1, preserve_ordering=preserves),
            bench.threads,
            label="model 'm'",
            joins=True,
            instances=3,
        )
        order: list[float] = []

        async def one(value: float) -> None:
            await bench.ask(target, value)
            order.append(value)

        tasks = {value: asyncio.ensure_future(one(value)) for value in gates}
        await turns()
        gates[3.0].set()
        gates[2.0].set()
        if preserves:
            tasks[2.0].cancel()  # one that goes away holds nobody up
        else:
            await asyncio.wait([tasks[2.0], tasks[3.0]])
        gates[1.0].set()
        await asyncio.gather(*tasks.values(), return_exceptions=True)
        return order

    order = on_bench(main, threads=3)
    assert order == [1.0, 3.0] if preserves else order[-1] == 1.0


# ----- statistics -----


def test_statistics_count_requests_rows_runs_and_phases() -> None:
    async def main(bench: Bench) -> None:
        target = bench.batcher(max_rows=8)
        first = await bench.busy(target)
        rest = [bench.ask(target, 1.0, rows=2), bench.ask(target, 2.0, rows=3)]
        await turns()
        assert bench.statistics.pending == 3
        await bench.finish(first)
        await bench.finish(*rest)
        counts = bench.statistics
        assert counts.pending == 0
        assert (counts.success.count, counts.inference_count, counts.execution_count) == (3, 6, 2)
        assert {rows: batch.count for rows, batch in counts.batches.items()} == {1: 1, 5: 1}
        assert counts.queue.count == counts.compute_infer.count == 3
        assert counts.queue.ns == 2 * 10_000_000  # both waited for the first run
        assert counts.compute_infer.ns == 3 * 10_000_000
        assert counts.success.ns == 5 * 10_000_000
        assert counts.fail.count == 0

    on_bench(main)


@pytest.mark.parametrize(
    "changes",
    [
        {"preferred_rows": (0,)},
        {"preferred_rows": (65,)},
        {"max_queue_bytes": 0},
        {"priority_levels": -1},
        {"priority_levels": 65, "default_priority_level": 1},
        {"priority_levels": 2},
        {"priority_levels": 2, "default_priority_level": 3},
        {"default_priority_level": 1},
        {"priority_queue_policies": {1: QueuePolicy()}},
    ],
)
def test_impossible_batching_settings_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="expected"):
        BatchingConfig(**changes)


@pytest.mark.parametrize(
    "changes", [{"timeout_action": "DROP"}, {"default_timeout_s": -1.0}, {"max_queue_size": -1}]
)
def test_impossible_policies_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="expected"):
        QueuePolicy(**changes)
