"""The server's threads: one budget for the runs of all models."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any

from hlserve.serving.turn import Turn

_LOG = logging.getLogger(__name__)


class Job:
    """Work for a thread, and perhaps one more that the same thread goes on with at once.

    Args:
        work: done in the thread.
        done: called on the loop with the job and what ``work`` gave; None: the threads ended
            before it.
    """

    __slots__ = ("_following", "done", "work")

    def __init__(self, work: Callable[[], Any], done: Callable[[Any, Any], None]) -> None:
        self.work = work
        self.done = done
        self._following: deque[Job] = deque()

    def lay(self, job: Job) -> None:
        """Puts a job behind this one; called on the loop, once."""
        self._following.append(job)

    def take(self) -> Job | None:
        """The job behind this one, which whoever asks first gets: the thread, or the loop."""
        try:
            return self._following.popleft()  # atomic
        except IndexError:
            return None


class RunThreads:
    """A budget of threads, and the executor that has as many.

    A run whose session uses k threads costs k, so that runs of several models together never use
    more than the budget (one that costs more than all of it takes all). Who comes first is served
    first; as a model asks for no more than its instances at once, none starves another. Everything
    but the runs happens on the event loop.

    Args:
        threads: how many.
        turn: of the event loop, where short runs go; None: one of its own.
    """

    def __init__(self, threads: int, turn: Turn | None = None) -> None:
        self.threads = threads
        self.turn = turn or Turn()
        self.executor = ThreadPoolExecutor(threads, thread_name_prefix="hlserve-run")
        self._free = threads
        self._waiting: deque[tuple[int, Callable[[], None]]] = deque()

    @property
    def has_waiting(self) -> bool:
        """Whether somebody waits for threads that others have."""
        return bool(self._waiting)

    def request(self, cost: int, start: Callable[[], None]) -> None:
        """Calls ``start`` once ``cost`` threads are its own, at once where they are free now."""
        self._waiting.append((min(cost, self.threads), start))
        self._grant()

    def release(self, cost: int) -> None:
        """Gives back what ``request`` gave."""
        self._free += min(cost, self.threads)
        self._grant()

    def run(self, loop: asyncio.AbstractEventLoop, job: Job) -> None:
        """Does a job in a thread, then the one that was laid behind it, and so on.

        Each is reported in one step: an asyncio future would take a second turn of a loop that may
        be busy.
        """
        try:
            future = self.executor.submit(_work, loop, job)
        except RuntimeError:  # shut down: the drain took too long
            loop.call_soon(job.done, job, None)
            return
        future.add_done_callback(partial(_tell_if_lost, loop, job))

    def shutdown(self, *, wait: bool) -> None:
        """Ends the threads; what has not begun never will."""
        self.executor.shutdown(wait=wait, cancel_futures=True)

    def _grant(self) -> None:
        while self._waiting and self._waiting[0][0] <= self._free:
            cost, start = self._waiting.popleft()
            self._free -= cost
            start()


def _work(loop: asyncio.AbstractEventLoop, first: Job) -> None:
    job: Job | None = first
    while job is not None:
        try:
            result = job.work()
        except Exception:
            _LOG.exception("a run failed outside of the model")
            _report(loop, job, None)
            return
        following = job.take()  # before the loop hears of it: it asks the same
        _report(loop, job, result)
        job = following


def _report(loop: asyncio.AbstractEventLoop, job: Job, result: Any) -> None:
    with suppress(RuntimeError):  # the loop has ended: nobody waits
        loop.call_soon_threadsafe(job.done, job, result)


def _tell_if_lost(loop: asyncio.AbstractEventLoop, job: Job, future: Future[None]) -> None:
    if future.cancelled():
        _report(loop, job, None)
