"""Handing answers to their callers, in the order of arrival where that is asked for."""

from __future__ import annotations

from collections import OrderedDict

from hlserve.serving.batching.pending import Answer, Pending


class Answers:
    """What each caller gets, and when.

    Args:
        in_order: an answer waits for those of earlier requests of its level.
    """

    def __init__(self, *, in_order: bool) -> None:
        self._in_order = in_order
        self._lines: dict[int, OrderedDict[Pending, Answer | Exception | None]] = {}

    def expect(self, pending: Pending) -> None:
        """A request was taken."""
        if self._in_order:
            self._lines.setdefault(pending.level, OrderedDict())[pending] = None

    def give(self, pending: Pending, answer: Answer | Exception) -> None:
        """An answer is there."""
        if not self._in_order:
            _hand_over(pending, answer)
            return
        line = self._lines[pending.level]
        if pending in line:
            line[pending] = answer
            self._hand_over_first(line)

    def forget(self, pending: Pending) -> None:
        """Its caller has what there is, or went away: nobody waits for it."""
        if not self._in_order:
            return
        line = self._lines.get(pending.level)
        if line is not None and line.pop(pending, self) is not self:
            self._hand_over_first(line)

    @staticmethod
    def _hand_over_first(line: OrderedDict[Pending, Answer | Exception | None]) -> None:
        while line:
            pending, answer = next(iter(line.items()))
            if answer is None:
                return
            del line[pending]
            _hand_over(pending, answer)


def _hand_over(pending: Pending, answer: Answer | Exception) -> None:
    if pending.answer.done():
        return  # cancelled or too late while it ran
    if isinstance(answer, Exception):
        pending.answer.set_exception(answer)
    else:
        pending.answer.set_result(answer)
