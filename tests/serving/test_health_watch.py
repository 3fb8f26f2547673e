"""Health Watch: the state now, every change, services that are not there, and the end."""

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import grpc
import pytest

from hlserve.errors import ShuttingDownError
from hlserve.pb.messages import health
from hlserve.rpcs import HEALTH_SERVICE, find
from tests.serving import models
from tests.serving.running import running_server

STATUS = health.HealthCheckResponse


def watch(channel: grpc.Channel, service: str = "") -> Any:
    return channel.unary_stream(
        find("Watch", HEALTH_SERVICE).path,
        request_serializer=health.HealthCheckRequest.SerializeToString,
        response_deserializer=STATUS.FromString,
    )(health.HealthCheckRequest(service=service), timeout=30)


def test_a_drain_is_told_to_those_who_watch_and_then_ends_them(
    tmp_path: Path, transport: str
) -> None:
    models.put(tmp_path, "m", models.mlp())
    with (
        running_server(tmp_path, transport=transport) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        whole, one = watch(channel), watch(channel, "inference.GRPCInferenceService")
        assert next(whole).status == next(one).status == STATUS.SERVING
        asyncio.run_coroutine_threadsafe(server.server.drain(), server.loop).result(timeout=30)
        for states in (whole, one):
            assert next(states).status == STATUS.NOT_SERVING
            with pytest.raises(grpc.RpcError) as caught:
                next(states)
            assert caught.value.code() == grpc.StatusCode.UNAVAILABLE


def test_an_unknown_service_is_told_and_the_call_stays_open(tmp_path: Path, transport: str) -> None:
    models.put(tmp_path, "m", models.mlp())
    with (
        running_server(tmp_path, transport=transport) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        states = watch(channel, "no.Such")
        assert next(states).status == STATUS.SERVICE_UNKNOWN
        assert states.is_active()
        states.cancel()
        assert next(watch(channel)).status == STATUS.SERVING


def test_a_server_that_loads_is_not_serving_first(tmp_path: Path) -> None:
    """A watch from before the models are there sees them come."""
    from hlserve.repository import Repository
    from hlserve.serving.batching import RunThreads
    from hlserve.serving.config import ServerConfig
    from hlserve.serving.dataplane import DataPlane
    from hlserve.serving.store import ModelStore

    models.put(tmp_path, "m", models.mlp())

    async def main(threads: RunThreads) -> list[bool | None]:
        config = ServerConfig(models=tmp_path)
        store = ModelStore(Repository(tmp_path), config, threads)
        plane = DataPlane(store)
        states: AsyncGenerator[bool | None] = plane.watch_health("")
        seen = [await anext(states)]
        waiting = asyncio.ensure_future(anext(states))
        await asyncio.to_thread(store.load_all)
        plane.readiness.changed()
        seen.append(await waiting)
        plane.readiness.changed()  # nothing is told where nothing changed
        plane.begin_drain()
        seen.append(await anext(states))
        plane.readiness.close()
        with pytest.raises(ShuttingDownError):
            await anext(states)
        return seen

    threads = RunThreads(1)
    assert asyncio.run(main(threads)) == [False, True, False]
    threads.shutdown(wait=True)
