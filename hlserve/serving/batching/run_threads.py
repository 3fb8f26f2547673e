"""The server's threads: one budget for the runs of all models."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import TypeVar

_Result = TypeVar("_Result")


class RunThreads:
    """A budget of threads, and the executor that has as many.

    A run whose session uses k threads costs k, so that runs of several models together never use
    more than the budget (one that costs more than all of it takes all). Who comes first is served
    first; as a model asks for no more than its instances at once, none starves another. Everything
    but the runs happens on the event loop.

    Args:
        threads: how many.
    """

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self.executor = ThreadPoolExecutor(threads, thread_name_prefix="hlserve-run")
        self._free = threads
        self._waiting: deque[tuple[int, Callable[[], None]]] = deque()

    def request(self, cost: int, start: Callable[[], None]) -> None:
        """Calls ``start`` once ``cost`` threads are its own, at once where they are free now."""
        self._waiting.append((min(cost, self.threads), start))
        self._grant()

    def release(self, cost: int) -> None:
        """Gives back what ``request`` gave."""
        self._free += min(cost, self.threads)
        self._grant()

    def run(
        self,
        loop: asyncio.AbstractEventLoop,
        work: Callable[[], _Result],
        done: Callable[[_Result | None], None],
    ) -> None:
        """Does ``work`` in a thread, then calls ``done`` on the loop.

        In one step: an asyncio future would take a second turn of a loop that may be busy, and the
        thread would idle meanwhile. ``done`` gets None where the threads ended before the work.
        """
        try:
            future = self.executor.submit(work)
        except RuntimeError:  # shut down: the drain took too long
            loop.call_soon(done, None)
            return
        future.add_done_callback(partial(_report, loop, done))

    def shutdown(self, *, wait: bool) -> None:
        """Ends the threads; what has not begun never will."""
        self.executor.shutdown(wait=wait, cancel_futures=True)

    def _grant(self) -> None:
        while self._waiting and self._waiting[0][0] <= self._free:
            cost, start = self._waiting.popleft()
            self._free -= cost
            start()


def _report(
    loop: asyncio.AbstractEventLoop,
    done: Callable[[_Result | None], None],
    future: Future[_Result],
) -> None:
    is_lost = future.cancelled() or future.exception() is not None
    with suppress(RuntimeError):  # the loop has ended: nobody waits
        loop.call_soon_threadsafe(done, None if is_lost else future.result())
