"""Who uses a loaded version: it is closed when the last request has its answer, not before."""

from __future__ import annotations

import asyncio


class Uses:
    """A count of requests in flight, kept on the event loop: ``with uses: ...`` around each.

    Attributes:
        count: how many there are now.
    """

    __slots__ = ("_waiting", "count")

    def __init__(self) -> None:
        self.count = 0
        self._waiting: list[asyncio.Future[None]] = []

    def begin(self) -> None:
        """One more."""
        self.count += 1

    def end(self) -> None:
        """One less."""
        self.count -= 1
        if self._waiting and not self.count:
            for future in self._waiting:
                if not future.done():
                    future.set_result(None)
            self._waiting.clear()

    def __enter__(self) -> None:
        self.begin()

    def __exit__(self, *_: object) -> None:
        self.end()

    async def ended(self) -> None:
        """Waits until nothing is in flight."""
        while self.count:
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(future)
            await future
