"""What the server says about itself and its models, and how it ends."""

import asyncio
import hashlib
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from hlserve import datatypes
from hlserve.client import InferenceClient
from hlserve.errors import NotFoundError, ServerError
from hlserve.pb.messages import inference
from hlserve.repository import Metadata, TensorSpec, publish
from hlserve.serving.config import ControlConfig
from hlserve.serving.description import EXTENSIONS
from tests.serving import models
from tests.serving.running import RunningServer, running_server


@pytest.fixture
def root(tmp_path: Path) -> Path:
    content = models.mlp()
    metadata = Metadata(
        inputs=(TensorSpec("input", "FP32", (-1, 8), units="cm"),),
        outputs=(
            TensorSpec("probabilities", "FP32", (-1, 3)),
            TensorSpec("logits", "FP32", (-1, 3)),
        ),
        task="classification",
        class_labels=("ärmel", "b", "c"),
        producer="test",
        created="2026-01-01T00:00:00Z",
        sha256=hashlib.sha256(content).hexdigest(),
    )
    publish(tmp_path / "m", model=content, metadata=metadata)
    models.put(tmp_path, "slow", models.slow())
    return tmp_path


def test_metadata_of_a_version_shows_as_properties(root: Path, transport: str) -> None:
    with (
        running_server(root, transport=transport) as server,
        InferenceClient(server.address) as client,
    ):
        properties = client.model_metadata("m").properties
        assert client.model_metadata("slow").properties == {}
    assert json.loads(properties["class_labels"]) == ["ärmel", "b", "c"]
    assert json.loads(properties["units"]) == {"input": "cm"}
    assert properties["task"] == "classification"
    assert properties["sha256"] == hashlib.sha256(models.mlp()).hexdigest()


@pytest.mark.parametrize(
    ("options", "more"),
    [
        ({}, ()),
        ({"control": ControlConfig("poll")}, ()),
        ({"control": ControlConfig("explicit", ("m",))}, ("model_repository",)),
        ({"shared_memory": True}, ("system_shared_memory",)),
    ],
)
def test_the_extensions_are_those_that_are_there(
    root: Path, options: dict[str, Any], more: tuple[str, ...]
) -> None:
    with running_server(root, **options) as server, InferenceClient(server.address) as client:
        assert client.server_metadata().extensions == EXTENSIONS + more


def test_every_request_is_counted_queued_or_not_and_refused_ones_by_reason(
    root: Path, transport: str
) -> None:
    with (
        running_server(root, transport=transport) as server,
        InferenceClient(server.address) as client,
    ):
        for _ in range(5):
            client.infer("m", {"input": np.ones((2, 8), np.float32)})
        with pytest.raises(ServerError, match="INVALID_ARGUMENT"):
            client.infer("m", {"input": np.ones((2, 7), np.float32)})
        (counts,) = [model.statistics for model in server.server.models if model.name == "m"]
    assert counts.success.count == counts.queue.count == counts.compute_infer.count == 5
    assert (counts.inference_count, counts.execution_count) == (10, 5)
    assert counts.failures == {"REJECTED": 0, "CANCELED": 0, "BACKEND": 0, "OTHER": 1}
    assert counts.pending == 0
    assert counts.last_inference_ms > 0


def test_a_request_whose_caller_went_away_never_runs(root: Path, transport: str) -> None:
    first, second = slow_request(20_000), slow_request(1)
    with (
        running_server(root, transport=transport) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        (counts,) = [model.statistics for model in server.server.models if model.name == "slow"]
        infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        running = infer.future(first, timeout=30)
        _wait_for(lambda: counts.pending == 1)
        waiting = infer.future(second, timeout=30)
        _wait_for(lambda: counts.pending == 2)
        waiting.cancel()
        _wait_for(lambda: counts.failures["CANCELED"] == 1)
        assert running.result()
        assert (counts.execution_count, counts.pending) == (1, 0)


def slow_request(repeats: int) -> bytes:
    request = inference.ModelInferRequest(model_name="slow")
    for name, array in models.slow_inputs(repeats).items():
        request.inputs.add(
            name=name, datatype=datatypes.of_array(array).name, shape=list(array.shape)
        )
        request.raw_input_contents.append(array.tobytes())
    return request.SerializeToString()


def _wait_for(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < end, "it did not happen in time"


def drain(server: RunningServer) -> bool:
    future = asyncio.run_coroutine_threadsafe(server.server.drain(), server.loop)
    return future.result(timeout=30)


def test_draining_is_not_ready_first_refuses_the_new_and_finishes_the_old(
    root: Path, transport: str
) -> None:
    answers: list[object] = []
    with (
        running_server(root, transport=transport) as server,
        InferenceClient(server.address) as client,
    ):
        asking = threading.Thread(
            target=lambda: answers.append(client.infer("slow", models.slow_inputs(100_000)))
        )
        asking.start()
        _wait_until_in_flight(server)
        draining = threading.Thread(target=drain, args=(server,))
        draining.start()
        while client.is_server_ready():
            pass
        assert client.is_server_live()
        assert not client.is_healthy()
        assert not client.is_model_ready("m")
        with pytest.raises(ServerError, match="UNAVAILABLE: the server is shutting down"):
            client.infer("m", np.zeros((1, 8), np.float32))
        asking.join(30)
        draining.join(30)
    assert len(answers) == 1


def test_what_does_not_end_in_time_is_ended(root: Path, transport: str) -> None:
    failures: list[ServerError] = []

    def ask(client: InferenceClient) -> None:
        try:
            client.infer("slow", models.slow_inputs(100_000))
        except ServerError as error:
            failures.append(error)

    with (
        running_server(root, drain_timeout_s=0.05, transport=transport) as server,
        InferenceClient(server.address) as client,
    ):
        asking = threading.Thread(target=ask, args=(client,))
        asking.start()
        _wait_until_in_flight(server)
        assert not drain(server)
        asking.join(30)
    assert failures
    assert failures[0].status in {"UNAVAILABLE", "CANCELLED"}


def _wait_until_in_flight(server: RunningServer) -> None:
    """Until the data plane has taken a request, asked on its own loop."""

    async def is_idle() -> bool:
        return await server.server._data_plane.drained(0)

    while asyncio.run_coroutine_threadsafe(is_idle(), server.loop).result(timeout=30):
        pass


def test_the_health_of_a_service_that_is_not_there_is_not_found(root: Path, transport: str) -> None:
    with running_server(root, transport=transport) as server:
        with pytest.raises(NotFoundError, match="service 'x' is unknown"):
            server.server._data_plane.health_check("x")
        assert server.server._data_plane.health_check("inference.GRPCInferenceService")
