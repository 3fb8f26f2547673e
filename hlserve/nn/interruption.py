"""Signals that end a training between two steps, never inside one."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, Self, final

_Handler = Callable[[int, FrameType | None], Any] | int | None


@final
class Interruption:
    """While entered, notes the first signal and lets the work look for it.

    A second one acts as if this were not here, for whoever will not wait. Python delivers
    signals to the main thread alone; in another one, and where a caller has handlers of its
    own, nothing is changed.

    Attributes:
        received: the number of the signal that came, or None.
    """

    def __init__(self, *, with_sigterm: bool) -> None:
        self.received: int | None = None
        self._with_sigterm = with_sigterm
        self._previous: dict[int, _Handler] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is not threading.main_thread():
            return self
        ours: list[tuple[int, _Handler]] = [(signal.SIGINT, signal.default_int_handler)]
        if self._with_sigterm:
            ours.append((signal.SIGTERM, signal.SIG_DFL))
        for number, usual in ours:
            if signal.getsignal(number) == usual:
                self._previous[number] = usual
                signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        self._restore()

    def _restore(self) -> None:
        while self._previous:
            number, usual = self._previous.popitem()
            signal.signal(number, usual)
