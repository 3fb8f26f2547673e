"""A call that is given up at its deadline."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from hlserve.errors import DeadlineExceededError

Answer = TypeVar("Answer")


async def in_time(call: Awaitable[Answer], deadline_s: float | None) -> Answer:
    """What the call gives before its deadline, on the event loop's clock.

    Raises:
        DeadlineExceededError: the deadline passed; the call was cancelled.
    """
    timeout = asyncio.timeout_at(deadline_s)
    try:
        async with timeout:
            return await call
    except TimeoutError as error:
        if not timeout.expired():
            raise
        raise DeadlineExceededError("the deadline passed before an answer") from error
