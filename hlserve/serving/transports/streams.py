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
) -> AsyncGenerator[Response]:
    """The answer to each request, in the order of the requests.

    Requests run at the same time, so that those of one stream can share a batch. While
    ``max_in_flight`` of them have no answer that was taken, no more are read: the client's own
    flow control then holds it back. When the caller stops early, what still runs is cancelled.

    Args:
        requests: read as far as there is room.
        answer: answers one; what it raises ends the stream.
        max_in_flight: read and not yet taken away.

    Raises:
        Exception: what ``requests`` raised, after the answers to those before.
    """
    room = asyncio.Semaphore(max_in_flight)
    running: asyncio.Queue[asyncio.Future[Response] | None] = asyncio.Queue()
    started: set[asyncio.Future[Response]] = set()

    async def read() -> None:
        try:
            await room.acquire()
            async for request in requests:
                task = asyncio.ensure_future(answer(request))
                started.add(task)
                task.add_done_callback(started.discard)
                running.put_nowait(task)
                await room.acquire()
        finally:
            running.put_nowait(None)

    reading = asyncio.ensure_future(read())
    try:
        while (task := await running.get()) is not None:
            yield await task
            room.release()
        await reading
    finally:
        left: list[asyncio.Future[Any]] = [reading, *started]
        for future in left:
            future.cancel()
        await asyncio.gather(*left, return_exceptions=True)
