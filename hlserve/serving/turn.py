"""What is put off to the end of a turn of the event loop: runs first, then what they have to say.

All that came in one poll of the sockets makes one batch, and its answers leave in the same turn: a
callback of its own for each would take the loop around twice more, each time over a poll.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

_LOG = logging.getLogger(__name__)


class Turn:
    """The end of the turn; one for all models and connections of a server."""

    def __init__(self) -> None:
        self._runs: list[Callable[[], None]] = []
        self._flushes: list[Callable[[], None]] = []
        self._handle: asyncio.Handle | None = None
        self._is_ending = False

    def run_later(self, loop: asyncio.AbstractEventLoop, run: Callable[[], None]) -> None:
        """Calls ``run`` when the turn ends; of one that ends already, when the next one does."""
        self._runs.append(run)
        if self._handle is None:
            self._handle = loop.call_soon(self._end)

    def flush_later(self, loop: asyncio.AbstractEventLoop, flush: Callable[[], None]) -> None:
        """Calls ``flush`` when the turn ends, after all runs of it."""
        self._flushes.append(flush)
        if self._handle is None and not self._is_ending:
            self._handle = loop.call_soon(self._end)

    def end_now(self) -> None:
        """Ends the turn at once: nothing else can come in it."""
        if self._handle is not None:
            self._handle.cancel()
            self._end()

    def _end(self) -> None:
        self._handle = None
        self._is_ending = True
        runs, self._runs = self._runs, []
        try:
            _call(runs)
        finally:
            self._is_ending = False
        flushes, self._flushes = self._flushes, []
        _call(flushes)


def _call(callbacks: list[Callable[[], None]]) -> None:
    for callback in callbacks:
        try:
            callback()
        except Exception:  # a fault of one must not hold up the others
            _LOG.exception("at the end of a turn")
