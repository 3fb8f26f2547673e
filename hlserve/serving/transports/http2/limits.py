"""What connections may cost the server: every bound with its reason and its error code."""

from __future__ import annotations

from dataclasses import dataclass

from hlserve.serving.limits import LimitsConfig

_COMMON = LimitsConfig()
_LEAST_HEADER_BYTES = 2**15


@dataclass(frozen=True, slots=True)
class Http2Limits:
    """Bounds of the HTTP/2 transport; what passes one is closed with the code in brackets.

    Those that every transport has mean what ``LimitsConfig`` says.

    Attributes:
        max_connections: open at once; one more is closed unanswered.
        max_connection_age_s: then a connection is asked to go (GOAWAY, NO_ERROR); 0: never.
        max_streams: calls in flight on one connection [REFUSED_STREAM: the client may retry].
        stream_window_bytes: what a client may send on a stream before the server takes it.
        connection_window_bytes: the same for all streams of a connection. Large, so that one slow
            stream never holds the others up; ``max_buffered_bytes`` is what bounds memory.
        max_frame_bytes: payload of a frame that we take [FRAME_SIZE_ERROR].
        max_header_bytes: one header block, packed, and again unpacked by RFC 7541's count of 32
            bytes a field, so that a small block cannot unfold into much [ENHANCE_YOUR_CALM].
        max_metadata_bytes: one call's headers, unpacked (status RESOURCE_EXHAUSTED).
        max_continuations: frames after HEADERS that one block may take (CVE-2024-27316)
            [ENHANCE_YOUR_CALM].
        max_message_bytes: one gRPC message, also after decompression (status RESOURCE_EXHAUSTED).
        max_buffered_bytes: of unfinished requests on all connections (UNAVAILABLE), beside
            those that ``LimitsConfig.max_in_flight_bytes`` counts; by default as many.
        max_unsent_bytes: answers that a client does not read, of one connection
            [ENHANCE_YOUR_CALM]. One answer alone may be larger.
        reset_burst: streams that the client opened and gave up, at once (CVE-2023-44487)
            [ENHANCE_YOUR_CALM]...
        reset_rate_hz: ...and how many more each second.
        control_burst: PING, SETTINGS, PRIORITY, unknown and empty frames, which cost work and
            carry nothing, at once [ENHANCE_YOUR_CALM]...
        control_rate_hz: ...and how many more each second.
        stall_timeout_s: for the preface, the rest of a frame or request that began, and for unread
            answers: without one byte of progress the connection is closed, or the stream reset.
        idle_timeout_s: without a call a connection is asked to go (GOAWAY, NO_ERROR).
        keepalive_s: without a byte from the client, calls open, the server asks with a PING...
        keepalive_timeout_s: ...and closes the connection if nothing comes for so long.
    """

    max_connections: int = _COMMON.max_connections
    max_connection_age_s: float = _COMMON.max_connection_age_s
    max_streams: int = _COMMON.max_streams
    stream_window_bytes: int = 4 * 2**20
    connection_window_bytes: int = 2**30
    max_frame_bytes: int = 2**16
    max_header_bytes: int = _LEAST_HEADER_BYTES
    max_metadata_bytes: int = _COMMON.max_metadata_bytes
    max_continuations: int = 16
    max_message_bytes: int = _COMMON.max_message_bytes
    max_buffered_bytes: int = _COMMON.max_in_flight_bytes
    max_unsent_bytes: int = 2**28
    reset_burst: int = 1000
    reset_rate_hz: float = 100.0
    control_burst: int = 1000
    control_rate_hz: float = 100.0
    stall_timeout_s: float = 60.0
    idle_timeout_s: float = 900.0
    keepalive_s: float = 120.0
    keepalive_timeout_s: float = 20.0

    @classmethod
    def of(cls, limits: LimitsConfig) -> Http2Limits:
        """The defaults, with what holds for every transport as it was told."""
        return cls(
            max_connections=limits.max_connections,
            max_connection_age_s=limits.max_connection_age_s,
            max_streams=limits.max_streams,
            max_header_bytes=max(_LEAST_HEADER_BYTES, 2 * limits.max_metadata_bytes),
            max_metadata_bytes=limits.max_metadata_bytes,
            max_message_bytes=limits.max_message_bytes,
            # A request alone may always come: it is held to max_message_bytes.
            max_buffered_bytes=max(limits.max_in_flight_bytes, 2 * limits.max_message_bytes),
        )


class Allowance:
    """So many at once and so many more each second: a token bucket.

    Args:
        burst: tokens at the start, and the most there are.
        rate_hz: tokens that come each second.
    """

    __slots__ = ("_burst", "_left", "_rate_hz", "_then_s")

    def __init__(self, burst: int, rate_hz: float) -> None:
        self._burst = burst
        self._rate_hz = rate_hz
        self._left = float(burst)
        self._then_s: float | None = None

    def take(self, now_s: float) -> bool:
        """Takes one; False: there is none left."""
        if self._then_s is not None:
            gained = (now_s - self._then_s) * self._rate_hz
            self._left = min(float(self._burst), self._left + gained)
        self._then_s = now_s
        if self._left < 1:
            return False
        self._left -= 1
        return True
