"""Closed and open loops over any asynchronous question; what they ask does not matter here."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hlserve.bench.outcome import Outcome

Array = NDArray[Any]

# The number of a request -> how it ended: ``OK`` or an error's status.
Ask = Callable[[int], Awaitable[str]]


class Recorder:
    """Notes when each request was meant to be sent and when it ended."""

    def __init__(self) -> None:
        self._started_s = time.perf_counter()
        self._at_s: list[float] = []
        self._latency_s: list[float] = []
        self._statuses: list[str] = []

    def now_s(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self._started_s

    def ended(self, at_s: float, status: str) -> None:
        """Notes one request that has just ended; it was meant to be sent at ``at_s``."""
        self._at_s.append(at_s)
        self._latency_s.append(self.now_s() - at_s)
        self._statuses.append(status)

    def outcome(self, rows: int, offered_rate: float | None = None) -> Outcome:
        """All of it."""
        return Outcome(
            at_s=np.array(self._at_s),
            latency_s=np.array(self._latency_s),
            statuses=tuple(self._statuses),
            seconds=self.now_s(),
            rows=rows,
            offered_rate=offered_rate,
        )


async def closed_loop(ask: Ask, recorder: Recorder, *, callers: int, seconds: float) -> None:
    """Lets ``callers`` ask, each its next question when it has the last answer.

    Args:
        ask: one question.
        recorder: takes the answers.
        callers: how many requests are in flight at most.
        seconds: after which no question is asked; those in flight are waited for.
    """

    async def call(number: int) -> None:
        turn = number
        while (at_s := recorder.now_s()) < seconds:
            recorder.ended(at_s, await ask(turn))
            turn += callers

    await asyncio.gather(*(call(number) for number in range(callers)))


async def open_loop(ask: Ask, recorder: Recorder, times_s: Array) -> None:
    """Asks at the given times, however many answers are still missing.

    A question that cannot be sent in time (this process is busy) is sent as soon as it can be;
    its latency still counts from when it was meant to be sent. Cancelled, it cancels what is in
    flight.

    Args:
        ask: one question.
        recorder: takes the answers.
        times_s: when each is meant to be asked, from the recorder's start, ascending.
    """

    async def send(number: int, at_s: float) -> None:
        recorder.ended(at_s, await ask(number))

    async with asyncio.TaskGroup() as in_flight:
        for number, at_s in enumerate(times_s.tolist()):
            # Even where the time has passed, answers get their turn.
            await asyncio.sleep(max(0.0, at_s - recorder.now_s()))
            in_flight.create_task(send(number, at_s))
