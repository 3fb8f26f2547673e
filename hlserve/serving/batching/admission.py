"""Whether a request can be answered in time: by what waits before it and what runs took so far.

Work that comes too late is worse than none: at three times the load that a server can bear,
answers that arrive just after their deadlines would be all it gives.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from hlserve.errors import DeadlineExceededError
from hlserve.serving.batching.estimates import INLINE_RUN_S, RunTimes
from hlserve.serving.batching.flights import InFlight
from hlserve.serving.batching.pending import Pending
from hlserve.serving.batching.queue import RequestQueue
from hlserve.serving.batching_config import BatchingConfig

# The answer's way from the loop to the client's hands, and the request's before its deadline was
# read: encoding, two sockets and two event loops, all of them busy under overload. For a short run
# no more than the run: one that was for nothing costs little, and its deadline may be as short.
WAY_BACK_S = 0.002
# Of the time that runs usually stray from their mean.
_DEVIATIONS = 2.0
# Of the time in the queue, at first. It grows with every request that was admitted in vain and
# shrinks with every one that was not, so that in the long run one in _TIMES_IN_TIME is admitted in
# vain, however unevenly the machine runs. Under overload a shorter queue costs no throughput, and
# a refusal at once is worth more than one at the deadline.
_LEAST_MARGIN, _MOST_MARGIN = 0.25, 4.0
_MARGIN_STEP = 0.25
_TIMES_IN_TIME = 500


class Admission:
    """Refuses what would come too late.

    Args:
        config: how much one run takes.
        queue: what waits.
        times: what runs took.
        instances: how many runs may go on at once.
        label: how messages name the model.
    """

    def __init__(
        self,
        config: BatchingConfig,
        queue: RequestQueue,
        times: RunTimes,
        *,
        instances: int,
        label: str,
    ) -> None:
        self._config = config
        self._queue = queue
        self._times = times
        self._instances = instances
        self._label = label
        # One a level: what higher levels do to the lowest must not make those refuse more.
        self._margins = [_LEAST_MARGIN] * (max(1, config.priority_levels) + 1)

    def was_in_vain(self, level: int) -> None:
        """A request was admitted, and its deadline could not be met after all."""
        self._margins[level] = min(_MOST_MARGIN, self._margins[level] + _MARGIN_STEP)

    def was_in_time(self, level: int) -> None:
        """A request was admitted, and answered before its deadline."""
        if self._margins[level] > _LEAST_MARGIN:
            self._margins[level] -= _MARGIN_STEP / _TIMES_IN_TIME

    def check(
        self,
        pending: Pending,
        now_s: float,
        in_flight: Sequence[InFlight] = (),
    ) -> None:
        """Checks a request that comes now.

        Args:
            pending: not in the queue yet.
            now_s: on the clock of its deadline.
            in_flight: the runs in worker threads.

        Raises:
            DeadlineExceededError: it cannot be answered in time.
        """
        if pending.deadline_s is None:
            return
        left_s = pending.deadline_s - now_s
        if not in_flight and self._is_surely_in_time(pending, left_s):
            return
        running_until_s = [run.thread_free_s for run in in_flight]
        if not running_until_s and not len(self._queue):
            wait_s = self.least_s(pending.elements)
        else:
            wait_s = self._wait_s(pending, now_s, running_until_s)
        if wait_s <= left_s:
            return
        if not running_until_s:
            self._times.relax()
        rows = self._queue.ahead(pending.level).rows + sum(run.rows_behind for run in in_flight)
        raise DeadlineExceededError(
            f"{self._label}: the request cannot be answered in time: "
            f"{rows} rows wait, about {wait_s * 1000:.1f} ms, "
            f"{max(0.0, left_s) * 1000:.1f} ms left"
        )

    def _is_surely_in_time(self, pending: Pending, left_s: float) -> bool:
        """Whether there is time even if all that waits ran one by one, as long as any run does."""
        queue_s = (len(self._queue) + 1) * self._times.longest_s
        return (1 + self._margins[pending.level]) * queue_s + WAY_BACK_S < left_s

    def least_s(self, elements: int) -> float:
        """What an answer takes from the beginning of its run, unless things go worse than usual."""
        run = self._times.expected(elements)
        if not run.mean_s:
            return 0.0
        least_s = run.mean_s + _DEVIATIONS * run.deviation_s + min(WAY_BACK_S, run.mean_s)
        return least_s if run.mean_s <= INLINE_RUN_S else least_s + self._times.overhead_s

    def _wait_s(self, pending: Pending, now_s: float, running_until_s: Sequence[float]) -> float:
        ahead = self._queue.ahead(pending.level)
        if pending.key is None:
            runs, elements = ahead.requests, ahead.elements // max(1, ahead.requests)
            if self._config.max_rows > 1:  # the others may be joined: the least that it can be
                runs = min(runs, ahead.rows // self._config.max_rows)
            own_elements = pending.elements
        else:
            runs, rest = divmod(ahead.rows + pending.rows - 1, self._config.max_rows)
            per_row = (ahead.elements + pending.elements) / (ahead.rows + pending.rows)
            elements = int(per_row * self._config.max_rows)
            if runs > ahead.requests:  # one larger than a run goes alone, and as one
                runs, elements = ahead.requests, ahead.elements // ahead.requests
            own_elements = int(per_row * (rest + 1))
        own = self._times.expected(own_elements)
        if not own.mean_s:
            return 0.0  # nothing is known yet
        full = self._times.expected(elements)
        rounds = runs // self._instances
        queue_s = rounds * (full.mean_s + self._times.overhead_s)
        queue_s += _DEVIATIONS * full.deviation_s * math.sqrt(rounds)
        if len(running_until_s) >= self._instances:
            queue_s += max(0.0, min(running_until_s) - now_s)
        return (1 + self._margins[pending.level]) * queue_s + self.least_s(own_elements)
