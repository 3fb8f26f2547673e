"""Whole calls: the server's protocol over the real table of RPCs, a connection an input."""

import asyncio
from pathlib import Path
from typing import Any

from hpack import Decoder

from hlserve.repository import Repository
from hlserve.serving.batching import RunThreads
from hlserve.serving.config import ServerConfig
from hlserve.serving.dataplane import DataPlane
from hlserve.serving.listening import Listening
from hlserve.serving.store import ModelStore
from hlserve.serving.transports.calls import Calls
from hlserve.serving.transports.entry import Entry
from hlserve.serving.transports.http2 import Http2Limits, Http2Server
from hlserve.serving.transports.http2 import frames as wire
from hlserve.serving.transports.http2.grpc_framing import framed
from hlserve.serving.transports.http2.headers import encode
from tests.fuzz.targets.pieces import cut

MODELS = Path(__file__).parents[3] / "models"  # which are never loaded
HELLO = wire.PREFACE + wire.settings({})
LIMITS = Http2Limits(
    stream_window_bytes=2000,
    connection_window_bytes=70_000,
    max_message_bytes=1000,
    max_buffered_bytes=1500,
    max_unsent_bytes=1000,
    reset_burst=8,
    control_burst=16,
)
PATHS = (
    "/inference.GRPCInferenceService/ServerLive",
    "/inference.GRPCInferenceService/ServerMetadata",
    "/inference.GRPCInferenceService/ModelInfer",
    "/inference.GRPCInferenceService/ModelStreamInfer",
    "/inference.GRPCInferenceService/ModelMetadata",
    "/grpc.health.v1.Health/Check",
    "/grpc.health.v1.Health/Watch",
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
)
_TURNS = 12  # of the loop: an answer that waits for nothing takes fewer


class Written(asyncio.Transport):
    """The socket's side: what was written, and whether it was closed."""

    def __init__(self) -> None:
        super().__init__()
        self.data = bytearray()
        self.closed = False

    def write(self, data: Any) -> None:
        assert not self.closed
        self.data += data

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = True

    def get_write_buffer_size(self) -> int:
        return 0


def calls(data: bytes) -> None:
    """The first byte says how the rest is cut into reads."""
    if data:
        errors: list[dict[str, Any]] = []
        with asyncio.Runner() as runner:
            runner.get_loop().set_exception_handler(lambda _loop, context: errors.append(context))
            runner.run(_connection(data[0], data[1:]))
        assert not errors, errors


async def _connection(step: int, data: bytes) -> None:
    server = Http2Server(Entry(_calls()), Listening(host=""), LIMITS)
    protocol, transport = server._protocol(), Written()
    protocol.connection_made(transport)
    for piece in (HELLO, *cut(built(data), step * 8)):
        if not transport.closed:
            protocol.data_received(piece)
        await _turns()
    protocol.connection_lost(None)
    await _turns()
    left = asyncio.all_tasks() - {asyncio.current_task()}
    assert not left, f"calls of a connection that is gone go on: {left}"
    assert server._service._held_bytes == 0, "a request that is gone is counted still"
    _check_answers(bytes(transport.data))


def _calls() -> Calls:
    config = ServerConfig(models=MODELS)
    return Calls(DataPlane(ModelStore(Repository(MODELS), config, RunThreads(1))))


async def _turns() -> None:
    for _ in range(_TURNS):
        await asyncio.sleep(0)


def built(data: bytes) -> bytes:
    """Frames of four bytes (kind, flags, stream, length) and a payload; some made whole."""
    out = []
    while len(data) >= 4:
        kind, flags, number, size = data[:4]
        payload, data = data[4 : 4 + size], data[4 + size :]
        if 0x20 <= kind < 0x20 + len(PATHS):
            kind, payload = wire.HEADERS, _request(PATHS[kind - 0x20]) + payload
        elif kind == 0x10:
            kind, payload = wire.DATA, framed(payload)
        elif kind == 0x11:
            kind, payload = wire.DATA, b"\0\0\0\3" + payload * 8
        out.append(wire.frame(kind, flags, number, payload))
    return b"".join(out)


def _request(path: str) -> bytes:
    return encode(
        [
            (b":method", b"POST"),
            (b":scheme", b"http"),
            (b":path", path.encode()),
            (b"content-type", b"application/grpc"),
            (b"te", b"trailers"),
        ]
    )


def _check_answers(sent: bytes) -> None:
    """Each answer is headers, messages, trailers with a status; or trailers alone."""
    decoder, position = Decoder(), 0
    begun, ended = set[int](), set[int]()
    while position < len(sent):
        word, flags, number = wire.HEADER.unpack_from(sent, position)
        start = position + wire.HEADER_BYTES
        position = start + (word >> 8)
        if word & 0xFF not in (wire.HEADERS, wire.DATA):
            continue
        assert number not in ended, "an answer after its end"
        if word & 0xFF == wire.DATA:
            assert number in begun, "a message before the headers"
            continue
        fields = {bytes(k): bytes(v) for k, v in decoder.decode(sent[start:position], raw=True)}
        assert (b":status" in fields) == (number not in begun)
        begun.add(number)
        if flags & wire.END_STREAM:
            ended.add(number)
            status = fields.get(b"grpc-status")
            # Requests that are no gRPC calls are answered by HTTP's own statuses.
            assert int(status) <= 16 if status else fields[b":status"] != b"200"
    assert position == len(sent)
