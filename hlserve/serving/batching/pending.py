"""One waiting request."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
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


Outcome = Answer | Exception
Deliver = Callable[[Outcome], None]


class Plan(NamedTuple):
    """What a request means to the batcher; the same for all that differ in their values only.

    Attributes:
        names: the outputs asked for, sorted.
        rows: how many it counts.
        key: says which others it may run with; None: none.
        elements: of all inputs; a text counts for one, and one more each eight bytes of it.
        size_bytes: of all inputs.
    """

    names: tuple[str, ...]
    rows: int
    key: object | None
    elements: int
    size_bytes: int


class Pending:
    """A request from its admission to its answer.

    Attributes:
        inputs: by name.
        outputs, rows, key, elements, size_bytes: see ``Plan``.
        level: its priority, from 1.
        arrived_ns: on the batcher's clock.
        deadline_s: on the event loop's clock, which is the same one; None: none.
        deliver: called once, with what became of it.
        is_done: nobody waits any more.
        begin_by_s: a run that begins later is in vain; None: none is.
        taken_ns: when its run began; 0: not yet.
        lane: which line of the queue it stands in; None: in none.
        timeout_s: the longest wait in the queue; 0: as long as it takes.
        timers: what fires when it has waited too long.
    """

    __slots__ = (
        "arrived_ns",
        "begin_by_s",
        "deadline_s",
        "deliver",
        "elements",
        "inputs",
        "is_done",
        "key",
        "lane",
        "level",
        "outputs",
        "rows",
        "size_bytes",
        "taken_ns",
        "timeout_s",
        "timers",
    )

    def __init__(
        self,
        inputs: Mapping[str, Array],
        plan: Plan,
        level: int,
        arrived_ns: int,
        deadline_s: float | None,
        deliver: Deliver,
    ) -> None:
        self.inputs = inputs
        self.outputs, self.rows, self.key, self.elements, self.size_bytes = plan
        self.level = level
        self.arrived_ns = arrived_ns
        self.deadline_s = self.begin_by_s = deadline_s
        self.deliver = deliver
        self.is_done = False
        self.taken_ns = 0
        self.lane: int | None = None
        self.timeout_s = 0.0
        self.timers: tuple[asyncio.TimerHandle, ...] = ()

    def is_wanted(self, now_s: float) -> bool:
        """Whether somebody still waits, and a run that begins now can answer in time."""
        return not self.is_done and (self.begin_by_s is None or now_s < self.begin_by_s)

    def stop_timers(self) -> None:
        """Nothing fires any more."""
        for timer in self.timers:
            timer.cancel()
        self.timers = ()


def plan_of(inputs: Mapping[str, Array], outputs: Sequence[str], max_rows: int) -> Plan:
    """What a request means to a batcher.

    Args:
        inputs: by name.
        outputs: the names asked for; none twice.
        max_rows: of a joined run; 0: nothing is joined, and what counts is the request.
    """
    names = tuple(sorted(outputs))
    elements, size_bytes = _sizes(inputs)
    if not max_rows:
        return Plan(names, 1, None, elements, size_bytes)
    rows = next(iter(inputs.values())).shape[0]
    key = _join_key(inputs, names) if 0 < rows < max_rows else None
    return Plan(names, rows, key, elements, size_bytes)


def total_elements(batch: Sequence[Pending]) -> int:
    """Of all inputs of all requests."""
    return sum(pending.elements for pending in batch)


def _join_key(inputs: Mapping[str, Array], names: tuple[str, ...]) -> object:
    """The same for requests whose rows may run together: like inputs, the same outputs."""
    return names, tuple(sorted((n, a.shape[1:], a.dtype.str) for n, a in inputs.items()))


def _sizes(inputs: Mapping[str, Array]) -> tuple[int, int]:
    elements = size_bytes = 0
    for array in inputs.values():
        elements += array.size
        size_bytes += array.nbytes
        if array.dtype.hasobject:  # pointers; the text lies elsewhere
            text_bytes = sum(len(element) for element in array.ravel().tolist())
            size_bytes += text_bytes
            elements += text_bytes // _TEXT_BYTES_AN_ELEMENT  # a long text takes longer
    return elements, size_bytes
