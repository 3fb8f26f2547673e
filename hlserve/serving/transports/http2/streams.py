"""One HTTP/2 stream (RFC 9113, section 5): its windows, what waits to be sent, who ended."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

HeadIn = TypeVar("HeadIn", contravariant=True)


class Stream:
    """A stream from its HEADERS to its end; afterwards the connection forgets it.

    Attributes:
        number: the identifier.
        receive_window: bytes that the client may still send.
        uncredited: bytes taken whose credit was not given back yet.
        send_window: bytes that we may still send; negative after a SETTINGS that shrank it.
        has_ended: the client sent all of its request (half-closed remote).
        unsent: pieces of answers that wait for a window; None: none ever did.
        unsent_bytes: their sum.
        trailers: the block that ends the stream once ``unsent`` is empty; None: not yet said.
        on_drained: called when everything given to send is out; None: nobody waits.
        awaits_rest: the client owes the rest of something; False between a stream's messages.
        call: the listener's own.
        active_s: when a byte last moved on it, on the event loop's clock.
    """

    __slots__ = (
        "active_s",
        "awaits_rest",
        "call",
        "has_ended",
        "number",
        "on_drained",
        "receive_window",
        "send_window",
        "trailers",
        "uncredited",
        "unsent",
        "unsent_bytes",
    )

    def __init__(self, number: int, receive_window: int, send_window: int, now_s: float) -> None:
        self.number = number
        self.receive_window = receive_window
        self.send_window = send_window
        self.active_s = now_s
        self.uncredited = 0
        self.has_ended = False
        self.awaits_rest = True
        self.unsent: deque[bytes | memoryview] | None = None
        self.unsent_bytes = 0
        self.trailers: bytes | None = None
        self.on_drained: Callable[[], None] | None = None
        self.call: Any = None


class HeaderBlock:
    """A header block of which more is to come."""

    __slots__ = ("ends", "number", "parts", "size_bytes")

    def __init__(self, number: int, ends: bool, parts: list[bytes], size_bytes: int) -> None:
        self.number = number
        self.ends = ends
        self.parts = parts
        self.size_bytes = size_bytes


class Listener(Protocol[HeadIn]):
    """What a connection tells; every method runs inside ``receive``."""

    def began(self, stream: Stream, head: HeadIn) -> None:
        """A request's headers came; ``stream.has_ended`` where nothing follows."""

    def received(self, stream: Stream, data: bytes) -> None:
        """A piece of the body came, perhaps empty; the last one where ``stream.has_ended``."""

    def gone(self, stream: Stream) -> None:
        """The stream ended before its answer: the client gave up, or broke a rule."""
