"""A call that begins at once and needs no task of asyncio: ModelInfer's way, thousands a second."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any


class EagerCall:
    """Runs a coroutine until it waits for a future, and goes on when that is done.

    There is no current task while it runs, so nothing in it may use ``asyncio.timeout`` or a task
    group; it may wait for futures of the running loop only.

    Args:
        coroutine: handles its errors itself; only a cancellation may come out of it.
    """

    __slots__ = ("_coroutine", "_waits_for")

    def __init__(self, coroutine: Coroutine[Any, None, None]) -> None:
        self._coroutine = coroutine
        self._waits_for: asyncio.Future[Any] | None = None
        self._step(None)

    def cancel(self) -> None:
        """Cancels what it waits for; the coroutine hears of it at the loop's next turn."""
        if self._waits_for is not None:
            self._waits_for.cancel()

    def _step(self, _done: asyncio.Future[Any] | None) -> None:
        self._waits_for = None
        try:
            future = self._coroutine.send(None)
        except (StopIteration, asyncio.CancelledError):
            return
        # As a task does: tells the future that somebody takes it who knows the protocol.
        future._asyncio_future_blocking = False
        future.add_done_callback(self._step)
        self._waits_for = future
