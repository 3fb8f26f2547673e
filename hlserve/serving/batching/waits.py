"""Waiting too long: the deadlines of requests and the timeouts of the queue."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from hlserve.errors import DeadlineExceededError, QueueTimeoutError
from hlserve.serving.batching.pending import Pending
from hlserve.serving.batching.queue import RequestQueue
from hlserve.serving.batching_config import BatchingConfig

Fail = Callable[[Pending, Exception], None]


class Waits:
    """Ends the requests that waited too long.

    Args:
        config: the policies of the queue.
        queue: what waits.
        label: how messages name the model.
        expired: called with a request whose deadline passed.
        fail: ends a request with an error.
    """

    def __init__(
        self,
        config: BatchingConfig,
        queue: RequestQueue,
        label: str,
        *,
        expired: Callable[[Pending], None],
        fail: Fail,
    ) -> None:
        self._config = config
        self._queue = queue
        self._label = label
        self._expired = expired
        self._fail = fail
        # Who came in this turn of the loop: most are answered in it, and need no timer.
        self._unwatched: list[Pending] = []

    def watch(self, pending: Pending, loop: asyncio.AbstractEventLoop) -> None:
        """Sets its timers."""
        if pending.deadline_s is not None:
            pending.timers += (loop.call_at(pending.deadline_s, self._expired, pending),)
        if pending.timeout_s > 0:
            at_s = pending.arrived_ns / 1e9 + pending.timeout_s
            pending.timers += (loop.call_at(at_s, self._time_out, pending),)

    def watch_soon(self, pending: Pending) -> None:
        """Sets its timers at the end of the turn, if it still waits."""
        self._unwatched.append(pending)

    def watch_rest(self, loop: asyncio.AbstractEventLoop) -> None:
        """The turn ends."""
        if self._unwatched:
            for pending in self._unwatched:
                if not pending.is_done:
                    self.watch(pending, loop)
            self._unwatched.clear()

    def too_late(self) -> DeadlineExceededError:
        """What a request gets whose deadline passed."""
        return DeadlineExceededError(f"{self._label}: the deadline passed before an answer")

    def no_longer_in_time(self, run_s: float, left_s: float) -> DeadlineExceededError:
        """What an admitted request gets that would be answered too late."""
        return DeadlineExceededError(
            f"{self._label}: the request can no longer be answered in time: its run takes about "
            f"{run_s * 1000:.1f} ms, {left_s * 1000:.1f} ms are left"
        )

    def _time_out(self, pending: Pending) -> None:
        if pending.taken_ns or pending.is_done:
            return  # it runs: the timeout is of the queue only
        if self._config.policy(pending.level).timeout_action == "DELAY":
            if pending in self._queue:
                self._queue.delay(pending)
            return
        self._fail(
            pending,
            QueueTimeoutError(
                f"{self._label}: the request waited {pending.timeout_s * 1000:g} ms, its timeout "
                f"in the queue; try again later"
            ),
        )
