"""A process of several that serve one port: its side of the channel to the supervisor."""

from __future__ import annotations

import asyncio
import itertools
import logging
import socket
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from hlserve.errors import HlserveError, UnavailableError
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

# path, request -> response
RunHere = Callable[[str, bytes], Awaitable[bytes]]

_LOG = logging.getLogger(__name__)


class Worker:
    """Asks for calls in every process, and runs those that others ask for.

    Args:
        control: the channel.
    """

    def __init__(self, control: Control) -> None:
        self._control = control
        self._numbers = itertools.count()
        self._asked: dict[int, asyncio.Future[list[Outcome]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._supervisor_gone = asyncio.Event()

    @classmethod
    async def connect(cls, descriptor: int) -> Worker:
        """The worker at the end of an inherited socket."""
        channel = socket.socket(fileno=descriptor)
        return cls(Control(*await asyncio.open_unix_connection(sock=channel)))

    async def supervisor_gone(self) -> None:
        """Waits until the supervisor is gone; a worker does not outlive it."""
        await self._supervisor_gone.wait()

    async def ask_all(self, path: str, request: bytes) -> list[Outcome]:
        """What came of a call in every process, this one among them.

        Raises:
            UnavailableError: the supervisor is gone.
        """
        number = next(self._numbers)
        future: asyncio.Future[list[Outcome]] = asyncio.get_running_loop().create_future()
        self._asked[number] = future
        try:
            if self._supervisor_gone.is_set():
                raise UnavailableError("the server is shutting down: its supervisor is gone")
            self._control.send(Ask(number, path, request))
            return await future
        finally:
            del self._asked[number]

    async def catch_up(self, run_here: RunHere) -> None:
        """Runs the calls in effect, and from here on those that are asked for.

        Raises:
            UnavailableError: the supervisor is gone.
        """
        self._control.send(Loaded())
        message = await self._control.receive()
        if not isinstance(message, Settings):
            self._supervisor_gone.set()
            raise UnavailableError("the supervisor ended while this process started")
        for path, request in message.calls:
            outcome = await _outcome(run_here, Run(0, path, request))
            if isinstance(outcome, Failed):
                _LOG.error("%s took effect before, and fails now: %s", path, outcome.details)
        self._start(self._listen_to_supervisor(run_here))

    def listening(self) -> None:
        """Tells the supervisor that traffic is taken."""
        self._control.send(Listening())

    async def _listen_to_supervisor(self, run_here: RunHere) -> None:
        while (message := await self._control.receive()) is not None:
            if isinstance(message, Run):
                self._start(self._run(run_here, message))
            elif isinstance(message, Outcomes) and message.number in self._asked:
                future = self._asked[message.number]
                if not future.done():  # cancelled with its caller
                    future.set_result(message.outcomes)
        self._supervisor_gone.set()
        for future in self._asked.values():
            if not future.done():
                future.set_exception(UnavailableError("the supervisor is gone"))

    async def _run(self, run_here: RunHere, run: Run) -> None:
        self._control.send(await _outcome(run_here, run))

    def _start(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)  # the loop itself holds tasks weakly only
        task.add_done_callback(self._tasks.discard)


async def _outcome(run_here: RunHere, run: Run) -> Outcome:
    try:
        return Answered(run.number, await run_here(run.path, run.request))
    except HlserveError as error:
        return Failed(run.number, type(error).__name__, str(error))
    except Exception:
        _LOG.exception("%s failed", run.path)
        return Failed(run.number, "HlserveError", "internal error; the server's log says more")
