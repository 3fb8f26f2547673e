"""Who uses a loaded version: it is closed when the last request has its answer, not before."""

from __future__ import annotations

import asyncio


class Uses:
    """A count of requests in flight, kept on the event loop: ``with uses: ...`` around each.

    Attributes:
        count: how many there are now.
    """

    def __init__(self) -> None:
        self.count = 0
        self._idle = asyncio.Event()
        self._idle.set()

    def __enter__(self) -> None:
        self.count += 1
        self._idle.clear()

    def __exit__(self, *_: object) -> None:
        self.count -= 1
        if not self.count:
            self._idle.set()

    async def ended(self) -> None:
        """Waits until nothing is in flight."""
        await self._idle.wait()
