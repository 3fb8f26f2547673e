"""What is too much is refused with the right status, and the next request is answered."""

import concurrent.futures
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest

from hlserve.client import InferenceClient
from hlserve.errors import ConfigError, TooManyRequestsError
from hlserve.pb.messages import inference
from hlserve.rpcs import find
from hlserve.serving.limits import LimitsConfig
from hlserve.serving.transports.admission import Admission
from hlserve.serving.transports.context import CallContext
from tests.serving import models
from tests.serving.running import RunningServer, running_server

INFER = find("ModelInfer")
READY = "/inference.GRPCInferenceService/ServerReady"


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory, transport: str) -> Iterator[RunningServer]:
    root = tmp_path_factory.mktemp("models")
    models.put(root, "identity", models.identity("UINT8"))
    limits = LimitsConfig(
        max_message_bytes=2**20, max_tensor_elements=1000, max_metadata_bytes=4096
    )
    with running_server(root, limits=limits, transport=transport) as running:
        yield running


def request_of(size: int) -> bytes:
    request = inference.ModelInferRequest(model_name="identity", raw_input_contents=[bytes(size)])
    request.inputs.add(name="x", datatype="UINT8", shape=[1, size])
    return request.SerializeToString()


@pytest.mark.parametrize(
    ("size", "options", "status", "words"),
    [
        (2**21, {}, "RESOURCE_EXHAUSTED", "1048576"),
        # A bomb: 100 MB that travel as 100 kB.
        (10**8, {"compression": grpc.Compression.Gzip}, "RESOURCE_EXHAUSTED", ""),
        (1001, {}, "INVALID_ARGUMENT", "input 'x': shape [1, 1001] holds 1001 elements"),
        (10, {"metadata": [("long", "x" * 5000)]}, "RESOURCE_EXHAUSTED", ""),
    ],
    ids=["message", "gzip bomb", "elements", "metadata"],
)
def test_too_much_is_refused_and_the_next_request_answered(
    narrow: RunningServer, size: int, options: dict[str, object], status: str, words: str
) -> None:
    with grpc.insecure_channel(narrow.address, [("grpc.max_send_message_length", -1)]) as channel:
        call = channel.unary_unary(INFER.path)
        with pytest.raises(grpc.RpcError) as caught:
            call(request_of(size), timeout=20, **options)
        assert caught.value.code().name == status, caught.value.details()
        assert words in caught.value.details()
        assert call(request_of(1000), timeout=20)


def test_a_request_beyond_the_most_at_once_is_refused_and_health_still_answers(
    tmp_path: Path, transport: str
) -> None:
    models.put(tmp_path, "slow", models.slow())
    limits = LimitsConfig(max_concurrent_requests=1)
    with (
        running_server(tmp_path, limits=limits, transport=transport) as running,
        InferenceClient(running.address, timeout_s=20) as client,
        grpc.insecure_channel(running.address) as channel,
        concurrent.futures.ThreadPoolExecutor(1) as threads,
    ):
        (model,) = running.server.models
        run = threads.submit(client.infer, "slow", models.slow_inputs(50_000))
        while not model.statistics.pending:
            assert not run.done()
        assert client.is_server_ready()
        with pytest.raises(grpc.RpcError) as caught:  # our client would ask again
            channel.unary_unary(INFER.path)(request_of(1), timeout=20)
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
        assert "1 requests are in flight" in caught.value.details()
        assert run.result(timeout=30)
        assert client.infer("slow", models.slow_inputs(1)).outputs["y"].shape == (8, 256)


def test_calls_that_wait_for_a_busy_loop_are_answered_and_not_cancelled(
    narrow: RunningServer,
) -> None:
    """gRPC's core on its own cancels calls, without a word, as soon as 1,000 are not taken yet."""
    is_over = threading.Event()
    # Each a connection of its own; 1,024 calls may be on one.
    channels = [grpc.insecure_channel(narrow.address, [("number", n)]) for n in range(3)]
    narrow.loop.call_soon_threadsafe(is_over.wait, 20)
    try:
        calls = [channel.unary_unary(READY).future(b"") for channel in channels for _ in range(800)]
    finally:
        is_over.set()
    statuses = Counter(call.code() for call in calls)  # waits for each
    for channel in channels:
        channel.close()
    assert statuses == {grpc.StatusCode.OK: len(calls)}


def sized(request_bytes: int) -> CallContext:
    context = CallContext(INFER)
    context.record.request_bytes = request_bytes
    return context


def test_requests_make_room_when_they_end() -> None:
    admission = Admission(LimitsConfig(max_concurrent_requests=2, max_in_flight_bytes=100))
    call = sized(60)
    begun = admission.begin(call)
    with pytest.raises(TooManyRequestsError, match="would hold 120 bytes, this server takes 100"):
        admission.begin(call)
    admission.end(call, begun, None)
    # Alone, a request may be larger than all together: it was measured by itself before.
    large = sized(500)
    admission.end(large, admission.begin(large), None)
    small = sized(1)
    admission.begin(small)
    admission.begin(small)
    with pytest.raises(TooManyRequestsError, match="2 requests are in flight"):
        admission.begin(small)
    assert admission.begin(CallContext(find("ServerLive"))) == -1


def test_connections_beyond_the_most_are_closed_and_make_room(
    tmp_path: Path, transport: str
) -> None:
    models.put(tmp_path, "mlp", models.mlp())
    with running_server(
        tmp_path, limits=LimitsConfig(max_connections=2), transport=transport
    ) as running:
        alone = [("grpc.use_local_subchannel_pool", 1)]
        first = grpc.insecure_channel(running.address, alone)
        second = grpc.insecure_channel(running.address, alone)
        third = grpc.insecure_channel(running.address, alone)
        try:
            assert first.unary_unary(READY)(b"", timeout=20)
            assert second.unary_unary(READY)(b"", timeout=20)
            with pytest.raises(grpc.RpcError) as caught:
                third.unary_unary(READY)(b"", timeout=5)
            assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
            first.close()
            assert third.unary_unary(READY)(b"", timeout=20, wait_for_ready=True)
        finally:
            second.close()
            third.close()


@pytest.mark.parametrize(
    ("limit", "words"),
    [
        ({"max_message_bytes": 0}, "max message bytes is 0, expected at least 1"),
        ({"max_message_bytes": 2**31}, "expected less than 2 GiB"),
        ({"max_connection_age_s": -1}, "max connection age s is -1, expected at least 0"),
    ],
)
def test_an_impossible_limit_is_told(limit: dict[str, int], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        LimitsConfig(**limit)


def test_the_default_takes_a_batch_of_images(tmp_path: Path, transport: str) -> None:
    models.put(tmp_path, "identity", models.identity("FP32"))
    images = np.zeros((32, 3 * 224 * 224), np.float32)
    with (
        running_server(tmp_path, transport=transport) as running,
        InferenceClient(running.address, timeout_s=60) as client,
    ):
        assert client.infer("identity", images).outputs["y"].shape == images.shape
