"""Learning-rate schedules: what part of the learning rate a step uses."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol, final

from hlserve.errors import ConfigError


class Schedule(Protocol):
    """What part of the optimizer's learning rate each step uses."""

    def __call__(self, step: int, n_steps: int) -> float:
        """The factor for step 0 <= ``step`` < ``n_steps``."""


@final
@dataclass(frozen=True, slots=True)
class Constant:
    """The whole learning rate in every step."""

    def __call__(self, step: int, n_steps: int) -> float:
        """See Schedule."""
        return 1.0


@final
@dataclass(frozen=True, slots=True)
class Cosine:
    """Half a cosine from 1 down to ``floor``, after a linear rise over the first steps.

    Source: Loshchilov & Hutter 2017, arXiv:1608.03983, equation 5, without restarts.

    Attributes:
        warm_up: part of all steps that the rise takes, 0 to 1.
        floor: what is left at the end, 0 to 1.
    """

    warm_up: float = 0.0
    floor: float = 0.0

    def __post_init__(self) -> None:
        for name, value in (("warm_up", self.warm_up), ("floor", self.floor)):
            if not 0.0 <= value <= 1.0:
                raise ConfigError(f"Cosine: {name} is {value}, expected 0 to 1")

    def __call__(self, step: int, n_steps: int) -> float:
        """See Schedule."""
        rise = round(self.warm_up * n_steps)
        if step < rise:
            return (step + 1) / rise
        progress = (step - rise) / max(1, n_steps - rise)
        return self.floor + (1.0 - self.floor) * 0.5 * (1.0 + math.cos(math.pi * progress))
