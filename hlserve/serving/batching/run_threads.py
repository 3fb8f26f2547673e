"""The server's threads: one budget for the runs of all models."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor


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

    def shutdown(self, *, wait: bool) -> None:
        """Ends the threads; what has not begun never will."""
        self.executor.shutdown(wait=wait, cancel_futures=True)

    def _grant(self) -> None:
        while self._waiting and self._waiting[0][0] <= self._free:
            cost, start = self._waiting.popleft()
            self._free -= cost
            start()
