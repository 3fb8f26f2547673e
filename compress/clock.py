"""The time that a search may take."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, field

from hlserve.errors import ConfigError

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}
_TEXT = re.compile(r"(\d+(?:\.\d+)?)\s*([smh]?)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Clock:
    """Counts down from its making.

    Attributes:
        budget_s: None where there is no end.
    """

    budget_s: float | None = None
    started: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        if self.budget_s is not None and not self.budget_s > 0:
            raise ConfigError(f"the budget is {self.budget_s} s, expected more than 0")

    @property
    def spent_s(self) -> float:
        """Since the start."""
        return time.monotonic() - self.started

    @property
    def left_s(self) -> float:
        """Until the budget is spent; infinite without one, never below 0."""
        return float("inf") if self.budget_s is None else max(0.0, self.budget_s - self.spent_s)


def parse_duration(text: str) -> float:
    """Seconds of ``90``, ``90s``, ``10m`` or ``1.5h``.

    Raises:
        ConfigError: it is none of these, or zero.
    """
    found = _TEXT.fullmatch(text.strip().lower())
    if found is None or float(found[1]) == 0:
        raise ConfigError(f"{text!r} is no duration; write seconds, or 90s, 10m, 1.5h")
    return float(found[1]) * _UNITS[found[2] or "s"]
