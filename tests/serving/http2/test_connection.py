"""The connection's state by RFC 9113: each rule that a client can break, and what keeps going."""

import pytest

from hlserve.serving.transports.http2 import frames
from hlserve.serving.transports.http2.frames import ConnectionFaultError, ErrorCode, frame
from hlserve.serving.transports.http2.grpc_request import RequestHead
from hlserve.serving.transports.http2.limits import Http2Limits
from hlserve.serving.transports.http2.streams import Stream
from tests.serving.http2.peer import FIELDS, HELLO, Peer

PATH = dict(FIELDS)[":path"]
OPEN, ENDED = frames.END_HEADERS, frames.END_HEADERS | frames.END_STREAM


def word(value: int) -> bytes:
    return value.to_bytes(4, "big")


def test_a_request_is_told_the_same_whatever_pieces_it_comes_in() -> None:
    whole = Peer(hello=b"")
    sent = HELLO + whole.headers(1) + frame(frames.DATA, frames.END_STREAM, 1, b"body" * 100)
    whole.send(sent)
    assert whole.noted.events == [("began", 1, PATH), ("received", 1, b"body" * 100)]
    for size in (1, 2, 3, 7, 24, 25, 100):
        peer = Peer(hello=b"")
        peer.send(*(sent[i : i + size] for i in range(0, len(sent), size)))
        assert peer.noted.events == whole.noted.events
        assert not peer.connection.is_closed


def test_the_first_bytes_out_are_settings_and_the_connections_window() -> None:
    limits = Http2Limits(max_streams=5, stream_window_bytes=2**20, connection_window_bytes=2**21)
    peer = Peer(limits, hello=b"")
    settings, update = peer.first_output
    assert settings[:3] == (frames.SETTINGS, 0, 0)
    assert dict(frames.parse_settings(settings[3]))[frames.MAX_CONCURRENT_STREAMS] == 5
    assert dict(frames.parse_settings(settings[3]))[frames.INITIAL_WINDOW_SIZE] == 2**20
    assert update == (frames.WINDOW_UPDATE, 0, 0, word(2**21 - 65_535))


# Name -> frames after the preface and SETTINGS, and the GOAWAY code they end in.
OPEN_1 = "open"
FAULTS: dict[str, tuple[list[bytes | str], ErrorCode]] = {
    "DATA on the connection": ([frame(frames.DATA, 0, 0, b"x")], ErrorCode.PROTOCOL_ERROR),
    "DATA on an idle stream": ([frame(frames.DATA, 0, 1, b"x")], ErrorCode.PROTOCOL_ERROR),
    "DATA on an even stream": ([OPEN_1, frame(0, 0, 2, b"x")], ErrorCode.PROTOCOL_ERROR),
    "HEADERS on stream 0": ([frame(frames.HEADERS, OPEN, 0, b"\x82")], ErrorCode.PROTOCOL_ERROR),
    "HEADERS on stream 2": ([frame(frames.HEADERS, OPEN, 2, b"\x82")], ErrorCode.PROTOCOL_ERROR),
    "HEADERS that depend on themselves": (
        [frame(frames.HEADERS, OPEN | frames.PRIORITY_FLAG, 1, word(1) + b"\0\x82")],
        ErrorCode.PROTOCOL_ERROR,
    ),
    "HEADERS cut before the priority": (
        [frame(frames.HEADERS, OPEN | frames.PRIORITY_FLAG, 1, b"\0")],
        ErrorCode.FRAME_SIZE_ERROR,
    ),
    "padding past the frame": (
        [frame(frames.HEADERS, OPEN | frames.PADDED, 1, b"\x05ab")],
        ErrorCode.PROTOCOL_ERROR,
    ),
    "padding without a length": (
        [frame(frames.HEADERS, OPEN | frames.PADDED, 1, b"")],
        ErrorCode.FRAME_SIZE_ERROR,
    ),
    "a frame inside of a header block": (
        [frame(frames.HEADERS, 0, 1, b"\x82"), frame(frames.PING, 0, 0, b"x" * 8)],
        ErrorCode.PROTOCOL_ERROR,
    ),
    "CONTINUATION of another stream": (
        [frame(frames.HEADERS, 0, 1, b"\x82"), frame(frames.CONTINUATION, 4, 3, b"\x82")],
        ErrorCode.PROTOCOL_ERROR,
    ),
    "CONTINUATION alone": ([frame(frames.CONTINUATION, 4, 1, b"")], ErrorCode.PROTOCOL_ERROR),
    "a block with index 0": (
        [frame(frames.HEADERS, OPEN, 1, b"\x80")],
        ErrorCode.COMPRESSION_ERROR,
    ),
    "a block that is cut off": (
        [frame(frames.HEADERS, OPEN, 1, b"\x40\x0aab")],
        ErrorCode.COMPRESSION_ERROR,
    ),
    "a block with an index past the table": (
        [frame(frames.HEADERS, OPEN, 1, b"\xfe")],
        ErrorCode.COMPRESSION_ERROR,
    ),
    "a table larger than allowed": (
        [frame(frames.HEADERS, OPEN, 1, b"\x3f\xe2\x1f\x82")],
        ErrorCode.COMPRESSION_ERROR,
    ),
    "a change of the table after a field": (
        [frame(frames.HEADERS, OPEN, 1, b"\x82\x20")],
        ErrorCode.COMPRESSION_ERROR,
    ),
    "RST_STREAM of 3 bytes": ([OPEN_1, frame(3, 0, 1, b"abc")], ErrorCode.FRAME_SIZE_ERROR),
    "RST_STREAM on an idle stream": ([frames.rst_stream(1, 8)], ErrorCode.PROTOCOL_ERROR),
    "RST_STREAM on the connection": ([frames.rst_stream(0, 8)], ErrorCode.PROTOCOL_ERROR),
    "SETTINGS on a stream": ([frame(frames.SETTINGS, 0, 1)], ErrorCode.PROTOCOL_ERROR),
    "SETTINGS of 5 bytes": ([frame(frames.SETTINGS, 0, 0, b"abcde")], ErrorCode.FRAME_SIZE_ERROR),
    "an ACK with settings": ([frame(frames.SETTINGS, 1, 0, b"a" * 6)], ErrorCode.FRAME_SIZE_ERROR),
    "ENABLE_PUSH of 2": ([frames.settings({2: 2})], ErrorCode.PROTOCOL_ERROR),
    "a window of 2^31": ([frames.settings({4: 2**31})], ErrorCode.FLOW_CONTROL_ERROR),
    "frames of 100 bytes": ([frames.settings({5: 100})], ErrorCode.PROTOCOL_ERROR),
    "frames of 2^24 bytes": ([frames.settings({5: 2**24})], ErrorCode.PROTOCOL_ERROR),
    "a window that settings overflow": (
        [OPEN_1, frames.window_update(1, 2**31 - 1 - 65_535), frames.settings({4: 65_536})],
        ErrorCode.FLOW_CONTROL_ERROR,
    ),
    "PUSH_PROMISE": ([OPEN_1, frame(5, 4, 1, word(2))], ErrorCode.PROTOCOL_ERROR),
    "PING on a stream": ([frame(frames.PING, 0, 1, b"x" * 8)], ErrorCode.PROTOCOL_ERROR),
    "PING of 7 bytes": ([frame(frames.PING, 0, 0, b"x" * 7)], ErrorCode.FRAME_SIZE_ERROR),
    "GOAWAY on a stream": ([frame(frames.GOAWAY, 0, 1, b"x" * 8)], ErrorCode.PROTOCOL_ERROR),
    "WINDOW_UPDATE of 0": ([frames.window_update(0, 0)], ErrorCode.PROTOCOL_ERROR),
    "WINDOW_UPDATE of 3 bytes": ([frame(8, 0, 0, b"abc")], ErrorCode.FRAME_SIZE_ERROR),
    "WINDOW_UPDATE on an idle stream": ([frames.window_update(7, 1)], ErrorCode.PROTOCOL_ERROR),
    "a window past 2^31 - 1": ([frames.window_update(0, 2**31 - 1)], ErrorCode.FLOW_CONTROL_ERROR),
    "PRIORITY without a stream": ([frame(2, 0, 0, b"x" * 5)], ErrorCode.PROTOCOL_ERROR),
    "PRIORITY of 4 bytes": ([frame(2, 0, 1, b"x" * 4)], ErrorCode.FRAME_SIZE_ERROR),
    "too large a frame": ([frame(frames.DATA, 0, 1, b"x" * 70_000)], ErrorCode.FRAME_SIZE_ERROR),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_broken_rule_ends_the_connection_with_its_code(name: str) -> None:
    sent, code = FAULTS[name]
    peer = Peer()
    out = peer.send(*(peer.headers(1) if piece is OPEN_1 else piece for piece in sent))
    assert peer.fault() == code
    kind, _, _, payload = out[-1]
    assert (kind, int.from_bytes(payload[4:8], "big")) == (frames.GOAWAY, code)
    before = list(peer.noted.events)
    assert peer.send(peer.headers(9), frame(frames.PING, 0, 0, b"x" * 8)) == []
    assert peer.noted.events == before


@pytest.mark.parametrize(
    "first",
    [b"GET / HTTP/1.1\r\n", b"\x16\x03\x01\x02\x00", frames.PREFACE[:20] + b"x"],
    ids=["http/1", "tls", "almost"],
)
def test_what_is_no_preface_ends_the_connection(first: bytes) -> None:
    peer = Peer(hello=b"")
    peer.send(first)
    assert peer.fault() == ErrorCode.PROTOCOL_ERROR


@pytest.mark.parametrize(
    "first",
    [frame(frames.PING, 0, 0, b"x" * 8), frames.SETTINGS_ACK, frame(frames.DATA, 0, 1)],
    ids=["ping", "ack", "data"],
)
def test_the_first_frame_must_be_settings(first: bytes) -> None:
    peer = Peer(hello=frames.PREFACE)
    peer.send(first)
    assert peer.fault() == ErrorCode.PROTOCOL_ERROR


# Name -> frames after HEADERS on stream 1, and the RST_STREAM code.
STREAM_FAULTS: dict[str, tuple[bytes, ErrorCode]] = {
    "WINDOW_UPDATE of 0": (frames.window_update(1, 0), ErrorCode.PROTOCOL_ERROR),
    "a window past 2^31 - 1": (frames.window_update(1, 2**31 - 1), ErrorCode.FLOW_CONTROL_ERROR),
    "trailers that do not end it": (
        frame(frames.HEADERS, OPEN, 1, b"\0\x01a\x01b"),
        ErrorCode.PROTOCOL_ERROR,
    ),
    "more than the window": (
        frame(frames.DATA, 0, 1, b"x" * 60_000) * 2,
        ErrorCode.FLOW_CONTROL_ERROR,
    ),
    "DATA after the end": (
        frame(frames.DATA, frames.END_STREAM, 1, b"x") + frame(frames.DATA, 0, 1, b"y"),
        ErrorCode.STREAM_CLOSED,
    ),
    "HEADERS after the end": (
        frame(frames.DATA, frames.END_STREAM, 1, b"x") + frame(1, ENDED, 1, b"\0\x01a\x01b"),
        ErrorCode.STREAM_CLOSED,
    ),
}


@pytest.mark.parametrize("name", STREAM_FAULTS)
def test_a_fault_of_one_stream_leaves_the_others(name: str) -> None:
    sent, code = STREAM_FAULTS[name]
    peer = Peer(Http2Limits(stream_window_bytes=100_000))
    out = peer.send(peer.headers(1), sent)
    assert (frames.RST_STREAM, 0, 1, word(code)) in out
    assert peer.noted.events[-1] == ("gone", 1)
    assert 1 not in peer.connection.streams
    peer.send(frame(frames.DATA, 0, 1, b"still on its way"))  # sent before our RST arrived
    peer.send(peer.headers(3, flags=ENDED))
    assert peer.noted.events[-1] == ("began", 3, PATH)
    assert not peer.connection.is_closed


MALFORMED: dict[str, list[tuple[str, str]]] = {
    "an upper case name": [*FIELDS, ("Shout", "x")],
    "a space in a name": [*FIELDS, ("a b", "x")],
    "a line break in a value": [*FIELDS, ("a", "x\ny")],
    "a pseudo-header at the end": [*FIELDS[1:], (":method", "POST")],
    "an unknown pseudo-header": [(":wrong", "x"), *FIELDS],
    "a pseudo-header twice": [(":method", "POST"), *FIELDS],
    "no path": [f for f in FIELDS if f[0] != ":path"],
    "an empty path": [(":path", "") if f[0] == ":path" else f for f in FIELDS],
    "no method": FIELDS[1:],
    "no scheme": [f for f in FIELDS if f[0] != ":scheme"],
    "a header of HTTP/1": [*FIELDS, ("connection", "close")],
    "te of something else": [*FIELDS[:-1], ("te", "gzip")],
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_request_ends_its_stream_only(name: str) -> None:
    peer = Peer()
    block = peer.block(MALFORMED[name])
    out = peer.send(frame(frames.HEADERS, OPEN, 1, block))
    assert out == [(frames.RST_STREAM, 0, 1, word(ErrorCode.PROTOCOL_ERROR))]
    peer.send(peer.headers(3))
    assert peer.noted.events == [("began", 3, PATH)]


def test_padding_priority_unknown_frames_and_trailers_change_nothing() -> None:
    peer = Peer()
    padded = b"\x03" + word(0) + b"\x10" + peer.block() + b"\0" * 3
    peer.send(
        frame(frames.HEADERS, OPEN | frames.PADDED | frames.PRIORITY_FLAG, 1, padded),
        frame(frames.PRIORITY, 0, 1, word(0) + b"\x10"),
        frame(0xBE, 0xFF, 1, b"?"),
        frame(frames.DATA, frames.PADDED, 1, b"\x02body\0\0"),
        frame(frames.HEADERS, ENDED, 1, peer.block([("trailer", "x")])),
    )
    assert peer.noted.events == [("began", 1, PATH), ("received", 1, b"body"), ("received", 1, b"")]
    assert peer.connection.streams[1].has_ended


def test_settings_and_pings_are_answered() -> None:
    peer = Peer()
    out = peer.send(frames.settings({9: 9}), frame(frames.PING, 0, 0, b"12345678"))
    assert out == [
        (frames.SETTINGS, frames.ACK, 0, b""),
        (frames.PING, frames.ACK, 0, b"12345678"),
    ]
    assert peer.send(frame(frames.PING, frames.ACK, 0, b"12345678")) == []


def test_credit_comes_back_once_half_a_window_was_taken() -> None:
    peer = Peer(Http2Limits(stream_window_bytes=40_000, connection_window_bytes=70_000))
    peer.send(peer.headers(1))
    for _ in range(10):  # 150,000 bytes through both windows
        out = peer.send(frame(frames.DATA, 0, 1, b"x" * 15_000))
        peer.connection.consumed(peer.connection.streams[1], 15_000)
        out += peer.output()
        assert not peer.connection.is_closed
        assert all(kind == frames.WINDOW_UPDATE for kind, *_ in out)


def test_a_stream_over_the_limit_is_refused_and_the_table_stays_in_step() -> None:
    peer = Peer(Http2Limits(max_streams=1))
    assert peer.send(peer.headers(1)) == []
    refused = (frames.RST_STREAM, 0, 3, word(ErrorCode.REFUSED_STREAM))
    assert peer.send(peer.headers(3)) == [refused]
    peer.send(frames.rst_stream(1, ErrorCode.CANCEL), peer.headers(5))
    assert peer.noted.events == [("began", 1, PATH), ("gone", 1), ("began", 5, PATH)]


def test_an_answer_before_the_end_of_its_request_asks_for_no_more_of_it() -> None:
    peer = Peer()
    peer.send(peer.headers(1))
    stream = peer.connection.streams[1]
    peer.connection.sender.reply(stream, b"\x88", b"data", b"\x88")
    kinds = [(kind, number) for kind, _, number, _ in peer.output()]
    assert kinds == [(frames.HEADERS, 1), (0, 1), (frames.HEADERS, 1), (frames.RST_STREAM, 1)]
    peer.send(frame(frames.DATA, 0, 1, b"late"))
    assert not peer.connection.is_closed


def test_an_answer_to_a_stream_that_is_gone_is_dropped() -> None:
    peer = Peer()
    peer.send(peer.headers(1, flags=ENDED))
    stream, sender = peer.connection.streams[1], peer.connection.sender
    peer.send(frames.rst_stream(1, ErrorCode.CANCEL))
    sender.reply(stream, b"\x88", b"data", b"\x88")
    sender.head(stream, b"\x88")
    sender.data(stream, b"data")
    sender.trailers(stream, b"\x88")
    sender.trailers_only(stream, b"\x88")
    assert peer.output() == []
    assert not sender.has_waiting


def test_a_frame_on_a_stream_that_ended_well_ends_the_connection() -> None:
    peer = Peer()
    peer.send(peer.headers(1, flags=ENDED))
    peer.connection.sender.reply(peer.connection.streams[1], b"\x88", b"data", b"\x88")
    peer.send(frame(frames.DATA, 0, 1, b"late"))
    assert peer.fault() == ErrorCode.STREAM_CLOSED


def test_a_drain_answers_what_began_and_refuses_what_comes_later() -> None:
    peer = Peer()
    peer.send(peer.headers(1))
    peer.connection.go_away(is_last=False)
    assert peer.output() == [(frames.GOAWAY, 0, 0, word(2**31 - 1) + word(0))]
    peer.send(peer.headers(3))
    peer.connection.go_away(is_last=True)
    assert peer.output() == [(frames.GOAWAY, 0, 0, word(3) + word(0))]
    assert peer.send(peer.headers(5)) == [(3, 0, 5, word(ErrorCode.REFUSED_STREAM))]
    assert peer.noted.events == [("began", 1, PATH), ("began", 3, PATH)]


def test_a_stream_that_stands_still_is_reset() -> None:
    peer = Peer()
    peer.send(peer.headers(1))
    peer.now_s = 50.0
    peer.send(peer.headers(3))
    peer.connection.reset_stalled(100.0)
    assert peer.output() == [(frames.RST_STREAM, 0, 1, word(ErrorCode.CANCEL))]
    assert list(peer.connection.streams) == [3]


def test_an_answer_that_took_long_has_as_long_to_go_out_as_any() -> None:
    peer = Peer(Http2Limits(stall_timeout_s=60.0))
    peer.send(frames.settings({frames.INITIAL_WINDOW_SIZE: 0}), peer.headers(1, flags=ENDED))
    stream = peer.connection.streams[1]
    peer.connection.reset_stalled(100.0)
    peer.connection.sender.reply(stream, b"\x88", b"data", b"\x88")
    for now_s in (105.0, 160.0, 165.0):
        peer.connection.reset_stalled(now_s)
        assert list(peer.connection.streams) == [1]
    peer.connection.reset_stalled(166.0)
    assert not peer.connection.streams
    assert peer.output()[-1] == (frames.RST_STREAM, 0, 1, word(ErrorCode.CANCEL))


def test_an_answer_that_goes_out_in_pieces_does_not_stand_still() -> None:
    peer = Peer(Http2Limits(stall_timeout_s=60.0))
    peer.send(frames.settings({frames.INITIAL_WINDOW_SIZE: 2**20}), peer.headers(1, flags=ENDED))
    peer.connection.sender.reply(peer.connection.streams[1], b"\x88", b"x" * 2**17, b"\x88")
    for now_s in range(50, 500, 50):  # only the connection's window holds it back
        peer.send(frames.window_update(0, 1))
        peer.connection.reset_stalled(float(now_s))
        assert list(peer.connection.streams) == [1]


def test_a_connection_that_its_listener_closed_says_so_once() -> None:
    peer = Peer()

    def close_and_break(stream: Stream, head: RequestHead) -> None:
        peer.connection.close(ErrorCode.ENHANCE_YOUR_CALM, "enough")
        raise ConnectionFaultError(ErrorCode.PROTOCOL_ERROR, "and more")

    peer.noted.began = close_and_break  # type: ignore[method-assign]
    kinds = [(kind, payload[4:8]) for kind, _, _, payload in peer.send(peer.headers(1))]
    assert kinds == [(frames.GOAWAY, word(ErrorCode.ENHANCE_YOUR_CALM))]
    assert peer.fault() == ErrorCode.ENHANCE_YOUR_CALM


def test_a_table_that_a_client_makes_smaller_is_said_to_be_empty_once() -> None:
    peer = Peer()
    peer.send(frames.settings({frames.HEADER_TABLE_SIZE: 0}), peer.headers(1), peer.headers(3))
    for number, block in ((1, b"\x20\x88"), (3, b"\x88")):
        peer.connection.sender.trailers_only(peer.connection.streams[number], b"\x88")
        assert peer.output()[0][3] == block
