"""What clients may leave unfinished, and how long they may stay: bounds of the whole server."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
from hpack import Decoder

from hlserve.serving.limits import LimitsConfig
from hlserve.serving.transports.http2 import Http2Limits, Http2Server, frames
from hlserve.serving.transports.http2.grpc_framing import PREFIX
from tests.serving.http2.peer import FIELDS, HELLO, Peer, parse_frames
from tests.serving.http2.test_over_sockets import INFER, REFLECT, entry_over, is_live, serving

STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"
LIMITS = Http2Limits(max_buffered_bytes=10_000)


@contextlib.asynccontextmanager
async def begun(server: Http2Server, path: str, body: bytes) -> AsyncIterator[asyncio.StreamReader]:
    """Sends the beginning of a call by a connection of its own."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    block = Peer().block([(k, path if k == ":path" else v) for k, v in FIELDS])
    writer.write(HELLO + frames.frame(frames.HEADERS, frames.END_HEADERS, 1, block))
    writer.write(frames.frame(frames.DATA, 0, 1, body))
    try:
        yield reader
    finally:
        writer.close()


async def until(holds: object) -> None:
    assert callable(holds)
    async with asyncio.timeout(20):
        while not holds():
            await asyncio.sleep(0)


async def answer_of(reader: asyncio.StreamReader) -> dict[str, str]:
    """The header block that ends the call."""
    data = b""
    async with asyncio.timeout(20):
        while True:
            part = await reader.read(65_536)
            assert part, "the server closed"
            data += part
            for kind, flags, _, payload in parse_frames(data):
                if kind == frames.HEADERS and flags & frames.END_STREAM:
                    return {str(name): str(value) for name, value in Decoder().decode(payload)}


@pytest.mark.parametrize("path", [INFER, REFLECT])
def test_unfinished_requests_of_all_connections_together_are_bounded(
    repository: Path, path: str
) -> None:
    part = PREFIX.pack(0, 50_000) + bytes(6000)

    async def run() -> None:
        async with serving(entry_over(repository), limits=LIMITS) as server:
            service = server._service
            async with begun(server, path, part):
                await until(lambda: service._held_bytes == len(part))
                async with begun(server, path, part) as reader:
                    refused = await answer_of(reader)
                assert refused["grpc-status"] == "14"
                assert "unfinished requests hold 12010 bytes" in refused["grpc-message"]
                await until(lambda: service._held_bytes == len(part))
            await until(lambda: service._held_bytes == 0)
            async with begun(server, path, part):
                await until(lambda: service._held_bytes == len(part))

    asyncio.run(run())


def test_a_stream_given_up_with_its_last_message_is_counted_out_once(repository: Path) -> None:
    """Counted out twice, it would let others hold more than the bound."""
    message = PREFIX.pack(0, 9) + b"\x0a\x07no such"
    given_up = frames.frame(frames.DATA, 0, 1, message) + frames.rst_stream(1, 8)

    async def run() -> None:
        async with serving(entry_over(repository), limits=LIMITS) as server:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            block = Peer().block([(k, STREAM if k == ":path" else v) for k, v in FIELDS])
            writer.write(HELLO + frames.frame(frames.HEADERS, frames.END_HEADERS, 1, block))
            writer.write(frames.frame(frames.DATA, 0, 1, message))
            async with asyncio.timeout(20):
                while b"no such" not in await reader.read(65_536):  # its answer: it was taken
                    pass
            writer.write(given_up)
            writer.close()
            await until(lambda: not server._connections)
            await until(lambda: len(asyncio.all_tasks()) == 1)
            assert server._service._held_bytes == 0

    asyncio.run(run())


def test_a_second_message_of_a_call_that_takes_one_is_refused_at_once(repository: Path) -> None:
    async def run() -> None:
        async with serving(entry_over(repository)) as server:
            async with begun(server, INFER, PREFIX.pack(0, 0) * 2) as reader:
                refused = await answer_of(reader)
            assert refused["grpc-status"] == "12"
            assert "2 whole messages came" in refused["grpc-message"]

    asyncio.run(run())


def test_headers_beyond_the_most_are_refused_where_the_client_did_not_look(
    repository: Path,
) -> None:
    """A gRPC client reads the bound in our settings and never sends them."""
    limits = Http2Limits.of(LimitsConfig(max_metadata_bytes=600))

    async def run() -> None:
        async with serving(entry_over(repository), limits=limits) as server:
            async with begun(server, "/" + "long" * 100, b"") as reader:
                refused = await answer_of(reader)
            assert refused["grpc-status"] == "8"
            assert "at most 600 are taken" in refused["grpc-message"]

    asyncio.run(run())


def test_an_old_connection_is_asked_to_go_and_its_client_connects_anew(repository: Path) -> None:
    """The watch is asked at a time to come, so that nobody waits."""
    limits = Http2Limits.of(LimitsConfig(max_connection_age_s=30))

    async def run() -> None:
        async with (
            serving(entry_over(repository), limits=limits) as server,
            grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel,
        ):
            assert await is_live(channel)
            (old,) = server._connections
            old.watch(asyncio.get_running_loop().time() + 29)
            assert await is_live(channel)
            assert server._connections == {old}
            old.watch(asyncio.get_running_loop().time() + 31)
            await until(lambda: old not in server._connections)
            assert await is_live(channel)

    asyncio.run(run())
