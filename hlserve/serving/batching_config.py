"""How requests to one model are queued and joined: typed, checked, with defaults that protect."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from hlserve.errors import ConfigError, InvalidRequestError

# Triton's ModelQueuePolicy.TimeoutAction.
TimeoutAction = Literal["REJECT", "DELAY"]
_TIMEOUT_ACTIONS = ("REJECT", "DELAY")
# Each level is a line that is looked at for every run.
_MAX_LEVELS = 64


@dataclass(frozen=True, slots=True)
class QueuePolicy:
    """What waiting may cost a request (Triton's ModelQueuePolicy).

    Attributes:
        timeout_action: REJECT: an error the moment the timeout expires; DELAY: it stays, behind
            every other request of its level.
        default_timeout_s: how long a request may wait; 0: as long as it takes.
        allow_timeout_override: whether a request's own ``timeout`` counts. It can shorten the
            default, never lengthen it. (Triton's default is false: a config.pbtxt that has a
            policy means what it says there.)
        max_queue_size: waiting requests beyond which more are refused; 0: no limit but the rows'
            and the bytes'.
    """

    timeout_action: TimeoutAction = "REJECT"
    default_timeout_s: float = 0.0
    allow_timeout_override: bool = True
    max_queue_size: int = 0

    def __post_init__(self) -> None:
        if self.timeout_action not in _TIMEOUT_ACTIONS:
            raise ConfigError(
                f"timeout action is {self.timeout_action!r}, expected one of {_TIMEOUT_ACTIONS}"
            )
        if self.default_timeout_s < 0:
            raise ConfigError(f"default timeout is {self.default_timeout_s} s, expected 0 or more")
        if self.max_queue_size < 0:
            raise ConfigError(f"max queue size is {self.max_queue_size}, expected 0 or more")

    def timeout_s(self, asked_s: float) -> float:
        """How long a request that asked for so much (0: for nothing) may wait; 0: no limit."""
        if not self.allow_timeout_override or asked_s <= 0:
            return self.default_timeout_s
        return min(asked_s, self.default_timeout_s) if self.default_timeout_s else asked_s


@dataclass(frozen=True, slots=True)
class BatchingConfig:
    """How requests to one model are joined.

    Attributes:
        max_rows: the most rows of one joined run; 1 = join nothing. A single larger request
            runs alone.
        preferred_rows: sizes that end the wait for company. They never make a run smaller: it
            takes what is there, up to ``max_rows``.
        max_queue_delay_s: how long the first row waits for company; 0: until the loop turn ends.
        priority_levels: how many there are, 1 the highest; 0: one line for all, whatever
            a request states.
        default_priority_level: of a request that states none.
        queue_policy: of every level that has none of its own.
        priority_queue_policies: by level.
        max_queue_rows: waiting rows beyond which requests are refused.
        max_queue_bytes: bytes of waiting inputs beyond which requests are refused.
        preserve_ordering: answers leave in the order in which their requests came.
    """

    max_rows: int = 64
    preferred_rows: tuple[int, ...] = ()
    max_queue_delay_s: float = 0.0
    priority_levels: int = 0
    default_priority_level: int = 0
    queue_policy: QueuePolicy = field(default_factory=QueuePolicy)
    priority_queue_policies: Mapping[int, QueuePolicy] = field(default_factory=dict)
    max_queue_rows: int = 4096
    max_queue_bytes: int = 1 << 28
    preserve_ordering: bool = False

    def __post_init__(self) -> None:
        for what, value in (
            ("max batch size", self.max_rows),
            ("max queue rows", self.max_queue_rows),
            ("max queue bytes", self.max_queue_bytes),
        ):
            if value < 1:
                raise ConfigError(f"{what} is {value}, expected at least 1")
        if self.max_queue_delay_s < 0:
            raise ConfigError(f"max queue delay is {self.max_queue_delay_s} s, expected 0 or more")
        for size in self.preferred_rows:
            if not 1 <= size <= self.max_rows:
                raise ConfigError(
                    f"preferred batch size is {size}, expected 1 to {self.max_rows}, the largest"
                )
        self._check_priorities()

    def _check_priorities(self) -> None:
        levels, default = self.priority_levels, self.default_priority_level
        if not 0 <= levels <= _MAX_LEVELS:
            raise ConfigError(f"priority levels is {levels}, expected 0 to {_MAX_LEVELS}")
        if not min(levels, 1) <= default <= levels:
            raise ConfigError(
                f"default priority level is {default}, expected {min(levels, 1)} to {levels}"
            )
        for level in self.priority_queue_policies:
            if not 1 <= level <= levels:
                raise ConfigError(
                    f"a queue policy is given for priority {level}, expected 1 to {levels}"
                )

    def level(self, priority: int) -> int:
        """The level of a request that states so much (0: nothing); without levels, 1.

        Raises:
            InvalidRequestError: there is no such level.
        """
        levels = self.priority_levels
        if priority < 0 or (levels and priority > levels):
            raise InvalidRequestError(
                f"priority is {priority}, expected 0 (the default) to {levels}"
            )
        return (levels and priority) or self.default_priority_level or 1

    def policy(self, level: int) -> QueuePolicy:
        """What holds for a level."""
        return self.priority_queue_policies.get(level, self.queue_policy)

    @property
    def enough_rows(self) -> int:
        """So many joinable rows wait for no more company."""
        return min(self.preferred_rows, default=self.max_rows)
