"""A real server and real clients: sizes, windows, compression, deadlines, ends, other protocols."""

import asyncio
import contextlib
import resource
import shutil
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import trustme
from tritonclient import grpc as triton

from hlserve.errors import UnavailableError
from hlserve.pb.messages import health, inference, reflection
from hlserve.repository import Repository
from hlserve.rpcs import RPCS, Rpc
from hlserve.serving.batching import RunThreads
from hlserve.serving.builds import is_compiled
from hlserve.serving.config import BatchingConfig, ServerConfig
from hlserve.serving.dataplane import DataPlane
from hlserve.serving.limits import LimitsConfig
from hlserve.serving.listening import Listening
from hlserve.serving.server import TRANSPORTS
from hlserve.serving.store import ModelStore
from hlserve.serving.transports.calls import Calls
from hlserve.serving.transports.context import CallContext
from hlserve.serving.transports.entry import Entry
from hlserve.serving.transports.grpcio import GrpcioServer
from hlserve.serving.transports.http2 import Http2Limits, Http2Server, frames
from hlserve.serving.transports.http2.grpc_framing import framed
from hlserve.serving.transports.http2.headers import encode
from hlserve.serving.transports.stage import Stage
from tests.serving.http2.peer import FIELDS, HELLO, Peer, parse_frames
from tests.serving.running import RunningServer, running_server
from tests.serving.test_bad_input import CASES as BAD_REQUESTS
from tests.serving.test_rpcs import CASES as RPC_CASES
from tests.serving.test_tls import issue

INFER = "/inference.GRPCInferenceService/ModelInfer"
LIVE = "/inference.GRPCInferenceService/ServerLive"
REFLECT = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
TIMEOUT_S = 60


@pytest.fixture(scope="module")
def both(repository: Path) -> Iterator[dict[str, RunningServer]]:
    """A server a transport over the same models; nothing is joined, and messages may be large."""
    options = {
        "batching": BatchingConfig(max_rows=1),
        "limits": LimitsConfig(max_message_bytes=2**31 - 1, max_tensor_elements=2**31),
    }
    with contextlib.ExitStack() as stack:
        yield {
            name: stack.enter_context(running_server(repository, transport=name, **options))
            for name in TRANSPORTS
        }


@pytest.fixture(scope="module")
def address(both: dict[str, RunningServer]) -> str:
    return both["http2"].address


@pytest.fixture
def channel(address: str) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(address, options=LARGE) as opened:
        yield opened


LARGEST = pytest.param(2**26, marks=pytest.mark.slow)
LARGE = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1))


def identity_request(size_bytes: int, request_id: str = "") -> inference.ModelInferRequest:
    raw = np.random.default_rng(size_bytes).bytes(size_bytes)
    request = inference.ModelInferRequest(model_name="identity_UINT8", id=request_id)
    request.inputs.add(name="x", datatype="UINT8", shape=[1, size_bytes])
    request.raw_input_contents.append(raw)
    return request


def outcome(channel: grpc.Channel, path: str, data: bytes, *, streams: bool) -> tuple[Any, ...]:
    """Status, details and the answer's bytes."""
    try:
        if streams:
            return ("OK", "", *channel.stream_stream(path)(iter([data]), timeout=TIMEOUT_S))
        return ("OK", "", channel.unary_unary(path)(data, timeout=TIMEOUT_S))
    except grpc.RpcError as error:
        return (error.code().name, error.details())  # type: ignore[attr-defined]  # it is a Call


# Their answers say how long something took.
TIMED = {"ModelStatistics", "Predict", "PredictStream"}


@pytest.mark.parametrize("rpc", RPCS, ids=lambda rpc: rpc.path)
def test_both_transports_answer_every_row_byte_for_byte(
    both: dict[str, RunningServer], rpc: Rpc
) -> None:
    make, expected = RPC_CASES[rpc.path]
    answers = {}
    for name, server in both.items():
        with grpc.insecure_channel(server.address) as channel:
            answers[name] = row_outcome(channel, rpc, make().SerializeToString())
    if rpc.name in TIMED:
        answers = {name: (*answer[:2], len(answer)) for name, answer in answers.items()}
    assert answers["http2"] == answers["grpcio"]
    assert answers["http2"][0] == ("OK" if callable(expected) else expected[0])


def row_outcome(channel: grpc.Channel, rpc: Rpc, data: bytes) -> tuple[Any, ...]:
    if rpc.streams_response and not rpc.streams_request:  # it stays open: the first answer
        return ("OK", "", next(iter(channel.unary_stream(rpc.path)(data, timeout=TIMEOUT_S))))
    return outcome(channel, rpc.path, data, streams=rpc.streams_request)


def test_both_transports_refuse_every_bad_request_in_the_same_words(
    both: dict[str, RunningServer],
) -> None:
    with contextlib.ExitStack() as stack:
        channels = {
            name: stack.enter_context(grpc.insecure_channel(server.address))
            for name, server in both.items()
        }
        for make, _, _ in BAD_REQUESTS.values():
            request = make()
            data = request if isinstance(request, bytes) else request.SerializeToString()
            http2, grpcio = (
                outcome(channels[name], INFER, data, streams=False) for name in ("http2", "grpcio")
            )
            assert http2 == grpcio


@pytest.mark.parametrize("size_bytes", [0, 1, 100, 16_384, 65_535, 70_000, 2**22, 2**23, LARGEST])
def test_messages_of_any_size_come_back(channel: grpc.Channel, size_bytes: int) -> None:
    """64 MB through windows of 64 KB (the client's) and 4 MB (ours)."""
    request = identity_request(size_bytes)
    answer = channel.unary_unary(INFER)(request.SerializeToString(), timeout=TIMEOUT_S)
    got = inference.ModelInferResponse.FromString(answer)
    assert got.raw_output_contents[0] == request.raw_input_contents[0]


def test_large_and_small_calls_at_once_on_one_connection(channel: grpc.Channel) -> None:
    sizes = [2**22, 1, 300_000, 0, 70_000] * 6
    call = channel.unary_unary(INFER)
    requests = [identity_request(size, f"{i}") for i, size in enumerate(sizes)]
    futures = [call.future(r.SerializeToString(), timeout=TIMEOUT_S) for r in requests]
    for request, future in zip(requests, futures, strict=True):
        answer = inference.ModelInferResponse.FromString(future.result())
        assert answer.id == request.id
        assert answer.raw_output_contents[0] == request.raw_input_contents[0]


@pytest.mark.parametrize("compression", list(grpc.Compression))
def test_compressed_requests(address: str, compression: grpc.Compression) -> None:
    with grpc.insecure_channel(address, compression=compression) as channel:
        request = inference.ModelInferRequest(model_name="identity_UINT8")
        request.inputs.add(name="x", datatype="UINT8", shape=[1, 100_000])
        request.raw_input_contents.append(b"\7" * 100_000)
        answer = channel.unary_unary(INFER)(request.SerializeToString(), timeout=TIMEOUT_S)
        got = inference.ModelInferResponse.FromString(answer)
        assert got.raw_output_contents == request.raw_input_contents


def test_tritonclient_in_threads_gets_its_own_answers(address: str) -> None:
    def ask(number: int) -> bool:
        client = triton.InferenceServerClient(address)
        with contextlib.closing(client):
            for step in range(20):
                values = np.full((2, 3), number * 1000 + step, np.float32)
                sent = triton.InferInput("x", list(values.shape), "FP32")
                sent.set_data_from_numpy(values)
                result = client.infer("identity_FP32", [sent], request_id=f"{number}-{step}")
                if not np.array_equal(result.as_numpy("y"), values):
                    return False
                if result.get_response().id != f"{number}-{step}":
                    return False
        return True

    with ThreadPoolExecutor(8) as executor:
        assert all(executor.map(ask, range(8)))


def test_calls_of_grpc_aio_that_differ_in_metadata_and_deadline(address: str) -> None:
    async def run() -> None:
        async with grpc.aio.insecure_channel(address) as channel:
            call = channel.unary_unary(INFER)
            requests = [identity_request(100, f"{i}").SerializeToString() for i in range(200)]
            answers = await asyncio.gather(
                *(
                    call(data, timeout=30 + i / 7, metadata=[("x-request-id", f"{i}" * 9)])
                    for i, data in enumerate(requests)
                )
            )
        ids = [inference.ModelInferResponse.FromString(answer).id for answer in answers]
        assert ids == [f"{i}" for i in range(200)]

    asyncio.run(run())


def test_a_stream_of_many_questions_is_answered_in_order(channel: grpc.Channel) -> None:
    request, response = reflection.ServerReflectionRequest, reflection.ServerReflectionResponse
    names = [f"absent {number}.proto" for number in range(300)]
    answers = channel.stream_stream(REFLECT, request.SerializeToString, response.FromString)(
        iter([request(file_by_filename=name) for name in names]), timeout=TIMEOUT_S
    )
    assert [answer.original_request.file_by_filename for answer in answers] == names


def test_an_unknown_method_is_not_implemented(channel: grpc.Channel) -> None:
    status, details = outcome(channel, "/no.Such/Method", b"", streams=False)
    assert (status, "/no.Such/Method" in details) == ("UNIMPLEMENTED", True)


# ----- by hand, over sockets


class Wire:
    """A client of bytes."""

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self.socket = socket.create_connection((host, int(port)), timeout=20)

    def read_all(self) -> bytes:
        """Until the server closes."""
        parts = []
        with contextlib.suppress(ConnectionResetError):
            while part := self.socket.recv(65_536):
                parts.append(part)
        return b"".join(parts)

    def read_until(self, holds: Callable[[bytes], bool]) -> bytes:
        data = b""
        while not holds(data):
            part = self.socket.recv(65_536)
            assert part, "the server closed"
            data += part
        return data


@pytest.fixture
def wire(address: str) -> Iterator[Wire]:
    opened = Wire(address)
    with opened.socket:
        yield opened


def test_a_deadline_that_passed_is_told(wire: Wire) -> None:
    """By hand: a client keeps its own deadline too, and may be the first to tell."""
    fields = [(name, INFER if name == ":path" else value) for name, value in FIELDS]
    wire.socket.sendall(
        HELLO
        + frames.frame(
            frames.HEADERS,
            frames.END_HEADERS,
            1,
            Peer().block([*fields, ("grpc-timeout", "1n")]),
        )
        + frames.frame(
            frames.DATA, frames.END_STREAM, 1, framed(identity_request(10).SerializeToString())
        )
    )
    ended = encode([(b"grpc-status", b"4")])  # DEADLINE_EXCEEDED
    assert b"the deadline passed" in wire.read_until(lambda data: ended in data)


def test_http1_gets_an_answer_it_understands(wire: Wire) -> None:
    wire.socket.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    head, _, body = wire.read_all().partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 505 ")
    assert f"content-length: {len(body)}".encode() in head


@pytest.mark.parametrize("garbage", [b"\0" * 100, b"\x16\x03\x01" * 50, HELLO[:24] + b"\xff" * 90])
def test_garbage_is_closed_with_a_reason(wire: Wire, channel: grpc.Channel, garbage: bytes) -> None:
    wire.socket.sendall(garbage)
    kind, _, _, payload = parse_frames(wire.read_all())[-1]
    assert kind == frames.GOAWAY
    assert payload[8:]
    assert outcome(channel, LIVE, b"", streams=False)[0] == "OK"


def test_a_rapid_reset_closes_its_own_connection_only(wire: Wire, channel: grpc.Channel) -> None:
    block = b"\x83\x86\x04\x01/\x5f\x10application/grpc"
    opened = (
        frames.frame(frames.HEADERS, frames.END_HEADERS, number, block)
        + frames.rst_stream(number, 8)
        for number in range(1, 6001, 2)
    )
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        wire.socket.sendall(HELLO + b"".join(opened))
    wire.read_all()
    assert outcome(channel, LIVE, b"", streams=False)[0] == "OK"


def test_a_request_whose_client_goes_leaves_nothing_behind(
    both: dict[str, RunningServer], wire: Wire
) -> None:
    block = b"\x83\x86\x5f\x10application/grpc\x04\x2c" + INFER.encode()
    wire.socket.sendall(HELLO + frames.frame(frames.HEADERS, frames.END_HEADERS, 1, block))
    wire.read_until(lambda data: len(data) > 30)
    transport = both["http2"].server._transport
    assert isinstance(transport, Http2Server)
    wire.socket.shutdown(socket.SHUT_RDWR)
    with contextlib.closing(grpc.insecure_channel(both["http2"].address)) as channel:
        for _ in range(3):
            assert outcome(channel, LIVE, b"", streams=False)[0] == "OK"


# ----- other ways to listen


def entry_over(models: Path, stages: Sequence[Stage] = ()) -> Entry:
    """The calls over models that are never loaded: enough for health."""
    store = ModelStore(Repository(models), ServerConfig(models=models), RunThreads(1))
    return Entry(Calls(DataPlane(store)), stages)


@contextlib.asynccontextmanager
async def serving(
    entry: Entry, port: int = 0, *, limits: Http2Limits | None = None, **listening: Any
) -> AsyncIterator[Http2Server]:
    server = Http2Server(entry, Listening(port=port, **listening), limits)
    await server.start()
    try:
        yield server
    finally:
        await server.stop(5)


async def is_live(channel: grpc.aio.Channel) -> bool:
    answer = await channel.unary_unary(LIVE)(b"", timeout=TIMEOUT_S)
    return inference.ServerLiveResponse.FromString(answer).live


def test_tls_with_alpn_serves_and_without_it_is_closed(repository: Path, tmp_path: Path) -> None:
    authority = trustme.CA()
    tls = issue(authority, tmp_path)
    roots = authority.cert_pem.bytes()

    async def run() -> None:
        async with serving(entry_over(repository), tls=tls) as server:
            address = f"127.0.0.1:{server.port}"
            credentials = grpc.ssl_channel_credentials(roots)
            async with grpc.aio.secure_channel(address, credentials) as channel:
                assert await is_live(channel)
            client = ssl.create_default_context(cadata=roots.decode())
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", server.port, ssl=client, server_hostname="127.0.0.1"
            )
            writer.write(HELLO)
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""
            writer.close()

    asyncio.run(run())


def test_a_unix_socket_serves_and_its_file_goes(repository: Path, tmp_path: Path) -> None:
    path = tmp_path / "socket"

    async def run() -> None:
        async with (
            serving(entry_over(repository), unix_socket=path),
            grpc.aio.insecure_channel(f"unix:{path}") as channel,
        ):
            assert await is_live(channel)
        assert not path.exists()

    asyncio.run(run())


def test_two_servers_share_a_port_only_when_told(repository: Path) -> None:
    async def run() -> None:
        async with serving(entry_over(repository), shares_port=True) as first:
            async with serving(entry_over(repository), shares_port=True, port=first.port):
                pass
            with pytest.raises(UnavailableError, match="the port is in use"):
                async with serving(entry_over(repository), port=first.port):
                    pass

    asyncio.run(run())


def test_connections_over_the_limit_are_closed_and_others_go_on(repository: Path) -> None:
    async def run() -> None:
        limits = Http2Limits(max_connections=1)
        async with (
            serving(entry_over(repository), limits=limits) as server,
            grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel,
        ):
            assert await is_live(channel)
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            with contextlib.suppress(ConnectionResetError):
                assert await reader.read() == b""
            writer.close()
            assert await is_live(channel)

    asyncio.run(run())


def test_time_closes_what_does_not_move(repository: Path) -> None:
    """The watch is asked at a time to come, so that nobody waits."""

    async def run() -> None:
        async with serving(entry_over(repository)) as server:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(frames.PREFACE[:10])
            sent = await reader.readexactly(9)
            later_s = asyncio.get_running_loop().time() + 61
            for connection in list(server._connections):
                connection.watch(later_s)
            kind, _, _, payload = parse_frames(sent + await reader.read())[-1]
            assert (kind, payload[8:]) == (frames.GOAWAY, b"the rest of a frame did not come")
            writer.close()

    asyncio.run(run())


@pytest.mark.skipif(is_compiled(), reason="a compiled class has no subclass in Python")
def test_stages_see_the_same_call_over_both_transports(repository: Path) -> None:
    seen: list[CallContext] = []

    class Watch:
        def begin(self, context: CallContext) -> None:
            seen.append(context)

        def end(self, context: CallContext, begun: object, error: BaseException | None) -> None:
            pass

    async def ask(port: int) -> None:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            metadata = (("x-key", "secret"), ("traceparent", "00-ab-cd-01"), ("a-bin", b"\0"))
            request = health.HealthCheckRequest().SerializeToString()
            await channel.unary_unary("/grpc.health.v1.Health/Check")(
                request, timeout=TIMEOUT_S, metadata=metadata
            )

    async def run() -> None:
        entry = entry_over(repository, (Watch(),))
        async with serving(entry) as server:
            await ask(server.port)
            reference = GrpcioServer(entry, Listening())
            await reference.start()
            await ask(reference.port)
            await reference.stop(0)

    asyncio.run(run())
    http2, grpcio = seen
    assert http2.rpc is grpcio.rpc
    assert http2.metadata == grpcio.metadata
    assert http2.peer.startswith("ipv4:127.0.0.1:")
    assert grpcio.peer.startswith("ipv4:127.0.0.1:")
    assert http2.deadline_s == pytest.approx(grpcio.deadline_s, abs=TIMEOUT_S)  # asked in turn


def test_a_drain_answers_what_it_can_and_ends_the_rest(repository: Path) -> None:
    async def run() -> None:
        server = Http2Server(entry_over(repository), Listening())
        await server.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            question = reflection.ServerReflectionRequest(list_services="*").SerializeToString()
            endless = channel.stream_stream(REFLECT)(timeout=TIMEOUT_S)
            await endless.write(question)
            assert await endless.read()  # it runs, and its client never ends it
            stopping = asyncio.ensure_future(server.stop(0.3))
            await endless.write(question)
            assert await endless.read()  # still answered after the GOAWAY
            await stopping
            assert await endless.code() in (
                grpc.StatusCode.UNAVAILABLE,
                grpc.StatusCode.CANCELLED,
            )
            with pytest.raises(grpc.RpcError) as caught:
                await channel.unary_unary(LIVE)(b"", timeout=2, wait_for_ready=False)
            assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
        assert not server._connections

    asyncio.run(run())


def test_an_idle_connection_is_asked_to_go_and_a_mute_one_is_closed(repository: Path) -> None:
    """The watch is asked at times to come, so that nobody waits."""

    async def run() -> None:
        async with serving(entry_over(repository)) as server:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(HELLO)
            first = await reader.readexactly(9)
            loop = asyncio.get_running_loop()
            while not server._connections:
                await asyncio.sleep(0)
            (connection,) = server._connections
            connection.watch(loop.time() + 901)
            found = parse_frames(first + await reader.read())
            assert found[-1][0] == frames.GOAWAY
            assert found[-1][3][4:8] == b"\0\0\0\0"
            writer.close()

    asyncio.run(run())


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl_reads_why_its_request_is_no_call(address: str) -> None:
    asked = subprocess.run(
        # Without a body: curl gives up where the answer is there before it has sent all of it.
        ["curl", "-s", "-i", "--http2-prior-knowledge", "-X", "POST", f"http://{address}{LIVE}"],
        capture_output=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert asked.stdout.startswith(b"HTTP/2 415")
    assert b"expected application/grpc" in asked.stdout


@pytest.mark.slow
def test_two_thousand_idle_connections_cost_little(both: dict[str, RunningServer]) -> None:
    address = both["http2"].address
    with contextlib.ExitStack() as stack:
        before = resident_bytes()
        for _ in range(2000):
            wire = Wire(address)
            stack.enter_context(wire.socket)
            wire.socket.sendall(HELLO)
            wire.socket.recv(9)
        # Both ends are in this process; 40 KB is what a thread's smallest stack would take.
        assert (resident_bytes() - before) / 2000 < 40_000
        with grpc.insecure_channel(address) as channel:
            assert outcome(channel, LIVE, b"", streams=False)[0] == "OK"


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()
