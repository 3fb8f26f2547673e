"""How far down: which share of the cost to try next, by bisection against the bound."""

from __future__ import annotations

import math
from dataclasses import dataclass

FIRST_SHARE = 0.5
RESOLUTION = 1.2  # shares closer than this factor are not told apart


@dataclass(slots=True)
class Descent:
    """Shares of the original's cost, each tried once.

    Down by a constant factor while the bound holds; once it broke, the middle (geometric) between
    the smallest share that held and the largest that broke.

    Attributes:
        held: the smallest share that held so far; 1 is the original.
        broke: the largest share that did not; None before there is one.
        lowest: a share that is too small to try at all.
    """

    held: float = 1.0
    broke: float | None = None
    lowest: float = 0.01

    def next(self) -> float | None:
        """The share to try; None where nothing is left to find out."""
        if self.broke is None:
            share = self.held * FIRST_SHARE
            return share if share > self.lowest else None
        if self.held / self.broke <= RESOLUTION:
            return None
        return math.sqrt(self.held * self.broke)

    def tell(self, share: float, *, holds: bool) -> None:
        """What became of a share."""
        if holds:
            self.held = min(self.held, share)
        else:
            self.broke = share if self.broke is None else max(self.broke, share)
