"""Deadlines: what cannot be answered in time does not run. On a clock that the tests turn."""

import asyncio

import pytest

from hlserve.errors import DeadlineExceededError, QueueTimeoutError
from tests.serving.batching_bench import Bench, on_bench, turns


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


def test_a_request_larger_than_a_run_counts_as_one_run() -> None:
    async def main(bench: Bench) -> None:
        target = bench.batcher(max_rows=4)
        await bench.learn(target)  # a run takes 10 ms
        first = await bench.busy(target)
        large = bench.ask(target, 1.0, rows=100, in_s=10.0)
        await turns()
        behind = bench.ask(target, 2.0, in_s=0.1)  # not behind a hundred runs
        await turns()
        answers = await bench.finish(first, large, behind)
        assert all(isinstance(answer, dict) for answer in answers)

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


def test_who_is_left_over_by_a_turn_is_refused_at_its_deadline() -> None:
    async def main(bench: Bench) -> None:
        target = bench.batcher(max_rows=1)
        first, left_over = bench.ask(target, 1.0), bench.ask(target, 2.0, in_s=0.005)
        timed_out = bench.ask(target, 3.0, timeout_us=3000)
        await turns()
        assert not left_over.done()
        await bench.loop.turn_clock(0.004)
        with pytest.raises(QueueTimeoutError, match="waited 3 ms"):
            timed_out.result()
        await bench.loop.turn_clock(0.002)
        with pytest.raises(DeadlineExceededError, match="the deadline passed"):
            left_over.result()
        await bench.finish(first)
        assert bench.runs == [[1.0]]

    on_bench(main)


@pytest.mark.parametrize(("after_s", "late"), [(0.010, 0), (0.049, 1)])
def test_a_caller_who_gives_up_at_its_deadline_is_counted_as_late(
    after_s: float, late: int
) -> None:
    async def main(bench: Bench) -> None:
        target = bench.batcher()
        task = bench.ask(target, 1.0, in_s=0.050)
        await turns()
        await asyncio.to_thread(bench.started.acquire)
        await bench.loop.turn_clock(after_s)
        task.cancel()
        await turns()
        assert bench.statistics.late == late
        bench.ready.release()

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
