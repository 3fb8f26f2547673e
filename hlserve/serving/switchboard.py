"""The supervisor's side of its channels: one call run in every process, one at a time.

A call with the scope ``every`` takes effect in all processes before its answer, and is noted for
those that start later. Where it fails in some and not in others, its caller is told so, and the
processes where it failed are replaced by new ones, which catch up from the notes. So are those that
do not answer, lest they hold up every later call.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any

from hlserve.errors import UnavailableError
from hlserve.rpcs import by_path
from hlserve.serving.control import (
    Answered,
    Ask,
    Control,
    Failed,
    Listening,
    Loaded,
    Outcome,
    Outcomes,
    Run,
    Settings,
)
from hlserve.serving.journal import Journal

_LOG = logging.getLogger(__name__)


# A large model may take minutes to load; a process that takes longer than this hangs.
HUNG_S = 600.0
# Counts are read at once; less than a scrape of the metrics waits.
LATE_S = 3.0


class Switchboard:
    """Connects the processes.

    Args:
        hung_s: a process that does not answer a call for so long is replaced.
        sleep: waits for seconds.
    """

    def __init__(
        self, hung_s: float = HUNG_S, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    ) -> None:
        self._hung_s = hung_s
        self._sleep = sleep
        self._lines: list[_Line] = []
        self._journal = Journal()
        self._one_at_a_time = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()

    async def connect(
        self,
        control: Control,
        *,
        on_listening: Callable[[], None],
        on_out_of_step: Callable[[], None],
    ) -> None:
        """Serves one process until its end of the channel closes.

        Args:
            control: the channel.
            on_listening: it takes traffic.
            on_out_of_step: a call took effect elsewhere and failed in it, or it hangs: it must be
                replaced, and runs no further call.
        """
        line = _Line(control, on_out_of_step)
        try:
            while (message := await control.receive()) is not None:
                if isinstance(message, Loaded):
                    self._start(self._admit(line))
                elif isinstance(message, Listening):
                    on_listening()
                elif isinstance(message, Ask):
                    self._start(self._answer(line, message))
                elif isinstance(message, Answered | Failed):
                    line.resolve(message)
        finally:
            if line in self._lines:
                self._lines.remove(line)
            line.close()

    async def gather(self, path: str, request: bytes) -> list[Outcome]:
        """What processes answer to a call; those that end meanwhile or are late are left out."""
        lines = tuple(self._lines)
        outcomes, late = await self._run_in(lines, path, request, LATE_S)
        if late:
            _LOG.warning("%s: no answer of %d processes within %g s", path, len(late), LATE_S)
        return [
            outcome
            for line, outcome in zip(lines, outcomes, strict=True)
            if outcome is not None and line not in late
        ]

    async def _admit(self, line: _Line) -> None:
        async with self._one_at_a_time:  # no call between the notes and the first of its own
            line.control.send(Settings(self._journal.calls))
            self._lines.append(line)

    async def _answer(self, line: _Line, ask: Ask) -> None:
        if by_path(ask.path).scope != "every":
            outcomes = await self.gather(ask.path, ask.request)
        else:
            async with self._one_at_a_time:
                outcomes = await self._everywhere(ask)
        line.control.send(Outcomes(ask.number, outcomes))

    async def _everywhere(self, ask: Ask) -> list[Outcome]:
        lines = tuple(self._lines)
        outcomes, hung = await self._run_in(lines, ask.path, ask.request, self._hung_s)
        if any(isinstance(outcome, Answered) for outcome in outcomes):
            self._journal.add(ask.path, ask.request)
            for line, outcome in zip(lines, outcomes, strict=True):
                if isinstance(outcome, Failed) and line not in hung:
                    _LOG.error("%s failed in one process of several, which is replaced", ask.path)
                    self._replace(line)
        for line in hung:
            _LOG.error("%s: a process hangs, and is replaced", ask.path)
            self._replace(line)
        return [outcome for outcome in outcomes if outcome is not None]

    async def _run_in(
        self, lines: Sequence[_Line], path: str, request: bytes, limit_s: float
    ) -> tuple[list[Outcome | None], list[_Line]]:
        """What came of a call in each process, and which of them did not answer in time."""
        running = [asyncio.create_task(line.run(path, request)) for line in lines]
        expiring = asyncio.ensure_future(self._sleep(limit_s))
        answering = asyncio.gather(*running, return_exceptions=True)
        try:
            await asyncio.wait((answering, expiring), return_when=asyncio.FIRST_COMPLETED)
            late = [line for line, task in zip(lines, running, strict=True) if not task.done()]
            words = f"a process did not answer within {limit_s:g} s, and is being replaced"
            failed = Failed(0, UnavailableError.__name__, words)
            return [task.result() if task.done() else failed for task in running], late
        finally:
            for waiting in (expiring, *running):
                waiting.cancel()

    def _replace(self, line: _Line) -> None:
        if line in self._lines:
            self._lines.remove(line)
        line.on_out_of_step()

    def _start(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)  # the loop itself holds tasks weakly only
        task.add_done_callback(self._tasks.discard)


# ----- below


class _Line:
    """One process's channel, and the calls that it runs."""

    def __init__(self, control: Control, on_out_of_step: Callable[[], None]) -> None:
        self.control = control
        self.on_out_of_step = on_out_of_step
        self._numbers = itertools.count()
        self._running: dict[int, asyncio.Future[Outcome | None]] = {}
        self._is_closed = False

    async def run(self, path: str, request: bytes) -> Outcome | None:
        """What came of a call; None: the process ended first."""
        if self._is_closed:
            return None
        number = next(self._numbers)
        future: asyncio.Future[Outcome | None] = asyncio.get_running_loop().create_future()
        self._running[number] = future
        self.control.send(Run(number, path, request))
        try:
            return await future
        finally:
            self._running.pop(number, None)

    def resolve(self, outcome: Outcome) -> None:
        """Takes an outcome; one that nobody waits for any more is dropped."""
        future = self._running.get(outcome.number)
        if future is not None and not future.done():
            future.set_result(outcome)

    def close(self) -> None:
        self._is_closed = True
        self.control.close()
        for future in self._running.values():
            if not future.done():
                future.set_result(None)
