"""What waits: levels of priority, first come first served in each, and what may run together."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from hlserve.errors import QueueFullError
from hlserve.serving.batching.pending import Pending
from hlserve.serving.batching_config import BatchingConfig

# Ordered dictionaries: the first is found, and any one leaves, in O(1).
_Line = OrderedDict[Pending, None]


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
        self._lanes = [_Lane() for _ in range(2 * max(1, config.priority_levels))]
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
        if self._count:
            self._check_room(pending)
        self._stand_in(2 * pending.level - 2, pending)
        self._count += 1
        self._rows += pending.rows
        self._size_bytes += pending.size_bytes
        if pending.key is not None:
            self._rows_by_key[pending.key] = self._rows_by_key.get(pending.key, 0) + pending.rows

    def remove(self, pending: Pending) -> None:
        """Lets one go, if it is here."""
        if pending.lane is None:
            return
        self._lanes[pending.lane].remove(pending)
        self._count -= 1
        self._rows -= pending.rows
        self._size_bytes -= pending.size_bytes
        if pending.key is not None:
            rows = self._rows_by_key[pending.key] - pending.rows
            if rows:
                self._rows_by_key[pending.key] = rows
            else:  # shapes that come no more must not stay
                del self._rows_by_key[pending.key]

    def delay(self, pending: Pending) -> None:
        """Moves one behind all others of its level."""
        if pending.lane is not None:
            self._lanes[pending.lane].remove(pending)
            self._stand_in(2 * pending.level - 1, pending)

    def ahead(self, level: int) -> Ahead:
        """What waits in this level and the higher ones; the delayed of this level come later."""
        if level == 1:  # nearly always
            lane = self._lanes[0]
            return Ahead(len(lane.line), lane.rows, lane.elements)
        lanes = self._lanes[: 2 * level - 1]
        return Ahead(
            requests=sum(len(lane.line) for lane in lanes),
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
            while lane.line:
                pending = next(iter(lane.line))
                if is_wanted(pending):
                    return pending
                self.remove(pending)
        return None

    def take(self, first: Pending, is_wanted: Callable[[Pending], bool]) -> list[Pending]:
        """``first`` and those that may run with it, in order, up to the most rows of a run."""
        self.remove(first)
        batch, rows = [first], first.rows
        if first.key is None:
            return batch
        for lane in self._lanes:
            line = lane.by_key.get(first.key)
            while line:
                pending = next(iter(line))
                wanted = is_wanted(pending)
                if wanted and rows + pending.rows > self._config.max_rows:
                    return batch
                self.remove(pending)
                if wanted:
                    batch.append(pending)
                    rows += pending.rows
        return batch

    def _stand_in(self, lane: int, pending: Pending) -> None:
        pending.lane = lane
        self._lanes[lane].add(pending)

    def _check_room(self, pending: Pending) -> None:
        if self._rows + pending.rows > self._config.max_queue_rows:
            waiting = f"{self._rows} rows wait"
            raise self._full(waiting, pending.rows, self._config.max_queue_rows)
        if self._size_bytes + pending.size_bytes > self._config.max_queue_bytes:
            waiting = f"{self._size_bytes} bytes wait"
            raise self._full(waiting, pending.size_bytes, self._config.max_queue_bytes)
        limit = self._config.policy(pending.level).max_queue_size
        if not limit:
            return
        lanes = self._lanes[2 * pending.level - 2 : 2 * pending.level]
        requests = sum(len(lane.line) for lane in lanes)
        if requests + 1 > limit:
            raise self._full(f"{requests} requests of this priority wait", 1, limit)

    def _full(self, waiting: str, more: int, limit: int) -> QueueFullError:
        return QueueFullError(
            f"{self._label}: {waiting}, {more} more would exceed the queue's {limit}; "
            f"try again later"
        )


@dataclass(eq=False, slots=True)
class _Lane:
    """One line, with its requests also by what may run together."""

    line: _Line = field(default_factory=OrderedDict)
    by_key: dict[object, _Line] = field(default_factory=dict)
    rows: int = 0
    elements: int = 0

    def add(self, pending: Pending) -> None:
        self.line[pending] = None
        self.rows += pending.rows
        self.elements += pending.elements
        if pending.key is not None:
            line = self.by_key.get(pending.key)
            if line is None:
                line = self.by_key[pending.key] = OrderedDict()
            line[pending] = None

    def remove(self, pending: Pending) -> None:
        pending.lane = None
        del self.line[pending]
        self.rows -= pending.rows
        self.elements -= pending.elements
        if pending.key is None:
            return
        line = self.by_key[pending.key]
        del line[pending]
        if not line:  # shapes that come no more must not stay
            del self.by_key[pending.key]
