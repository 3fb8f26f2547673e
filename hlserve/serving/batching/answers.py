"""Handing answers to their callers, in the order of arrival where that is asked for."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from hlserve.serving.batching.pending import Outcome, Pending

_Line = OrderedDict[Pending, Outcome | None]


class Answers:
    """Whose turn it is to be answered.

    Args:
        in_order: an answer waits for those of earlier requests of its level.

    Attributes:
        in_order: as given; False: nothing here needs to be called.
    """

    def __init__(self, *, in_order: bool) -> None:
        self.in_order = in_order
        self._lines: dict[int, _Line] = {}

    def expect(self, pending: Pending) -> None:
        """A request was taken."""
        if self.in_order:
            self._lines.setdefault(pending.level, OrderedDict())[pending] = None

    def in_turn(
        self, outcomes: Sequence[tuple[Pending, Outcome]]
    ) -> Sequence[tuple[Pending, Outcome]]:
        """What can go out, now that these are there."""
        if not self.in_order:
            return outcomes
        ready: list[tuple[Pending, Outcome]] = []
        for pending, outcome in outcomes:
            line = self._lines[pending.level]
            if pending in line:
                line[pending] = outcome
                ready += _first_of(line)
        return ready

    def forget(self, pending: Pending) -> Sequence[tuple[Pending, Outcome]]:
        """What can go out, now that nobody waits for this one."""
        line = self._lines.get(pending.level)
        if line is None or line.pop(pending, self) is self:
            return ()
        return _first_of(line)


def _first_of(line: _Line) -> list[tuple[Pending, Outcome]]:
    """Takes out those that nothing stands before."""
    ready = []
    while line:
        pending, outcome = next(iter(line.items()))
        if outcome is None:
            break
        del line[pending]
        ready.append((pending, outcome))
    return ready
