"""What is asked of a result."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from hlserve.errors import ConfigError

Minimize = Literal["latency", "bytes", "macs"]


@dataclass(frozen=True, slots=True)
class Goal:
    """What is asked of the result.

    Attributes:
        max_drop: in the metric's own unit.
        minimize: ``latency``, over all batch sizes; ``macs``, the multiply-accumulates of a row;
            or ``bytes`` of the file, for which alone a slower model may be handed back.
        batches: rows a run to measure at.
        require_proof: whether the drop's upper bound, not its estimate, must keep the bound.
    """

    max_drop: float
    minimize: Minimize = "latency"
    batches: tuple[int, ...] = (1, 32)
    require_proof: bool = False

    def __post_init__(self) -> None:
        if not (math.isfinite(self.max_drop) and self.max_drop >= 0):
            raise ConfigError(f"max_drop is {self.max_drop}, expected a number from 0")
        if self.minimize not in get_args(Minimize):
            raise ConfigError(
                f"minimize is {self.minimize!r}, expected one of {', '.join(get_args(Minimize))}"
            )
        if not self.batches or min(self.batches) < 1:
            raise ConfigError(f"batches are {self.batches}, expected sizes from 1")
