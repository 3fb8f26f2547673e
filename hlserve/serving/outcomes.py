"""Between callbacks and coroutines: what is delivered later, waited for now."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import TypeVar

Result = TypeVar("Result")
Handle = TypeVar("Handle")


async def waited_for(
    begin: Callable[[Callable[[Result | Exception], None]], Handle],
    cancel: Callable[[Handle], None],
) -> Result:
    """What is delivered to the callback that ``begin`` gets; an error is raised.

    Args:
        begin: begins the work; raises where it cannot.
        cancel: called with what ``begin`` gave, where the waiting task is cancelled.
    """
    future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
    handle = begin(partial(_settle, future))
    try:
        return await future
    except asyncio.CancelledError:
        cancel(handle)
        raise
    finally:
        del future, handle  # an error knows this frame: no cycle is left for the collector


def _settle(future: asyncio.Future[Result], outcome: Result | Exception) -> None:
    if future.done():
        return  # its task was cancelled
    if isinstance(outcome, Exception):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)
