"""A client made of bytes, and a listener that notes what a connection tells it."""

from dataclasses import dataclass, field
from typing import Any

from hpack import Encoder

from hlserve.serving.transports.http2 import frames
from hlserve.serving.transports.http2.connection import Connection
from hlserve.serving.transports.http2.frames import ErrorCode
from hlserve.serving.transports.http2.grpc_request import RequestHead, RequestReader
from hlserve.serving.transports.http2.limits import Http2Limits
from hlserve.serving.transports.http2.streams import Stream

HELLO = frames.PREFACE + frames.settings({})
FIELDS = [
    (":method", "POST"),
    (":scheme", "http"),
    (":path", "/inference.GRPCInferenceService/ServerLive"),
    (":authority", "localhost"),
    ("content-type", "application/grpc"),
    ("te", "trailers"),
]


@dataclass
class Noted:
    """What came, in order: what happened, the stream's number, and a path or a piece."""

    events: list[tuple[Any, ...]] = field(default_factory=list)

    def began(self, stream: Stream, head: RequestHead) -> None:
        self.events.append(("began", stream.number, head.path))

    def received(self, stream: Stream, data: bytes) -> None:
        self.events.append(("received", stream.number, data))

    def gone(self, stream: Stream) -> None:
        self.events.append(("gone", stream.number))


class Peer:
    """A connection under test, its listener, and a clock that stands still unless told."""

    def __init__(self, limits: Http2Limits | None = None, *, hello: bytes = HELLO) -> None:
        self.now_s = 0.0
        self.noted = Noted()
        self.encoder = Encoder()
        self.connection: Connection[RequestHead] = Connection(
            self.noted, RequestReader(2**14), limits or Http2Limits(), lambda: self.now_s
        )
        self.first_output = self.output()
        self.send(hello)

    def block(self, fields: list[tuple[str, str]] | None = None) -> bytes:
        return bytes(self.encoder.encode(fields or FIELDS))

    def headers(self, number: int, *, flags: int = frames.END_HEADERS) -> bytes:
        return frames.frame(frames.HEADERS, flags, number, self.block())

    def send(self, *data: bytes) -> list[tuple[int, int, int, bytes]]:
        """Sends, and gives what came back."""
        for piece in data:
            self.connection.receive(piece)
        return self.output()

    def output(self) -> list[tuple[int, int, int, bytes]]:
        return parse_frames(self.connection.sender.take_output())

    def fault(self) -> ErrorCode | None:
        return None if self.connection.fault is None else self.connection.fault.code


def parse_frames(data: bytes) -> list[tuple[int, int, int, bytes]]:
    """(kind, flags, stream, payload) of each frame."""
    found, position = [], 0
    while position < len(data):
        word, flags, number = frames.HEADER.unpack_from(data, position)
        end = position + frames.HEADER_BYTES + (word >> 8)
        found.append((word & 0xFF, flags, number, data[position + frames.HEADER_BYTES : end]))
        position = end
    assert position == len(data)
    return found
