"""HTTP/2 frames as bytes (RFC 9113, sections 4 and 6): constants, and the writing of each kind.

Reading is a loop over ``HEADER`` in ``connection``: a frame is never an object.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from enum import IntEnum

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

# (payload length << 8 | type, flags, stream)
HEADER = struct.Struct(">IBI")
HEADER_BYTES = 9
_FIELDS = struct.Struct(">HI")
_WORD = struct.Struct(">I")

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS = 0, 1, 2, 3, 4
PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 5, 6, 7, 8, 9

END_STREAM, ACK, END_HEADERS, PADDED, PRIORITY_FLAG = 0x1, 0x1, 0x4, 0x8, 0x20

HEADER_TABLE_SIZE, ENABLE_PUSH, MAX_CONCURRENT_STREAMS = 1, 2, 3
INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE, MAX_HEADER_LIST_SIZE = 4, 5, 6

DEFAULT_TABLE_BYTES = 4096
DEFAULT_WINDOW_BYTES = 65_535
MAX_WINDOW_BYTES = 2**31 - 1
DEFAULT_FRAME_BYTES = 16_384
MAX_FRAME_BYTES = 2**24 - 1
STREAM_MASK = 2**31 - 1  # the highest bit is reserved and ignored


class ErrorCode(IntEnum):
    """Why a stream or a connection ended (section 7)."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    SETTINGS_TIMEOUT = 4
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    CONNECT_ERROR = 10
    ENHANCE_YOUR_CALM = 11
    INADEQUATE_SECURITY = 12
    HTTP_1_1_REQUIRED = 13


class ConnectionFaultError(Exception):
    """The peer broke a rule that ends the connection (section 5.4.1).

    Attributes:
        code: goes into the GOAWAY frame.
        reason: goes there too, as debug data.
    """

    def __init__(self, code: ErrorCode, reason: str) -> None:
        super().__init__(f"{code.name}: {reason}")
        self.code = code
        self.reason = reason


class MalformedRequestError(Exception):
    """A request that is no HTTP/2 request (section 8.1.1); ends its stream, not the connection."""


def frame(kind: int, flags: int, stream_id: int, payload: bytes = b"") -> bytes:
    """One frame of any kind."""
    return HEADER.pack(len(payload) << 8 | kind, flags, stream_id) + payload


def settings(values: Mapping[int, int]) -> bytes:
    """SETTINGS."""
    return frame(SETTINGS, 0, 0, b"".join(_FIELDS.pack(k, v) for k, v in values.items()))


SETTINGS_ACK = frame(SETTINGS, ACK, 0)


def parse_settings(payload: bytes) -> list[tuple[int, int]]:
    """Identifiers and values in their order.

    Raises:
        ConnectionFaultError: the length is no multiple of 6.
    """
    if len(payload) % _FIELDS.size:
        raise ConnectionFaultError(
            ErrorCode.FRAME_SIZE_ERROR,
            f"SETTINGS of {len(payload)} bytes, expected a multiple of 6",
        )
    return list(_FIELDS.iter_unpack(payload))


def window_update(stream_id: int, increment: int) -> bytes:
    """WINDOW_UPDATE; stream 0 is the connection."""
    return frame(WINDOW_UPDATE, 0, stream_id, _WORD.pack(increment))


def rst_stream(stream_id: int, code: int) -> bytes:
    """RST_STREAM."""
    return frame(RST_STREAM, 0, stream_id, _WORD.pack(code))


def goaway(last_stream_id: int, code: int, reason: str = "") -> bytes:
    """GOAWAY with the reason as debug data."""
    return frame(GOAWAY, 0, 0, _WORD.pack(last_stream_id) + _WORD.pack(code) + reason.encode())


def ping(payload: bytes, *, is_ack: bool = False) -> bytes:
    """PING; 8 bytes."""
    return frame(PING, ACK if is_ack else 0, 0, payload)


def word(payload: bytes) -> int:
    """The 31 bits of a window increment or stream identifier, or an error code's 32."""
    value: int = _WORD.unpack(payload)[0]
    return value


def header_frames(stream_id: int, block: bytes, max_frame_bytes: int, *, ends: bool) -> bytes:
    """A header block: HEADERS, and CONTINUATION where it is larger than a frame."""
    flags = END_STREAM if ends else 0
    if len(block) <= max_frame_bytes:
        return frame(HEADERS, flags | END_HEADERS, stream_id, block)
    parts = [block[i : i + max_frame_bytes] for i in range(0, len(block), max_frame_bytes)]
    out = [frame(HEADERS, flags, stream_id, parts[0])]
    out += [frame(CONTINUATION, 0, stream_id, part) for part in parts[1:-1]]
    out.append(frame(CONTINUATION, END_HEADERS, stream_id, parts[-1]))
    return b"".join(out)


def without_padding(payload: bytes) -> bytes:
    """The payload of a frame with the flag PADDED, its padding taken off.

    Raises:
        ConnectionFaultError: the padding is longer than the payload.
    """
    if not payload or payload[0] >= len(payload):
        raise ConnectionFaultError(
            ErrorCode.PROTOCOL_ERROR if payload else ErrorCode.FRAME_SIZE_ERROR,
            "padding is longer than its frame",
        )
    return payload[1 : len(payload) - payload[0]]


def expect(holds: bool, otherwise: str) -> None:
    """A rule.

    Raises:
        ConnectionFaultError: it is broken.
    """
    if not holds:
        raise ConnectionFaultError(ErrorCode.PROTOCOL_ERROR, otherwise)


def expect_bytes(payload: bytes, size: int, kind: str) -> None:
    """A frame's one length.

    Raises:
        ConnectionFaultError: it has another.
    """
    if len(payload) != size:
        raise ConnectionFaultError(
            ErrorCode.FRAME_SIZE_ERROR, f"{kind} of {len(payload)} bytes, expected {size}"
        )
