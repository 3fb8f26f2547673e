"""Laws of the loops: when requests are sent, and from when their latency counts."""

import asyncio
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hlserve.bench.arrivals import send_times
from hlserve.bench.loops import Recorder, closed_loop, open_loop
from hlserve.bench.outcome import ANSWERED, Outcome

STALL_S = 0.2


@given(
    rate=st.floats(1, 5000), seconds=st.floats(0.01, 5), seed=st.integers(0, 2**32), data=st.data()
)
def test_times_ascend_and_stay_inside(
    rate: float, seconds: float, seed: int, data: st.DataObject
) -> None:
    arrivals = data.draw(st.sampled_from(["poisson", "constant"]))
    times = send_times(arrivals, rate, seconds, np.random.default_rng(seed))
    assert (np.diff(times) >= 0).all()
    assert ((times >= 0) & (times <= seconds)).all()
    if arrivals == "constant":
        assert len(times) == round(rate * seconds)
        np.testing.assert_allclose(np.diff(times), 1 / rate, rtol=1e-6)  # sums of float64


def test_poisson_arrivals_have_the_rate_and_the_spread_of_their_law() -> None:
    rng = np.random.default_rng(0)
    times = send_times("poisson", 1000, 100, rng)
    # More than 5 standard deviations, 316 each, come once in a million seeds.
    assert abs(len(times) - 100_000) < 5 * 316
    gaps = np.diff(times)
    # An exponential's standard deviation is its mean; of 1e5 gaps it is known to about 1 %.
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.03)


def test_the_same_seed_gives_the_same_times() -> None:
    one, two = (send_times("poisson", 100, 1, np.random.default_rng(7)) for _ in range(2))
    np.testing.assert_array_equal(one, two)


class Stalling:
    """Answers at once, but nothing before ``STALL_S`` has passed: a server that hangs at first."""

    def __init__(self) -> None:
        self.is_up = asyncio.Event()
        asyncio.get_running_loop().call_later(STALL_S, self.is_up.set)
        self.asked: list[int] = []

    async def __call__(self, number: int) -> str:
        self.asked.append(number)
        await self.is_up.wait()
        return ANSWERED


def test_an_open_loop_sees_everyone_whom_a_stall_kept_waiting() -> None:
    async def go() -> tuple[Outcome, list[int]]:
        recorder = Recorder()
        ask = Stalling()
        await open_loop(ask, recorder, np.arange(40) * 0.01)
        return recorder.outcome(rows=1, offered_rate=100), ask.asked

    outcome, asked = asyncio.run(go())
    assert asked == list(range(40))
    kept = outcome.at_s < STALL_S
    assert kept.sum() == 20
    # Nobody was answered before the stall ended; the recorder began before its clock did.
    assert (outcome.at_s + outcome.latency_s >= STALL_S - 1e-3).all()
    assert outcome.percentile_s(75) >= STALL_S / 4  # a quarter waited half of the stall or more


def test_a_closed_loop_hides_a_stall_from_all_but_its_callers() -> None:
    """Why the open loop is there: of the same stall one request knows."""

    async def go() -> Outcome:
        recorder = Recorder()
        await closed_loop(Stalling(), recorder, callers=1, seconds=2 * STALL_S)
        return recorder.outcome(rows=1)

    outcome = asyncio.run(go())
    assert len(outcome.statuses) > 40
    assert (outcome.latency_s >= STALL_S - 1e-3).sum() == 1
    assert outcome.percentile_s(50) < STALL_S / 4


def test_a_request_that_is_late_counts_from_when_it_was_meant() -> None:
    async def go() -> Outcome:
        recorder = Recorder()
        busy = asyncio.Event()
        asyncio.get_running_loop().call_later(0.05, busy.set)
        await busy.wait()  # the loop begins late

        async def ask(number: int) -> str:
            return ANSWERED

        await open_loop(ask, recorder, np.zeros(3))
        return recorder.outcome(rows=1, offered_rate=1)

    outcome = asyncio.run(go())
    assert (outcome.latency_s >= 0.05 - 1e-3).all()


def test_a_closed_loop_never_has_more_in_flight_than_callers() -> None:
    most = 0

    async def go() -> None:
        in_flight = 0

        async def ask(number: int) -> str:
            nonlocal in_flight, most
            in_flight += 1
            most = max(most, in_flight)
            await asyncio.sleep(0)
            in_flight -= 1
            return ANSWERED

        await closed_loop(ask, Recorder(), callers=3, seconds=0.05)

    asyncio.run(go())
    assert most == 3


def test_a_loop_that_is_cancelled_keeps_what_was_answered() -> None:
    async def go() -> Outcome:
        recorder = Recorder()
        never = asyncio.Event()

        async def ask(number: int) -> str:
            if number:
                await never.wait()
            return ANSWERED

        running = asyncio.ensure_future(open_loop(ask, recorder, np.zeros(5)))
        while not recorder.outcome(rows=1).statuses:
            await asyncio.sleep(0)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        assert len(asyncio.all_tasks()) == 1  # nothing is left behind
        return recorder.outcome(rows=1)

    assert asyncio.run(go()).statuses == (ANSWERED,)


def outcome_of(statuses: list[str], latency_s: Any) -> Outcome:
    latency = np.asarray(latency_s, dtype=np.float64)
    return Outcome(np.zeros(len(latency)), latency, tuple(statuses), seconds=2.0, rows=4)


def test_figures_are_of_the_answered_and_errors_are_counted_by_status() -> None:
    statuses = [ANSWERED] * 4 + ["UNAVAILABLE"] * 2 + ["INTERNAL"]
    outcome = outcome_of(statuses, [1, 2, 3, 4, 0, 0, 99])
    assert outcome.per_second == 2
    assert outcome.percentile_s(50) == 2.5
    assert outcome.percentile_s(100) == 4
    assert outcome.errors == {"UNAVAILABLE": 2, "INTERNAL": 1}
    told = outcome.as_json()
    assert (told["rows_per_second"], told["latency_ms"]["max"]) == (8, 4000)


def test_without_answers_there_is_no_latency() -> None:
    told = outcome_of(["INTERNAL"], [1]).as_json()
    assert set(told["latency_ms"].values()) == {None}
    assert told["per_second"] == 0
