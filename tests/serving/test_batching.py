"""The batcher: any interleaving gives what each request gives alone; the rest of its promises."""

import asyncio
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
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
    InferenceError,
    QueueFullError,
)
from hlserve.serving.batching import DynamicBatcher, RunThreads
from hlserve.serving.batching_config import BatchingConfig

Array = NDArray[Any]
BAD = -1.0


@dataclass
class Model:
    """Row by row: ``double`` and ``total``; fails when any row holds BAD; notes what it ran.

    ``gate`` holds a run back until it is set, so that tests decide what waits.
    """

    runs: list[int] = field(default_factory=list)
    gate: threading.Event = field(default_factory=threading.Event)
    started: threading.Event = field(default_factory=threading.Event)

    def __call__(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        self.started.set()
        assert self.gate.wait(20)
        x = inputs["x"]
        self.runs.append(len(x))
        if (x == BAD).any():
            raise InferenceError("a bad row")
        answers = {"double": x * 2, "total": x.sum(axis=tuple(range(1, x.ndim)))}
        return {name: answers[name] for name in outputs}


@contextmanager
def run_threads(count: int) -> Iterator[RunThreads]:
    threads = RunThreads(count)
    try:
        yield threads
    finally:
        threads.shutdown(wait=True)


def open_model() -> Model:
    model = Model()
    model.gate.set()
    return model


def batcher(model: Any, threads: RunThreads, **config: Any) -> DynamicBatcher:
    joins = config.pop("joins", True)
    return DynamicBatcher(model, BatchingConfig(**config), threads, label="model 'm'", joins=joins)


@dataclass(frozen=True)
class Ask:
    rows: int
    width: int
    outputs: tuple[str, ...]
    turns_before: int
    is_bad: bool
    is_cancelled: bool


ASKS = st.builds(
    Ask,
    rows=st.integers(0, 6),
    width=st.integers(1, 2),
    outputs=st.sampled_from([("double",), ("total",), ("total", "double"), ("double", "total")]),
    turns_before=st.integers(0, 4),
    is_bad=st.booleans().filter(lambda bad: not bad) | st.booleans(),
    is_cancelled=st.booleans().filter(lambda cancelled: not cancelled) | st.booleans(),
)


@settings(max_examples=150, deadline=None)
@given(
    asks=st.lists(ASKS, max_size=12),
    max_rows=st.integers(1, 8),
    delay_s=st.sampled_from([0.0, 0.0, 0.002]),
)
def test_any_interleaving_equals_one_by_one(asks: list[Ask], max_rows: int, delay_s: float) -> None:
    async def main(threads: RunThreads) -> list[object]:
        target = batcher(open_model(), threads, max_rows=max_rows, max_queue_delay_s=delay_s)

        async def one(number: int, ask: Ask) -> object:
            for _ in range(ask.turns_before):
                await asyncio.sleep(0)
            return await target.infer({"x": values(number, ask)}, ask.outputs)

        tasks = [asyncio.ensure_future(one(*numbered)) for numbered in enumerate(asks)]
        await asyncio.sleep(0)
        for task, ask in zip(tasks, asks, strict=True):
            if ask.is_cancelled:
                task.cancel()
        return await asyncio.gather(*tasks, return_exceptions=True)

    with run_threads(2) as threads:
        answers = asyncio.run(main(threads))
    for number, (ask, answer) in enumerate(zip(asks, answers, strict=True)):
        if isinstance(answer, asyncio.CancelledError):
            assert ask.is_cancelled
        elif ask.is_bad and ask.rows:
            assert isinstance(answer, InferenceError)
        else:
            assert isinstance(answer, dict), answer
            alone = open_model()({"x": values(number, ask)}, ask.outputs)
            assert set(answer) == set(alone)
            for name in alone:
                np.testing.assert_array_equal(answer[name], alone[name])


def values(number: int, ask: Ask) -> Array:
    array = np.full((ask.rows, ask.width), float(number), np.float32)
    if ask.is_bad:
        array[-1:] = BAD
    return array


def rows(count: int, value: float = 1.0) -> dict[str, Array]:
    return {"x": np.full((count, 2), value, np.float32)}


def test_what_waits_during_a_run_is_one_run_of_at_most_max_rows() -> None:
    async def main(threads: RunThreads) -> list[int]:
        model = Model()
        target = batcher(model, threads, max_rows=4)
        first = asyncio.ensure_future(target.infer(rows(1), ("double",)))
        await asyncio.to_thread(model.started.wait, 20)
        rest = [asyncio.ensure_future(target.infer(rows(1), ("double",))) for _ in range(6)]
        await asyncio.sleep(0)
        model.gate.set()
        await asyncio.gather(first, *rest)
        return model.runs

    with run_threads(1) as threads:
        assert asyncio.run(main(threads)) == [1, 4, 2]


def test_requests_of_one_turn_run_together_without_a_delay() -> None:
    async def main(threads: RunThreads) -> list[int]:
        model = open_model()
        target = batcher(model, threads)
        await asyncio.gather(*(target.infer(rows(2), ("double",)) for _ in range(5)))
        return model.runs

    with run_threads(1) as threads:
        assert asyncio.run(main(threads)) == [10]


def test_a_delay_waits_for_company_but_not_past_a_full_batch() -> None:
    async def main(threads: RunThreads) -> tuple[list[int], float]:
        model = open_model()
        target = batcher(model, threads, max_rows=3, max_queue_delay_s=20)
        asks = [asyncio.ensure_future(target.infer(rows(1), ("double",)))]
        await asyncio.sleep(0.01)
        assert model.runs == []
        asks += [asyncio.ensure_future(target.infer(rows(1), ("double",))) for _ in range(2)]
        started_s = time.monotonic()
        await asyncio.gather(*asks)
        return model.runs, time.monotonic() - started_s

    with run_threads(1) as threads:
        runs, waited_s = asyncio.run(main(threads))
    assert runs == [3]
    assert waited_s < 10


def test_a_bad_row_fails_alone() -> None:
    async def main(threads: RunThreads) -> list[object]:
        target = batcher(open_model(), threads)
        asks = [target.infer(rows(1, value), ("total",)) for value in (1.0, BAD, 3.0)]
        return await asyncio.gather(*asks, return_exceptions=True)

    with run_threads(1) as threads:
        good, bad, also_good = asyncio.run(main(threads))
    assert isinstance(bad, InferenceError)
    assert good == {"total": [2.0]}
    assert also_good == {"total": [6.0]}


def test_an_expired_or_cancelled_request_never_runs_and_answers_at_once() -> None:
    async def main(threads: RunThreads) -> tuple[Model, list[object]]:
        model = Model()
        target = batcher(model, threads)
        loop = asyncio.get_running_loop()
        first = asyncio.ensure_future(target.infer(rows(1), ("total",)))
        await asyncio.to_thread(model.started.wait, 20)
        late = asyncio.ensure_future(target.infer(rows(2), ("total",), loop.time() + 0.02))
        gone = asyncio.ensure_future(target.infer(rows(3), ("total",)))
        await asyncio.sleep(0)
        gone.cancel()
        outcomes = await asyncio.gather(late, gone, return_exceptions=True)
        assert model.runs == []  # answered while the first still runs
        past = target.infer(rows(4), ("total",), loop.time() - 1)
        outcomes += await asyncio.gather(past, return_exceptions=True)
        model.gate.set()
        await first
        await target.infer(rows(5), ("total",))
        return model, list(outcomes)

    with run_threads(1) as threads:
        model, (late, gone, past) = asyncio.run(main(threads))
    assert isinstance(late, DeadlineExceededError)
    assert isinstance(gone, asyncio.CancelledError)
    assert isinstance(past, DeadlineExceededError)
    assert "model 'm': the deadline passed" in str(late)
    assert model.runs == [1, 5]


def test_a_full_queue_refuses_counts_rows_and_recovers() -> None:
    async def main(threads: RunThreads) -> None:
        model = Model()
        target = batcher(model, threads, max_queue_rows=4)
        first = asyncio.ensure_future(target.infer(rows(1), ("total",)))
        await asyncio.to_thread(model.started.wait, 20)
        waiting = asyncio.ensure_future(target.infer(rows(3), ("total",)))
        await asyncio.sleep(0)
        with pytest.raises(QueueFullError, match="3 rows wait, 2 more would exceed the queue's 4"):
            await target.infer(rows(2), ("total",))
        waiting.cancel()
        await asyncio.sleep(0)
        model.gate.set()
        await asyncio.gather(first, target.infer(rows(4), ("total",)))
        await target.infer(rows(99), ("total",))  # larger than the queue, but nothing waits

    with run_threads(1) as threads:
        asyncio.run(main(threads))


def test_a_request_larger_than_a_batch_runs_alone() -> None:
    async def main(threads: RunThreads) -> list[int]:
        model = open_model()
        target = batcher(model, threads, max_rows=4)
        await asyncio.gather(*(target.infer(rows(n), ("total",)) for n in (1, 9, 2)))
        return sorted(model.runs)

    with run_threads(1) as threads:
        assert asyncio.run(main(threads)) == [3, 9]


def test_a_model_that_does_not_join_runs_each_alone() -> None:
    async def main(threads: RunThreads) -> list[int]:
        model = open_model()
        target = batcher(model, threads, joins=False)
        await asyncio.gather(*(target.infer(rows(n), ("total",)) for n in (1, 2, 3)))
        return model.runs

    with run_threads(1) as threads:
        assert asyncio.run(main(threads)) == [1, 2, 3]


def test_outputs_that_lose_rows_are_noticed_and_run_one_by_one() -> None:
    def total_of_all(inputs: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        return {"total": inputs["x"].sum(keepdims=True)}

    async def main(threads: RunThreads) -> list[Any]:
        target = batcher(total_of_all, threads)
        return await asyncio.gather(*(target.infer(rows(1, n), ("total",)) for n in (1, 2)))

    with run_threads(1) as threads:
        answers = asyncio.run(main(threads))
    assert [answer["total"].item() for answer in answers] == [2.0, 4.0]


def test_a_model_that_was_found_to_lose_rows_is_not_joined_again() -> None:
    sizes: list[int] = []

    def total_of_all(inputs: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        sizes.append(len(inputs["x"]))
        return {"total": inputs["x"].sum(keepdims=True)}

    async def main(threads: RunThreads) -> None:
        target = batcher(total_of_all, threads)
        for _ in range(2):
            await asyncio.gather(*(target.infer(rows(1, n), ("total",)) for n in (1, 2)))

    with run_threads(1) as threads:
        asyncio.run(main(threads))
    assert sizes == [2, 1, 1, 1, 1]


def test_an_unexpected_failure_reaches_every_caller() -> None:
    def broken(inputs: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        raise ZeroDivisionError("a bug")

    async def main(threads: RunThreads) -> list[object]:
        target = batcher(broken, threads)
        asks = [target.infer(rows(1), ("total",)) for _ in range(3)]
        return await asyncio.gather(*asks, return_exceptions=True)

    with run_threads(1) as threads:
        outcomes = asyncio.run(main(threads))
    assert [type(outcome) for outcome in outcomes] == [ZeroDivisionError] * 3


def test_an_unexpected_failure_of_an_inline_run_reaches_its_caller() -> None:
    model = open_model()
    failing = False

    def sometimes(inputs: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        if failing:
            raise ZeroDivisionError("a bug")
        return model(inputs, outputs)

    async def main(threads: RunThreads) -> None:
        nonlocal failing
        target = batcher(sometimes, threads)
        for _ in range(20):  # short runs: they go inline from the second on
            await target.infer(rows(1), ("total",))
        failing = True
        with pytest.raises(ZeroDivisionError):
            await asyncio.wait_for(target.infer(rows(1), ("total",)), 5)
        failing = False
        await asyncio.wait_for(target.infer(rows(1), ("total",)), 5)

    with run_threads(1) as threads:
        asyncio.run(main(threads))


def test_the_loop_stays_alive_during_a_long_run() -> None:
    async def main(threads: RunThreads) -> None:
        model = Model()
        target = batcher(model, threads)
        ask = asyncio.ensure_future(target.infer(rows(1), ("total",)))
        await asyncio.to_thread(model.started.wait, 20)
        for _ in range(10):
            await asyncio.sleep(0)
        assert not ask.done()
        model.gate.set()
        await ask

    with run_threads(1) as threads:
        asyncio.run(main(threads))


@pytest.mark.parametrize(
    ("field_name", "value"), [("max_rows", 0), ("max_queue_delay_s", -1.0), ("max_queue_rows", 0)]
)
def test_impossible_settings_are_refused(field_name: str, value: float) -> None:
    with pytest.raises(ConfigError, match="expected"):
        BatchingConfig(**{field_name: value})  # type: ignore[arg-type]
