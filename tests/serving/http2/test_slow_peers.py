"""Clients with small windows, that give up, go away, stop to read or write: over real sockets."""

import asyncio
import contextlib
import socket
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from pathlib import Path

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import h2.settings
import pytest

from hlserve.pb.messages import inference
from hlserve.serving.limits import LimitsConfig
from hlserve.serving.transports.http2 import Http2Server, frames
from hlserve.serving.transports.http2.frames import ErrorCode
from hlserve.serving.transports.http2.grpc_framing import framed
from hlserve.serving.transports.http2.headers import encode
from hlserve.serving.transports.http2.protocol import GrpcProtocol
from tests.serving.http2.peer import FIELDS, HELLO, Peer
from tests.serving.http2.test_over_sockets import INFER, Wire, identity_request
from tests.serving.running import RunningServer, running_server

CALL = [(name, INFER if name == ":path" else value) for name, value in FIELDS]
STREAM = [(k, f"{INFER[:-10]}ModelStreamInfer" if k == ":path" else v) for k, v in FIELDS]
WATCH = [(k, "/grpc.health.v1.Health/Watch" if k == ":path" else v) for k, v in FIELDS]
LIMITS = LimitsConfig(max_message_bytes=2**27, max_tensor_elements=2**27)
WINDOW = h2.settings.SettingCodes.INITIAL_WINDOW_SIZE


@pytest.fixture(scope="module")
def running(repository: Path) -> Iterator[RunningServer]:
    with running_server(repository, transport="http2", limits=LIMITS) as server:
        yield server


class Client:
    """The h2 library over a socket; gives credit for what it read, no more."""

    def __init__(self, address: str, window_bytes: int = 65_535) -> None:
        self.socket = Wire(address).socket
        self.h2 = h2.connection.H2Connection(
            h2.config.H2Configuration(client_side=True, header_encoding="utf-8")
        )
        self.h2.initiate_connection()
        self.h2.update_settings({WINDOW: window_bytes})
        self.bodies: dict[int, bytearray] = {}
        self.ended: dict[int, str] = {}  # how: the grpc-status, or the code of a reset
        self.pings = 0
        self.is_closed = False

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_error: object) -> None:
        self.socket.close()

    def begin(self, fields: list[tuple[str, str]] = CALL) -> int:
        number: int = self.h2.get_next_available_stream_id()
        self.bodies[number] = bytearray()
        self.h2.send_headers(number, fields)
        self.flush()
        return number

    def send(self, number: int, data: bytes, *, ends: bool = True) -> None:
        """As the server's windows open."""
        place = 0
        while place < len(data):
            size = min(self.h2.local_flow_control_window(number), 2**14, len(data) - place)
            if size:
                self.h2.send_data(number, data[place : place + size])
                place += size
            self.flush()
            if not size:
                self.turn()
        if ends:
            self.h2.end_stream(number)
            self.flush()

    def flush(self) -> None:
        self.socket.sendall(self.h2.data_to_send())

    def turn(self) -> None:
        """Reads once, and says what follows from it."""
        try:
            data = self.socket.recv(2**18)
        except ConnectionResetError:
            data = b""
        self.is_closed = not data
        for event in self.h2.receive_data(data):
            self.happened(event)
        if not self.is_closed:
            self.flush()

    def happened(self, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.DataReceived):
            self.bodies[event.stream_id] += event.data
            self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, h2.events.ResponseReceived):
            headers = dict(event.headers)
            if "grpc-status" in headers:  # an answer of headers alone
                self.ended[event.stream_id] = headers["grpc-status"]
        elif isinstance(event, h2.events.TrailersReceived):
            self.ended[event.stream_id] = dict(event.headers)["grpc-status"]
        elif isinstance(event, h2.events.StreamReset):
            self.ended.setdefault(event.stream_id, f"reset {int(event.error_code)}")
        elif isinstance(event, h2.events.PingAckReceived):
            self.pings += 1

    def answer(self, number: int) -> inference.ModelInferResponse:
        while number not in self.ended:
            self.turn()
            assert not self.is_closed, "the server closed"
        assert self.ended[number] == "0"
        return inference.ModelInferResponse.FromString(bytes(self.bodies[number][5:]))

    def ask(self, body: bytes) -> bytes:
        """The values that a request is answered with."""
        number = self.begin()
        self.send(number, body)
        values: bytes = self.answer(number).raw_output_contents[0]
        return values


def body_of(size_bytes: int) -> tuple[bytes, bytes]:
    """A framed request, and the values in it."""
    request = identity_request(size_bytes)
    return framed(request.SerializeToString()), request.raw_input_contents[0]


@pytest.mark.parametrize(
    ("size_bytes", "window_bytes"),
    [(0, 1), (1, 1), (1500, 1), (70_000, 100), (2**20, 65_535), (2**26, 65_535)],
)
def test_an_answer_of_any_size_comes_through_a_small_window(
    running: RunningServer, size_bytes: int, window_bytes: int
) -> None:
    body, values = body_of(size_bytes)
    with Client(running.address, window_bytes) as client:
        assert client.ask(body) == values


def test_a_request_may_come_a_byte_at_a_time(running: RunningServer) -> None:
    body, values = body_of(300)
    with Client(running.address) as client:
        number = client.begin()
        for place in range(len(body)):
            client.send(number, body[place : place + 1], ends=False)
        client.send(number, b"")
        assert client.answer(number).raw_output_contents[0] == values


def test_calls_given_up_in_their_request_or_answer_leave_their_neighbours(
    running: RunningServer,
) -> None:
    large, _ = body_of(2**20)
    body, values = body_of(5000)
    with Client(running.address) as client:
        for _ in range(20):
            unfinished, unread = client.begin(), client.begin()
            client.send(unfinished, large[:9000], ends=False)
            client.send(unread, large)
            while not client.bodies[unread]:
                client.turn()
            for number in (unfinished, unread):
                client.h2.reset_stream(number, ErrorCode.CANCEL)
            assert client.ask(body) == values


def test_a_client_that_says_goaway_still_gets_its_answer(running: RunningServer) -> None:
    body, values = body_of(100)
    with Client(running.address) as client:
        number = client.begin()
        client.socket.sendall(frames.goaway(0, ErrorCode.NO_ERROR))
        client.send(number, body)
        assert client.answer(number).raw_output_contents[0] == values


def test_pings_in_the_middle_of_a_call_are_answered(running: RunningServer) -> None:
    body, values = body_of(100)
    with Client(running.address) as client:
        number = client.begin()
        for place in range(0, len(body), 10):
            client.h2.ping(b"12345678")
            client.send(number, body[place : place + 10], ends=False)
        client.send(number, b"")
        assert client.answer(number).raw_output_contents[0] == values
        assert client.pings == len(range(0, len(body), 10))


def test_a_client_that_closes_its_half_is_closed_and_its_call_forgotten(
    running: RunningServer,
) -> None:
    wire = Wire(running.address)
    with wire.socket:
        block = Peer().block(CALL)
        wire.socket.sendall(HELLO + frames.frame(frames.HEADERS, frames.END_HEADERS, 1, block))
        wire.socket.shutdown(socket.SHUT_WR)
        wire.read_all()  # which ends
    assert_answers(running)


def assert_answers(running: RunningServer) -> None:
    body, values = body_of(10)
    with Client(running.address) as client:
        assert client.ask(body) == values


def watch(running: RunningServer, later_s: float) -> None:
    """Has every connection look at the time, as if so many seconds had passed."""
    transport = running.server._transport
    assert isinstance(transport, Http2Server)

    async def look() -> None:
        for connection in list(transport._connections):
            connection.watch(running.loop.time() + later_s)

    asyncio.run_coroutine_threadsafe(look(), running.loop).result(timeout=20)


def assert_soon(running: RunningServer, holds: Callable[[Collection[GrpcProtocol]], bool]) -> None:
    """Something comes to hold of the open connections."""
    transport = running.server._transport
    assert isinstance(transport, Http2Server)

    async def look() -> bool:
        deadline_s = running.loop.time() + 20
        while not holds(transport._connections) and running.loop.time() < deadline_s:
            await asyncio.sleep(0.01)
        return holds(transport._connections)

    assert asyncio.run_coroutine_threadsafe(look(), running.loop).result(timeout=30)


def is_stuck(connections: Collection[GrpcProtocol]) -> bool:
    """Half a frame came, and the socket takes no more."""
    return any(one._is_paused and one._connection.is_waiting_for_rest for one in connections)


# ----- what only time shows: the watch is asked at times to come, so that nobody waits


def test_a_client_that_stops_to_read_is_cut_off(running: RunningServer) -> None:
    body, _ = body_of(2**25)
    with Client(running.address, 2**31 - 1) as client:
        client.h2.increment_flow_control_window(2**31 - 2**17)
        number = client.begin()
        client.send(number, body)
        while not client.bodies[number]:
            client.turn()
        for later_s in (0, 61, 122):
            watch(running, later_s)
        while number not in client.ended and not client.is_closed:
            client.turn()
        assert client.ended.get(number) != "0"
        assert len(client.bodies[number]) < len(body)
    assert_answers(running)


def test_a_connection_that_was_closed_ends_though_nobody_reads_what_it_says(
    running: RunningServer,
) -> None:
    body, _ = body_of(2**25)
    with Client(running.address, 2**31 - 1) as client:
        client.h2.increment_flow_control_window(2**31 - 2**17)
        client.send(client.begin(), body)
        client.socket.sendall(b"\0\0\x08\6")  # a frame of which no more comes
        assert_soon(running, is_stuck)
        for later_s in (0, 61, 62, 124):
            watch(running, later_s)
        assert_soon(running, lambda connections: not connections)
    assert_answers(running)


def test_answers_without_a_body_that_nobody_reads_end_the_connection(repository: Path) -> None:
    unknown = [(name, "/no.Such/Method" if name == ":path" else value) for name, value in FIELDS]
    block = encode((name.encode(), value.encode()) for name, value in unknown)

    def flood(wire: socket.socket) -> None:
        wire.sendall(HELLO)
        for first in range(1, 400_000, 1000):  # answers of more than the kernel keeps for us
            numbers = range(first, first + 1000, 2)
            wire.sendall(b"".join(frames.frame(frames.HEADERS, 5, n, block) for n in numbers))

    with running_server(repository, transport="http2", limits=LIMITS) as running:
        transport = running.server._transport
        assert isinstance(transport, Http2Server)
        transport._service.limits = replace(transport._service.limits, max_unsent_bytes=10_000)
        with Wire(running.address).socket as wire, pytest.raises(ConnectionError):
            flood(wire)
        assert_answers(running)


def test_a_deadline_holds_for_a_request_that_does_not_become_whole(running: RunningServer) -> None:
    body, _ = body_of(5000)
    with Client(running.address) as client:
        number = client.begin([*CALL, ("grpc-timeout", "50m")])
        client.send(number, body[:100], ends=False)
        while number not in client.ended:
            client.turn()
        assert client.ended[number] == "4"


def test_a_message_that_is_refused_is_the_last_one_that_is_read(running: RunningServer) -> None:
    body, values = body_of(500)
    with Client(running.address) as client:
        number = client.begin(STREAM)
        too_large = b"\0\xff\xff\xff\xff"
        client.send(number, body + too_large + body, ends=False)
        with contextlib.suppress(h2.exceptions.ProtocolError):
            client.send(number, body, ends=False)
        while number not in client.ended:
            client.turn()
        assert client.ended[number] == "8"
        assert bytes(client.bodies[number]).count(values) == 1


def test_a_client_that_stops_to_write_has_its_call_reset(running: RunningServer) -> None:
    body, values = body_of(5000)
    with Client(running.address) as client:
        stalled = client.begin()
        client.send(stalled, body[:100], ends=False)
        client.h2.ping(b"12345678")  # its answer: all before it was read
        client.flush()
        while not client.pings:
            client.turn()
        watch(running, 61)
        while stalled not in client.ended:
            client.turn()
        assert client.ended[stalled] == f"reset {int(ErrorCode.CANCEL)}"
        assert client.ask(body) == values


def test_a_stream_may_rest_between_its_messages_but_not_within_one(running: RunningServer) -> None:
    body, values = body_of(5000)
    with Client(running.address) as client:
        number = client.begin(STREAM)
        for _ in range(2):
            client.send(number, body, ends=False)
            while len(client.bodies[number]) < len(body):
                client.turn()
            assert bytes(client.bodies[number]).endswith(values)
            client.bodies[number].clear()
            watch(running, 61)
        client.send(number, body[:100], ends=False)
        client.h2.ping(b"12345678")
        client.flush()
        while not client.pings:
            client.turn()
        assert number not in client.ended
        watch(running, 61)
        while number not in client.ended:
            client.turn()
        assert client.ended[number] == f"reset {int(ErrorCode.CANCEL)}"


@pytest.mark.parametrize("answers", [True, False])
def test_a_silent_client_is_asked_and_stays_where_it_answers(
    running: RunningServer, answers: bool
) -> None:
    """Half-open: the client's machine is gone, and nothing says so."""
    call = frames.frame(frames.HEADERS, frames.END_HEADERS, 1, Peer().block(WATCH))
    call += frames.frame(frames.DATA, frames.END_STREAM, 1, framed(b""))  # it stays open
    ping = frames.ping(b"hlserve?")
    wire = Wire(running.address)
    with wire.socket:
        wire.socket.sendall(HELLO + call + frames.ping(b"12345678"))
        wire.read_until(lambda data: frames.ping(b"12345678", is_ack=True) in data)
        watch(running, 121)
        wire.read_until(lambda data: ping in data)
        if answers:
            wire.socket.sendall(frames.ping(b"hlserve?", is_ack=True) + frames.ping(b"abcdefgh"))
            wire.read_until(lambda data: frames.ping(b"abcdefgh", is_ack=True) in data)
            watch(running, 21)
            wire.socket.sendall(frames.ping(b"ijklmnop"))
            wire.read_until(lambda data: frames.ping(b"ijklmnop", is_ack=True) in data)
        else:
            watch(running, 142)
            wire.read_all()  # which ends
    assert_answers(running)
