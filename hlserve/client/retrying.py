"""When a call is tried again: plain arithmetic, no clock and no connection of its own."""

from __future__ import annotations

import time
from dataclasses import dataclass
from random import Random

from hlserve.errors import ConfigError

_RETRIED = "UNAVAILABLE"


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Exponential backoff with jitter, for calls that may be repeated and met UNAVAILABLE.

    Attributes:
        attempts: how often a call is sent at most; 1: never again.
        first_backoff_s: the longest wait before the second attempt; it doubles with each.
        largest_backoff_s: no wait is longer.
    """

    attempts: int = 4
    first_backoff_s: float = 0.1
    largest_backoff_s: float = 5.0

    def __post_init__(self) -> None:
        """Checks the values.

        Raises:
            ConfigError: no attempt, or a wait that is none.
        """
        if self.attempts < 1:
            raise ConfigError(f"attempts is {self.attempts}, expected at least 1 (1: no retry)")
        if not 0 < self.first_backoff_s <= self.largest_backoff_s:
            raise ConfigError(
                f"backoff is {self.first_backoff_s} s to {self.largest_backoff_s} s, expected "
                "0 < first <= largest"
            )

    def backoff_s(self, failed: int, rng: Random) -> float:
        """How long to wait after so many failed attempts: jitter takes up to half of it."""
        # Capped before it is raised: 2.0**1100 is an OverflowError.
        longest = self.first_backoff_s * 2.0 ** min(failed - 1, 64)
        return min(longest, self.largest_backoff_s) * rng.uniform(0.5, 1.0)


NO_RETRY = RetryPolicy(attempts=1)


class Attempts:
    """The attempts of one call, under one deadline for all of them.

    Args:
        policy: how often, and how far apart.
        timeout_s: for all attempts and the waits between them; None: no deadline.
        rng: of the jitter.
        is_idempotent: whether the call may be sent twice at all.
    """

    def __init__(
        self, policy: RetryPolicy, timeout_s: float | None, rng: Random, *, is_idempotent: bool
    ) -> None:
        self._policy = policy
        self._rng = rng
        self._left = policy.attempts if is_idempotent else 1
        self._failed = 0
        self._deadline_s = None if timeout_s is None else time.monotonic() + timeout_s

    def remaining_s(self) -> float | None:
        """What the next attempt may take; None: no deadline."""
        if self._deadline_s is None:
            return None
        return max(0.0, self._deadline_s - time.monotonic())

    def pause_s(self, status: str) -> float | None:
        """How long to wait before the next attempt; None: there is none.

        Args:
            status: what the attempt that has just failed ended with.
        """
        self._failed += 1
        self._left -= 1
        if status != _RETRIED or self._left < 1:
            return None
        pause = self._policy.backoff_s(self._failed, self._rng)
        remaining = self.remaining_s()
        return pause if remaining is None or pause < remaining else None
