"""Who waits, how long, and who goes first: priorities, policies, company. Nothing sleeps."""

import asyncio
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hlserve.errors import (
    ConfigError,
    InvalidRequestError,
    QueueFullError,
    QueueTimeoutError,
)
from hlserve.serving.batching_config import BatchingConfig, QueuePolicy
from tests.serving.batching_bench import Bench, on_bench, turns

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


@pytest.mark.parametrize(("levels", "priority"), [(3, 4), (3, -1), (0, -1)])
def test_a_priority_that_is_not_there_is_refused(levels: int, priority: int) -> None:
    async def main(bench: Bench) -> None:
        target = bench.batcher(priority_levels=levels, default_priority_level=min(levels, 1))
        with pytest.raises(InvalidRequestError, match=f"priority is {priority}, expected 0"):
            await bench.ask(target, 0.0, priority=priority)
        assert bench.statistics.failures["OTHER"] == 1

    on_bench(main)


def test_without_levels_a_priority_changes_nothing() -> None:
    async def main(bench: Bench) -> list[list[float]]:
        target = bench.batcher(max_rows=1)
        first = await bench.busy(target)
        rest = [bench.ask(target, float(n), priority=p) for n, p in ((1, 7), (2, 1), (3, 0))]
        await turns()
        await bench.finish(first, *rest)
        return bench.runs[1:]

    assert on_bench(main) == [[1.0], [2.0], [3.0]]


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
