"""Many requests over one call: they run at the same time, their answers come in their order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

Request = TypeVar("Request")
Response = TypeVar("Response")


async def answered_in_order(
    requests: AsyncIterator[Request],
    answer: Callable[[Request], Awaitable[Response]],
    *,
    max_in_flight: int,
    max_bytes: int | None = None,
    size_of: Callable[[Request], int] = lambda _: 0,
) -> AsyncGenerator[Response]:
    """The answer to each request, in the order of the requests.

    Requests run at the same time, so that those of one stream can share a batch. While
    ``max_in_flight`` of them, or ``max_bytes``, have no answer that was taken, no more are read:
    the client's own flow control then holds it back. When the caller stops early, what still runs
    is cancelled.

    Args:
        requests: read as far as there is room.
        answer: answers one; what it raises ends the stream.
        max_in_flight: read and not yet taken away.
        max_bytes: of those together, the last of them aside; None: any number.
        size_of: the bytes of one.

    Raises:
        Exception: what ``requests`` raised, after the answers to those before.
    """
    room = _Room(max_in_flight, max_bytes)
    running: asyncio.Queue[tuple[asyncio.Future[Response], int] | None] = asyncio.Queue()
    started: set[asyncio.Future[Response]] = set()

    async def read() -> None:
        try:
            async for request in requests:
                task, size = asyncio.ensure_future(answer(request)), size_of(request)
                started.add(task)
                task.add_done_callback(started.discard)
                running.put_nowait((task, size))
                await room.take(size)
        finally:
            running.put_nowait(None)

    reading = asyncio.ensure_future(read())
    try:
        while (oldest := await running.get()) is not None:
            yield await oldest[0]
            room.give_back(oldest[1])
        await reading
    finally:
        left: list[asyncio.Future[Any]] = [reading, *started]
        for future in left:
            future.cancel()
        await asyncio.gather(*left, return_exceptions=True)


class _Room:
    """How many requests, and bytes of them, there is still room for."""

    def __init__(self, most: int, most_bytes: int | None) -> None:
        self._requests = most
        self._bytes = most_bytes
        self._is_left = asyncio.Event()
        self._is_left.set()

    async def take(self, size: int) -> None:
        """Counts one, then waits until there is room for another."""
        self._add(-1, -size)
        await self._is_left.wait()

    def give_back(self, size: int) -> None:
        """One is done with."""
        self._add(1, size)

    def _add(self, requests: int, size: int) -> None:
        self._requests += requests
        if self._bytes is not None:
            self._bytes += size
        if self._requests > 0 and (self._bytes is None or self._bytes > 0):
            self._is_left.set()
        else:
            self._is_left.clear()
