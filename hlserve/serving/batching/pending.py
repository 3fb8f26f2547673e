"""One waiting request."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from numpy.typing import NDArray

from hlserve.serving.statistics import Phases

Array = NDArray[Any]
Outputs = Mapping[str, Array]

_TEXT_BYTES_AN_ELEMENT = 8  # as a number of eight bytes


class Answer(NamedTuple):
    """The outputs of one request, and what it spent in each phase."""

    outputs: Outputs
    phases: Phases


@dataclass(eq=False, slots=True)
class Pending:
    """A request from its admission to its answer.

    Attributes:
        inputs: by name.
        outputs: the names asked for, sorted.
        rows: how many it counts.
        key: says which others it may run with; None: none.
        level: its priority, from 1.
        arrived_ns: on the batcher's clock.
        deadline_s: on the event loop's clock, which is the same one; None: none.
        answer: what its caller waits for.
        elements: of all inputs; a text counts for one, and one more each eight bytes of it.
        size_bytes: of all inputs.
        taken_ns: when it left the queue for a run; 0: not yet.
        lane: which line of the queue it stands in; None: in none.
        timeout_s: the longest wait in the queue; 0: as long as it takes.
        timers: what fires when it has waited too long.
    """

    inputs: Mapping[str, Array]
    outputs: tuple[str, ...]
    rows: int
    key: object | None
    level: int
    arrived_ns: int
    deadline_s: float | None
    answer: asyncio.Future[Answer]
    elements: int = 0
    size_bytes: int = 0
    taken_ns: int = 0
    lane: int | None = None
    timeout_s: float = 0.0
    timers: tuple[asyncio.TimerHandle, ...] = ()

    def __post_init__(self) -> None:
        for array in self.inputs.values():
            self.elements += array.size
            self.size_bytes += array.nbytes
            if array.dtype.hasobject:  # pointers; the text lies elsewhere
                text_bytes = sum(len(element) for element in array.ravel().tolist())
                self.size_bytes += text_bytes
                self.elements += text_bytes // _TEXT_BYTES_AN_ELEMENT  # a long text takes longer

    def is_wanted(self, now_s: float) -> bool:
        """Whether somebody still waits for the answer."""
        if self.deadline_s is not None and now_s >= self.deadline_s:
            return False
        return not self.answer.done()

    def fail(self, error: Exception) -> None:
        """Answers with an error, unless the caller has gone."""
        if not self.answer.done():
            self.answer.set_exception(error)

    def stop_timers(self) -> None:
        """Nothing fires any more."""
        for timer in self.timers:
            timer.cancel()
        self.timers = ()


def join_key(inputs: Mapping[str, Array], names: tuple[str, ...]) -> object:
    """The same for requests whose rows may run together: like inputs, the same outputs.

    Args:
        inputs: by name, rows first.
        names: the outputs asked for, sorted.
    """
    if len(inputs) == 1:
        [(name, array)] = inputs.items()
        return names, name, array.shape[1:], array.dtype
    return names, tuple(sorted((n, a.shape[1:], a.dtype.str) for n, a in inputs.items()))


def total_elements(batch: Sequence[Pending]) -> int:
    """Of all inputs of all requests."""
    return sum(pending.elements for pending in batch)
