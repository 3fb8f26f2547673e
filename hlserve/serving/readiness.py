"""Tells those who watch whether the server takes requests, now and at every change."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable

from hlserve.errors import ShuttingDownError


class Readiness:
    """Used on the event loop only.

    Args:
        is_ready: whether the server takes requests.
    """

    def __init__(self, is_ready: Callable[[], bool]) -> None:
        self._is_ready = is_ready
        self._changed = asyncio.Event()
        self._is_closed = False

    def changed(self) -> None:
        """What is ready may be another now."""
        self._changed.set()
        self._changed = asyncio.Event()

    def close(self) -> None:
        """Ends every watch, after its last state was told."""
        self._is_closed = True
        self.changed()

    async def watch(self, *, is_known: bool = True) -> AsyncGenerator[bool | None]:
        """Whether requests are taken, now and at every change.

        Args:
            is_known: False: of something that is not there, told once as None.

        Raises:
            ShuttingDownError: the server ends.
        """
        told: list[bool | None] = []
        while True:
            changed = self._changed
            state = self._is_ready() if is_known else None
            if told != [state]:
                yield state
                told = [state]
                continue  # it may have changed while that was sent
            if self._is_closed:
                raise ShuttingDownError("the server is shutting down")
            await changed.wait()
