"""A whole measurement: a warm-up, then a closed loop, an open one, or a sweep of rates."""

from __future__ import annotations

import asyncio
import dataclasses
import signal
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from hlserve.bench.arrivals import Arrivals, send_times
from hlserve.bench.asking import Asker
from hlserve.bench.load import process_cpu_s
from hlserve.bench.loops import Recorder, closed_loop, open_loop
from hlserve.bench.outcome import Outcome

_WARM_UP_S = 0.3
_PROGRESS_STEP_S = 0.1

# (seconds passed, seconds in all) of the run that is being measured.
Progress = Callable[[float, float], None]


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured.

    Attributes:
        seconds: of each run.
        rows: of a request.
        callers: of the closed loop.
        rates: requests a second of open loops, one run each; empty: a closed loop.
        arrivals: of the open loops.
        seed: of their times.
        server_pid: the server's process on this machine, for its processor time.
    """

    seconds: float
    rows: int = 1
    callers: int = 8
    rates: Sequence[float] = ()
    arrivals: Arrivals = "poisson"
    seed: int = 0
    server_pid: int | None = None


async def measure(
    asker: Asker, plan: Plan, *, on_progress: Progress | None = None
) -> list[Outcome]:
    """Runs the plan; SIGINT ends it, and what was measured until then is given.

    Args:
        asker: the server, its connections open.
        plan: what is measured.
        on_progress: told now and then.

    Raises:
        ServerError: the very first request fails already.
    """
    await asker.check()
    await closed_loop(asker, Recorder(), callers=plan.callers, seconds=_WARM_UP_S)
    rng = np.random.default_rng(plan.seed)
    outcomes: list[Outcome] = []
    with _stopping_on_sigint() as stopping:
        for rate in plan.rates or (None,):
            if stopping.is_set():
                break
            outcomes.append(await _run(asker, plan, rate, rng, stopping, on_progress))
    return outcomes


# ----- below


async def _run(
    asker: Asker,
    plan: Plan,
    rate: float | None,
    rng: np.random.Generator,
    stopping: asyncio.Event,
    on_progress: Progress | None,
) -> Outcome:
    times_s = None if rate is None else send_times(plan.arrivals, rate, plan.seconds, rng)
    cpu_s = process_cpu_s(plan.server_pid)
    recorder = Recorder()
    loop = (
        closed_loop(asker, recorder, callers=plan.callers, seconds=plan.seconds)
        if times_s is None
        else open_loop(asker, recorder, times_s)
    )
    await _until_stopped(loop, recorder, plan.seconds, stopping, on_progress)
    spent_s = process_cpu_s(plan.server_pid)
    used_s = None if cpu_s is None or spent_s is None else spent_s - cpu_s
    return dataclasses.replace(recorder.outcome(plan.rows, rate), server_cpu_s=used_s)


async def _until_stopped(
    loop: Coroutine[Any, Any, None],
    recorder: Recorder,
    seconds: float,
    stopping: asyncio.Event,
    on_progress: Progress | None,
) -> None:
    running = asyncio.ensure_future(loop)
    stopped = asyncio.ensure_future(stopping.wait())
    while not running.done() and not stopped.done():
        await asyncio.wait(
            (running, stopped), timeout=_PROGRESS_STEP_S, return_when=asyncio.FIRST_COMPLETED
        )
        if on_progress is not None:
            on_progress(min(recorder.now_s(), seconds), seconds)
    stopped.cancel()
    if not running.done():
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
    else:
        running.result()


@contextmanager
def _stopping_on_sigint() -> Iterator[asyncio.Event]:
    """An event that Ctrl-C sets; off the main thread there are no signals."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    try:
        loop.add_signal_handler(signal.SIGINT, stopping.set)
    except (ValueError, RuntimeError):
        yield stopping
        return
    try:
        yield stopping
    finally:
        loop.remove_signal_handler(signal.SIGINT)
