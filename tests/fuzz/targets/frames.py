"""The state of a connection: any bytes in, in any pieces, the same events and answers out."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

from hlserve.serving.transports.http2 import frames as wire
from hlserve.serving.transports.http2.connection import Connection
from hlserve.serving.transports.http2.frames import ConnectionFaultError, ErrorCode
from hlserve.serving.transports.http2.grpc_request import RequestHead, RequestReader
from hlserve.serving.transports.http2.grpc_status import OK_TRAILERS, RESPONSE_HEAD
from hlserve.serving.transports.http2.limits import Http2Limits
from hlserve.serving.transports.http2.streams import Stream
from tests.fuzz.targets.pieces import cut

HELLO = wire.PREFACE + wire.settings({})
# Small, so that short inputs reach every bound.
LIMITS = Http2Limits(
    max_streams=4,
    stream_window_bytes=200,
    connection_window_bytes=70_000,
    max_frame_bytes=2**14,
    max_header_bytes=2**10,
    max_metadata_bytes=2**9,
    max_continuations=3,
    max_unsent_bytes=300,
    reset_burst=8,
    control_burst=16,
)
_REQUEST = (  # POST, http, and three literals
    b"\x83\x86\x44\x02/a\x5f\x10application/grpc\x40\x02te\x08trailers"
)
_MANY_BYTES = 100_000  # of an answer to a few KB: a stream's answer is 300


class Answering:
    """Notes what comes, and answers at the end of a request, or earlier, or never."""

    def __init__(self) -> None:
        self.connection: Connection[RequestHead]
        self.events: list[tuple[Any, ...]] = []
        self.open: set[int] = set()

    def began(self, stream: Stream, head: RequestHead) -> None:
        assert stream.number not in self.open
        self.open.add(stream.number)
        self.events.append(("began", stream.number, head.path, head.timeout_s, head.encoding))
        if head.refusal is not None:
            self.connection.sender.trailers_only(stream, head.refusal)
            self.open.remove(stream.number)
        elif stream.has_ended:
            self._answer(stream)

    def received(self, stream: Stream, data: bytes) -> None:
        assert stream.number in self.open
        self.events.append(("received", stream.number, data, stream.has_ended))
        self.connection.consumed(stream, len(data))
        if stream.has_ended or data[:1] == b"!":  # an answer may come before its request ended
            self._answer(stream)

    def gone(self, stream: Stream) -> None:
        self.events.append(("gone", stream.number))
        self.open.discard(stream.number)

    def _answer(self, stream: Stream) -> None:
        if stream.trailers is not None:
            return  # said already, but it waits for a window
        sender, body = self.connection.sender, b"%d" % stream.number * 150
        try:
            if stream.number % 4 == 1:
                sender.reply(stream, RESPONSE_HEAD, body, OK_TRAILERS)
            else:
                sender.head(stream, RESPONSE_HEAD)
                sender.data(stream, body)
                sender.trailers(stream, OK_TRAILERS)
        except ConnectionFaultError as fault:
            self.connection.close(fault.code, fault.reason)
        if stream.number not in self.connection.streams:
            self.open.discard(stream.number)


def frames(data: bytes) -> None:
    """The first byte says how the rest is read, and how it is cut."""
    if not data:
        return
    mode, data = data[0], data[1:]
    if mode & 1:
        data = HELLO + built(data)
    elif mode & 2:
        data = HELLO + data
    limits = LIMITS if mode & 4 else Http2Limits()
    whole = run([data], limits)
    assert run(list(cut(data, mode >> 3)), limits) == whole, "pieces make a difference"


def built(data: bytes) -> bytes:
    """Frames of four bytes (kind, flags, stream, length) and a payload: easy to change."""
    out = []
    while len(data) >= 4:
        kind, flags, number, size = data[:4]
        payload, data = data[4 : 4 + size], data[4 + size :]
        if kind == 0x11:
            kind, payload = wire.HEADERS, _REQUEST + payload
        elif kind == 0x10:
            kind, payload = wire.DATA, payload * 40
        out.append(wire.frame(kind, flags, number, payload))
    return b"".join([*out, data])


def run(pieces: list[bytes], limits: Http2Limits) -> tuple[Any, ...]:
    """What a listener was told, what came back, and the end."""
    listener = Answering()
    reader = RequestReader(limits.max_metadata_bytes)
    connection: Connection[RequestHead] = Connection(
        listener, reader, limits, lambda: 0.0, reader.extend
    )
    listener.connection = connection
    for piece in pieces:
        connection.receive(piece)
        _check(connection, limits)
    sent = connection.sender.take_output()
    _check_windows(b"".join(pieces), sent)
    fault = None if connection.fault is None else (connection.fault.code, connection.fault.reason)
    _check_sent(sent, ends=fault is not None)
    gone = Counter(event[1] for event in listener.events if event[0] == "gone")
    assert not gone or max(gone.values()) == 1, "a stream ended twice"
    return listener.events, sent, fault


def _check(connection: Connection[RequestHead], limits: Http2Limits) -> None:
    streams = connection.streams
    assert len(streams) <= limits.max_streams
    assert connection.is_closed == (connection.fault is not None)
    assert not (connection.is_closed and streams)
    if not connection.is_closed:
        waiting = sum(stream.unsent_bytes for stream in streams.values())
        assert connection.sender.unsent_bytes == waiting
        assert waiting <= limits.max_unsent_bytes + 1000  # one answer more than the bound
    for stream in streams.values():
        assert stream.receive_window >= 0
        assert sum(map(len, stream.unsent or ())) == stream.unsent_bytes
        assert stream.send_window <= wire.MAX_WINDOW_BYTES


def _check_windows(came: bytes, sent: bytes) -> None:
    """No more went out than all that the client ever allowed, in whatever order."""
    initial, credit, has_streams = [wire.DEFAULT_WINDOW_BYTES], Counter[int](), False
    for kind, flags, number, payload in _whole_frames(came[len(wire.PREFACE) :]):
        if kind == wire.WINDOW_UPDATE and len(payload) == 4:
            credit[number] += wire.word(payload) & wire.STREAM_MASK
        elif kind == wire.SETTINGS and not flags & wire.ACK and len(payload) % 6 == 0:
            settings = wire.parse_settings(payload)
            values = [value for key, value in settings if key == wire.INITIAL_WINDOW_SIZE]
            initial = initial + values if has_streams or not values else values[-1:]
        has_streams |= kind == wire.HEADERS
    used = Counter[int]()
    for kind, _, number, payload in _whole_frames(sent):
        if kind == wire.DATA:
            used[number] += len(payload)
    for number, size in used.items():
        assert size <= max(initial) + credit[number], "more than the stream's window"
    assert used.total() <= wire.DEFAULT_WINDOW_BYTES + credit[0], "more than the connection's"


def _whole_frames(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    position = 0
    while len(data) - position >= wire.HEADER_BYTES:
        word, flags, number = wire.HEADER.unpack_from(data, position)
        start = position + wire.HEADER_BYTES
        position = start + (word >> 8)
        if position <= len(data):
            yield word & 0xFF, flags, number & wire.STREAM_MASK, data[start:position]


def _check_sent(sent: bytes, *, ends: bool) -> None:
    """Whole frames, the last of a connection that ends is GOAWAY with a code that there is."""
    position, kind, ended = 0, -1, set[int]()
    while position < len(sent):
        word, flags, number = wire.HEADER.unpack_from(sent, position)
        kind, start = word & 0xFF, position + wire.HEADER_BYTES
        position = start + (word >> 8)
        if kind in (wire.DATA, wire.HEADERS):
            assert number not in ended, "an answer after its end"
            if flags & wire.END_STREAM:
                ended.add(number)
    assert position == len(sent) <= _MANY_BYTES
    assert (kind == wire.GOAWAY) == ends
    if ends:
        ErrorCode(wire.word(sent[start + 4 : start + 8]))
