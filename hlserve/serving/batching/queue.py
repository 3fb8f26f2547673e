"""What waits: levels of priority, first come first served in each, and what may run together."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from hlserve.errors import QueueFullError
from hlserve.serving.batching.pending import Pending
from hlserve.serving.batching_config import BatchingConfig


class Ahead(NamedTuple):
    """What is served before a request of some level that came now."""

    requests: int
    rows: int
    elements: int


class RequestQueue:
    """The waiting requests of one model.

    Args:
        config: levels and limits.
        label: how messages name the model.
    """

    def __init__(self, config: BatchingConfig, label: str) -> None:
        self._config = config
        self._label = label
        # Two lanes a level: those in time, then those that a DELAY policy moved back.
        self._lanes = [_Lane(index) for index in range(2 * max(1, config.priority_levels))]
        policies = (config.queue_policy, *config.priority_queue_policies.values())
        self._max_rows, self._max_bytes = config.max_queue_rows, config.max_queue_bytes
        self._limits_requests = any(policy.max_queue_size for policy in policies)
        self._rows_by_key: dict[object, int] = {}
        self._count = 0
        self._rows = 0
        self._size_bytes = 0

    def __len__(self) -> int:
        return self._count

    def __contains__(self, pending: Pending) -> bool:
        return pending.lane is not None

    def add(self, pending: Pending) -> None:
        """Takes one more.

        Raises:
            QueueFullError: rows, bytes or the requests of its level would exceed their limit.
                Where nothing waits, one request of any size may.
        """
        if self._count and (
            self._limits_requests
            or self._rows + pending.rows > self._max_rows
            or self._size_bytes + pending.size_bytes > self._max_bytes
        ):
            self._check_room(pending)
        self._lanes[2 * pending.level - 2].add(pending)
        self._count += 1
        self._rows += pending.rows
        self._size_bytes += pending.size_bytes
        key = pending.key
        if key is not None:
            self._rows_by_key[key] = self._rows_by_key.get(key, 0) + pending.rows

    def remove(self, pending: Pending) -> None:
        """Lets one go, if it is here."""
        if pending.lane is None:
            return
        self._lanes[pending.lane].remove(pending)
        self._count -= 1
        self._rows -= pending.rows
        self._size_bytes -= pending.size_bytes
        key = pending.key
        if key is not None:
            rows = self._rows_by_key[key] - pending.rows
            if rows:
                self._rows_by_key[key] = rows
            else:  # shapes that come no more must not stay
                del self._rows_by_key[key]
                for lane in self._lanes:
                    lane.forget(key)

    def delay(self, pending: Pending) -> None:
        """Moves one behind all others of its level."""
        if pending.lane is not None:
            self._lanes[pending.lane].remove(pending)
            self._lanes[2 * pending.level - 1].add(pending)

    def ahead(self, level: int) -> Ahead:
        """What waits in this level and the higher ones; the delayed of this level come later."""
        lanes = self._lanes[: 2 * level - 1]
        if len(lanes) == 1:  # nearly always
            return Ahead(lanes[0].count, lanes[0].rows, lanes[0].elements)
        return Ahead(
            requests=sum(lane.count for lane in lanes),
            rows=sum(lane.rows for lane in lanes),
            elements=sum(lane.elements for lane in lanes),
        )

    def rows_like(self, pending: Pending) -> int:
        """The waiting rows that could run together with it, itself included."""
        if pending.key is None:
            return pending.rows
        return self._rows_by_key.get(pending.key, 0)

    def first(self, is_wanted: Callable[[Pending], bool]) -> Pending | None:
        """Whose turn it is; those that nobody wants any more leave."""
        for lane in self._lanes:
            while (pending := lane.first()) is not None:
                if is_wanted(pending):
                    return pending
                self.remove(pending)
        return None

    def take(
        self, first: Pending, is_wanted: Callable[[Pending], bool], sure_s: float = math.inf
    ) -> list[Pending]:
        """``first`` and those that may run with it, in order, up to the most rows of a run.

        Args:
            first: from ``first``.
            is_wanted: asked for each but those whose deadline is ``sure_s`` or later.
            sure_s: on the clock of their deadlines.
        """
        self.remove(first)
        batch, rows = [first], first.rows
        if first.key is None:
            return batch
        for lane in self._lanes:
            while (pending := lane.first_like(first.key)) is not None:
                deadline_s = pending.deadline_s
                wanted = deadline_s is None or deadline_s >= sure_s or is_wanted(pending)
                if wanted and rows + pending.rows > self._config.max_rows:
                    return batch
                self.remove(pending)
                if wanted:
                    batch.append(pending)
                    rows += pending.rows
        return batch

    def _check_room(self, pending: Pending) -> None:
        if self._rows + pending.rows > self._max_rows:
            raise self._full(f"{self._rows} rows wait", pending.rows, self._max_rows)
        if self._size_bytes + pending.size_bytes > self._max_bytes:
            waiting = f"{self._size_bytes} bytes wait"
            raise self._full(waiting, pending.size_bytes, self._max_bytes)
        limit = self._config.policy(pending.level).max_queue_size
        if not limit:
            return
        lanes = self._lanes[2 * pending.level - 2 : 2 * pending.level]
        requests = sum(lane.count for lane in lanes)
        if requests + 1 > limit:
            raise self._full(f"{requests} requests of this priority wait", 1, limit)

    def _full(self, waiting: str, more: int, limit: int) -> QueueFullError:
        return QueueFullError(
            f"{self._label}: {waiting}, {more} more would exceed the queue's {limit}; "
            f"try again later"
        )


class _Lane:
    """One line, with its requests also by what may run together.

    Who leaves from the middle stays in the deques until it comes to the front: its ``lane`` tells.
    """

    __slots__ = ("_by_key", "_index", "_line", "count", "elements", "rows")

    def __init__(self, index: int) -> None:
        self._index = index
        self._line: deque[Pending] = deque()
        self._by_key: dict[object, deque[Pending]] = {}
        self.count = self.rows = self.elements = 0

    def add(self, pending: Pending) -> None:
        pending.lane = self._index
        self.count += 1
        self.rows += pending.rows
        self.elements += pending.elements
        self._line.append(pending)
        if pending.key is not None:
            line = self._by_key.get(pending.key)
            if line is None:
                line = self._by_key[pending.key] = deque()
            line.append(pending)

    def remove(self, pending: Pending) -> None:
        pending.lane = None
        self.count -= 1
        self.rows -= pending.rows
        self.elements -= pending.elements
        if not self.count:  # nothing of those that left may stay
            self._line.clear()

    def forget(self, key: object) -> None:
        """Nobody with this key waits any more."""
        self._by_key.pop(key, None)

    def first(self) -> Pending | None:
        return self._front(self._line)

    def first_like(self, key: object) -> Pending | None:
        line = self._by_key.get(key)
        return None if line is None else self._front(line)

    def _front(self, line: deque[Pending]) -> Pending | None:
        while line:
            if line[0].lane == self._index:
                return line[0]
            line.popleft()
        return None
