"""Runs at once: instances, the threads of all models, the order of answers, and the counts."""

import asyncio
import gc
import threading
import weakref
from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from hlserve.errors import QueueTimeoutError
from hlserve.serving.batching import DynamicBatcher, RunThreads
from hlserve.serving.batching.flights import InFlight
from hlserve.serving.batching.pending import Pending
from hlserve.serving.batching.run_threads import Job
from hlserve.serving.batching_config import BatchingConfig
from tests.serving.batching_bench import Array, Bench, on_bench, turns

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


def test_a_long_text_does_not_run_on_the_loop_because_short_ones_do() -> None:
    on_the_loop: list[bool] = []

    async def main(bench: Bench) -> None:
        loop_thread = threading.get_ident()

        def run(inputs: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
            on_the_loop.append(threading.get_ident() == loop_thread)
            return {"y": inputs["x"]}

        target = DynamicBatcher(
            run,
            BatchingConfig(),
            bench.threads,
            label="model 'm'",
            joins=True,
            statistics=bench.statistics,
            clock_ns=lambda: bench.loop.now_ns,  # stands still: a run takes no time
        )
        for text in (b"short", b"quick", b"long" * 10_000, b"short"):
            await target.answer({"x": np.array([[text]], object)}, ("y",))

    on_bench(main)
    assert on_the_loop == [False, True, False, True]


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


# ----- what lies behind a run


def test_a_thread_goes_on_with_what_lies_behind_while_the_loop_has_no_time() -> None:
    async def main(bench: Bench) -> list[list[float]]:
        target = bench.batcher(max_rows=1)
        tasks = [await bench.busy(target, 0.0), bench.ask(target, 1.0)]
        await turns()
        bench.ready.release()
        assert bench.started.acquire(timeout=20)  # the loop stands still here
        begun = list(bench.runs)
        bench.ready.release()
        await asyncio.gather(*tasks)
        return begun

    assert on_bench(main) == [[0.0], [1.0]]


def test_what_lies_behind_a_run_and_is_cancelled_does_not_run() -> None:
    async def main(bench: Bench) -> None:
        target = bench.batcher(max_rows=1)
        first, gone = await bench.busy(target, 0.0), bench.ask(target, 1.0)
        await turns()
        gone.cancel()
        await turns()
        await bench.finish(first)
        await bench.finish(bench.ask(target, 2.0))
        assert bench.runs == [[0.0], [2.0]]
        assert bench.statistics.failures["CANCELED"] == 1
        assert bench.statistics.pending == 0

    on_bench(main)


def test_what_others_may_join_or_overtake_lies_behind_no_run() -> None:
    async def main(bench: Bench) -> None:
        joining = bench.batcher(max_rows=4)
        tasks = [await bench.busy(joining, 0.0), bench.ask(joining, 1.0)]
        await turns()
        joined = bench.ask(joining, 2.0)
        await turns()
        await bench.finish(*tasks)
        await joined
        ranked = bench.batcher(max_rows=1, priority_levels=2, default_priority_level=2)
        tasks = [await bench.busy(ranked, 3.0), bench.ask(ranked, 4.0)]
        await turns()
        tasks.append(bench.ask(ranked, 5.0, priority=1))
        await turns()
        await bench.finish(*tasks)
        assert bench.runs == [[0.0], [1.0, 2.0], [3.0], [5.0], [4.0]]

    on_bench(main)


def test_another_model_waits_for_no_more_than_what_lies_behind_already() -> None:
    async def main(bench: Bench) -> None:
        greedy, other = bench.batcher(max_rows=1), bench.batcher(max_rows=1)
        tasks = [await bench.busy(greedy, 0.0), bench.ask(greedy, 1.0)]
        await turns()
        tasks += [bench.ask(other, 10.0), bench.ask(greedy, 2.0), bench.ask(greedy, 3.0)]
        await turns()
        await bench.finish(*tasks)
        assert bench.runs == [[0.0], [1.0], [10.0], [2.0], [3.0]]

    on_bench(main)


def test_runs_behind_runs_are_let_go_however_long_the_thread_goes_on() -> None:
    async def main(bench: Bench) -> int:
        target = bench.batcher(max_rows=1)
        tasks = [await bench.busy(target, 0.0)]
        for number in range(1, 8):
            tasks.append(bench.ask(target, float(number)))
            await turns()
            bench.ready.release()  # the thread goes on with what lies behind
            assert await asyncio.to_thread(bench.started.acquire, timeout=20)
            await turns()
        known = [job for job in gc.get_objects() if isinstance(job, InFlight)]
        ours = sum(job.done.func.__self__ is target._runs for job in known)  # type: ignore[attr-defined]
        bench.ready.release()
        await asyncio.gather(*tasks)
        return ours

    # The one that the thread began with, and the one that goes on.
    assert on_bench(main) <= 2


def test_a_timeout_of_the_queue_holds_for_what_lies_behind_a_run() -> None:
    async def main(bench: Bench) -> None:
        target = bench.batcher(max_rows=2)
        first = await bench.busy(target, 0.0)
        patient, other = bench.ask(target, 1.0), bench.ask(target, 2.0, timeout_us=1000)
        await turns()
        await bench.loop.turn_clock(0.002)
        with pytest.raises(QueueTimeoutError):
            await other
        await bench.finish(first, patient)
        assert bench.runs == [[0.0], [1.0]]

    on_bench(main)


def test_a_request_that_was_given_up_in_the_queue_holds_no_inputs_there() -> None:
    async def main(bench: Bench) -> None:
        target = bench.batcher(max_rows=1, priority_levels=2, default_priority_level=1)
        tasks = [await bench.busy(target, 0.0), bench.ask(target, 1.0)]
        held: list[weakref.ref[Array]] = []
        for _ in range(3):
            inputs = {"x": np.zeros((1, 1000), np.float32)}
            held.append(weakref.ref(inputs["x"]))
            given_up = asyncio.ensure_future(target.answer(inputs, ("y",)))
            await turns()
            given_up.cancel()
            await turns()
            del inputs, given_up
        assert [array() for array in held] == [None] * 3
        await bench.finish(*tasks)

    on_bench(main)


def test_requests_leave_no_cycles_to_the_collector() -> None:
    async def main(bench: Bench) -> list[object]:
        target = bench.batcher(max_rows=1)
        tasks = [await bench.busy(target, 0.0), bench.ask(target, 1.0), bench.ask(target, 2.0)]
        await bench.finish(*tasks)
        tasks.clear()
        gc.collect()
        gc.set_debug(gc.DEBUG_SAVEALL)
        try:
            for _ in range(3):
                await bench.finish(bench.ask(target, 3.0), bench.ask(target, 4.0))
            gc.collect()
            return [found for found in gc.garbage if isinstance(found, Pending | Job)]
        finally:
            gc.set_debug(0)
            gc.garbage.clear()

    gc.disable()
    try:
        assert on_bench(main) == []
    finally:
        gc.enable()


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
