"""What costs a server more than its sender: each flood ends in the right code, at its bound."""

import struct
from collections.abc import Callable

import pytest

from hlserve.serving.builds import is_compiled
from hlserve.serving.transports.http2 import frames
from hlserve.serving.transports.http2.frames import ErrorCode, frame
from hlserve.serving.transports.http2.grpc_request import RequestHead
from hlserve.serving.transports.http2.limits import Allowance, Http2Limits
from hlserve.serving.transports.http2.sending import Sender
from hlserve.serving.transports.http2.streams import Stream
from tests.serving.http2.peer import Peer

LIMITS = Http2Limits(reset_burst=50, control_burst=50)
CALM = ErrorCode.ENHANCE_YOUR_CALM


def rapid_reset(peer: Peer, number: int) -> bytes:
    return peer.headers(number) + frames.rst_stream(number, ErrorCode.CANCEL)


FLOODS: dict[str, Callable[[Peer, int], bytes]] = {
    "rapid reset (CVE-2023-44487)": rapid_reset,
    "made to reset": lambda peer, n: peer.headers(n) + frames.window_update(n, 0),
    "malformed requests": lambda peer, n: frame(1, 4, n, peer.block([("a", "b")])),
    "pings": lambda peer, n: frame(frames.PING, 0, 0, b"x" * 8),
    "settings": lambda peer, n: frames.settings({}),
    "settings that are acknowledged": lambda peer, n: frames.SETTINGS_ACK,
    "priorities": lambda peer, n: frame(frames.PRIORITY, 0, n, b"\0" * 5),
    "unknown frames": lambda peer, n: frame(0xEE, 0, 0, b""),
    "empty data": lambda peer, n: peer.headers(n) + frame(frames.DATA, 0, n, b""),
    "goaways": lambda peer, n: frame(frames.GOAWAY, 0, 0, b"\0" * 8),
}


@pytest.mark.parametrize("name", FLOODS)
def test_a_flood_ends_at_its_bound(name: str) -> None:
    peer = Peer(LIMITS)
    count = 0
    while not peer.connection.is_closed:
        assert count <= 51
        peer.send(FLOODS[name](peer, 2 * count + 1))
        count += 1
    assert peer.fault() == CALM
    assert count > 40
    assert not peer.connection.streams


@pytest.mark.parametrize("name", FLOODS)
def test_the_same_at_a_slow_pace_is_taken(name: str) -> None:
    peer = Peer(LIMITS)
    for count in range(200):
        peer.now_s += 0.1
        peer.send(FLOODS[name](peer, 2 * count + 1))
    assert not peer.connection.is_closed


def test_a_header_block_without_end_is_cut() -> None:  # CVE-2024-27316
    for payload in (b"", b"\x00\x01a\x01b", b"x" * 16_000):
        peer = Peer()
        peer.send(frame(frames.HEADERS, 0, 1, b""))
        count = 0
        while not peer.connection.is_closed:
            assert count < 20
            peer.send(frame(frames.CONTINUATION, 0, 1, payload))
            count += 1
        assert peer.fault() == CALM


def test_a_small_block_cannot_unfold_into_much() -> None:
    peer = Peer()
    bomb = b"\x40\x01a\x7f\xa1\x1e" + b"v" * 4000  # one entry of 4000 bytes, then its index
    peer.send(frame(frames.HEADERS, frames.END_HEADERS, 1, bomb + b"\xbe" * 1000))
    assert peer.fault() == CALM


def test_what_a_client_may_make_the_decoder_keep_is_bounded() -> None:
    peer = Peer(Http2Limits(max_streams=10_000))
    peer.send(peer.headers(1))
    for number in range(3, 3003, 2):
        fields = b"\0\x01a\x82" + (number % 2**16).to_bytes(2, "big")
        peer.send(frame(frames.HEADERS, frames.END_HEADERS, number, peer.block() + fields))
    decoder = peer.connection._decoder
    assert len(decoder._heads) <= 128
    assert len(decoder._texts) <= 256


def test_answers_that_nobody_reads_end_the_connection() -> None:
    peer = Peer(Http2Limits(max_unsent_bytes=100_000))
    peer.send(frames.settings({frames.INITIAL_WINDOW_SIZE: 0}))
    for number in range(1, 23, 2):
        peer.send(peer.headers(number))
        stream = peer.connection.streams[number]
        peer.connection.sender.reply(stream, b"\x88", b"x" * 10_000, b"\x88")
    peer.send(peer.headers(23))
    with pytest.raises(frames.ConnectionFaultError, match="ENHANCE_YOUR_CALM"):
        peer.connection.sender.data(peer.connection.streams[23], b"x")


@pytest.mark.skipif(is_compiled(), reason="compiled functions call each other past their names")
def test_windows_that_let_nothing_go_cost_no_look_at_the_answers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    peer = Peer()
    peer.send(frames.settings({frames.INITIAL_WINDOW_SIZE: 0}))
    for number in range(1, 201, 2):
        peer.send(peer.headers(number, flags=frames.END_HEADERS | frames.END_STREAM))
        peer.connection.sender.reply(peer.connection.streams[number], b"\x88", b"data", b"\x88")
    looks: list[int] = []
    send = Sender._send

    def counted(self: Sender, stream: Stream) -> None:
        looks.append(stream.number)
        send(self, stream)

    monkeypatch.setattr(Sender, "_send", counted)
    peer.send(frames.window_update(0, 1) * 5000)
    assert looks == []
    sizes = b"".join(struct.pack(">HI", frames.INITIAL_WINDOW_SIZE, n % 3) for n in range(10_001))
    peer.send(frame(frames.SETTINGS, 0, 0, sizes))  # the last of them opens each by two bytes
    assert len(looks) == 100
    assert peer.fault() is None
    assert peer.connection.streams[1].send_window == 0
    # One byte of the connection's, and all but one stream can send nothing.
    peer.connection.sender._window = 0
    peer.send(frames.window_update(1, 1))
    looks.clear()
    peer.send(frames.window_update(0, 1))
    assert looks == [1]


def test_nothing_begins_after_a_connection_was_closed_by_what_it_asked_for() -> None:
    """The frames of one read: the first request's answer closes, the second must not begin."""
    peer = Peer()
    began = peer.noted.began

    def close(stream: Stream, head: RequestHead) -> None:
        began(stream, head)
        peer.connection.close(CALM, "too much was not read")

    peer.noted.began = close  # type: ignore[method-assign]
    sent = peer.send(peer.headers(1) + peer.headers(3) + frame(frames.PING, 0, 0, b"x" * 8))
    assert [event[:2] for event in peer.noted.events] == [("began", 1), ("gone", 1)]
    assert [kind for kind, *_ in sent] == [frames.GOAWAY]
    assert not peer.connection.streams


def test_zero_windows_hold_an_answer_until_they_open() -> None:
    peer = Peer()
    peer.send(frames.settings({frames.INITIAL_WINDOW_SIZE: 0}), peer.headers(1))
    peer.connection.sender.reply(peer.connection.streams[1], b"\x88", b"abc", b"\x88")
    assert [kind for kind, *_ in peer.output()] == [frames.HEADERS]
    assert peer.send(frames.window_update(1, 1)) == [(frames.DATA, 0, 1, b"a")]
    opened = peer.send(frames.settings({frames.INITIAL_WINDOW_SIZE: 1}))
    assert opened == [(frames.SETTINGS, frames.ACK, 0, b""), (frames.DATA, 0, 1, b"b")]
    ended = peer.send(frames.window_update(1, 100))
    assert [kind for kind, *_ in ended] == [frames.DATA, frames.HEADERS, frames.RST_STREAM]


def test_an_allowance_fills_up_again_and_not_above_its_burst() -> None:
    allowance = Allowance(2, rate_hz=1.0)
    assert [allowance.take(0.0) for _ in range(3)] == [True, True, False]
    assert [allowance.take(1.5) for _ in range(2)] == [True, False]
    assert [allowance.take(100.0) for _ in range(3)] == [True, True, False]
