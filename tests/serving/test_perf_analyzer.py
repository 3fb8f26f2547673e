"""What perf_analyzer and tritonclient's own tools call, in their order, and what they rely on.

The sequence is perf_analyzer's (its model_parser.cc and inference_profiler.cc): metadata and
configuration, the server's extensions, then statistics before and after a window of requests.
"""

import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from hlserve.pb.messages import inference, message_class
from hlserve.rpcs import find
from tests.serving.running import RunningServer, running_server

WINDOW = 20


class Caller:
    """One connection; calls RPCs by name."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._channel = channel

    def __call__(self, rpc_name: str, /, **fields: Any) -> Any:
        rpc = find(rpc_name)
        return self._channel.unary_unary(
            rpc.path,
            request_serializer=message_class(rpc.request).SerializeToString,
            response_deserializer=message_class(rpc.response).FromString,
        )(message_class(rpc.request)(**fields), timeout=20)


@pytest.fixture
def call(server: RunningServer) -> Iterator[Caller]:
    with grpc.insecure_channel(server.address) as channel:
        yield Caller(channel)


def window(call: Caller) -> None:
    for number in range(WINDOW):
        request = inference.ModelInferRequest(model_name="mlp", id=str(number))
        request.parameters["triton_enable_empty_final_response"].bool_param = True
        request.inputs.add(name="input", datatype="FP32", shape=[1, 8])
        request.outputs.add(name="probabilities")
        request.outputs.add(name="logits")
        request.raw_input_contents.append(bytes(32))
        call("ModelInfer", **{field.name: value for field, value in request.ListFields()})


@pytest.mark.parametrize("model", ["mlp", "limited", "add_and_subtract", "fixed_batch", "slow"])
def test_the_configuration_names_what_the_metadata_names(call: Caller, model: str) -> None:
    metadata = call("ModelMetadata", name=model)
    config = call("ModelConfig", name=model).config
    assert config.name == model
    assert (config.platform, config.backend) == ("onnxruntime_onnx", "onnxruntime")
    for described, configured in (
        (metadata.inputs, config.input),
        (metadata.outputs, config.output),
    ):
        assert [tensor.name for tensor in described] == [tensor.name for tensor in configured]
        for tensor, wanted in zip(described, configured, strict=True):
            batch = [-1] if config.max_batch_size else []
            assert [*batch, *wanted.dims] == list(tensor.shape)
            assert (
                wanted.DESCRIPTOR.fields_by_name["data_type"]
                .enum_type.values_by_number[wanted.data_type]
                .name
                == f"TYPE_{tensor.datatype}"
            )
    assert config.HasField("dynamic_batching") == (config.max_batch_size > 0)


def test_a_model_whose_rows_are_not_joined_says_no_batch(call: Caller) -> None:
    assert call("ModelConfig", name="fixed_batch").config.max_batch_size == 0
    assert call("ModelConfig", name="limited").config.max_batch_size == 4


def test_statistics_are_keyed_by_name_and_integer_version(call: Caller) -> None:
    assert "statistics" in call("ServerMetadata").extensions
    (one,) = call("ModelStatistics", name="mlp").model_stats
    assert (one.name, int(one.version)) == ("mlp", 1)
    assert call("ModelStatistics", name="mlp", version="1").model_stats[0].name == "mlp"
    names = {record.name for record in call("ModelStatistics").model_stats}
    assert {"mlp", "limited", "slow"} <= names
    assert "corrupt" not in names


@pytest.mark.parametrize(
    ("fields", "status", "words"),
    [
        ({"name": "absent"}, "NOT_FOUND", "model 'absent' is not in"),
        ({"name": "mlp", "version": "9"}, "NOT_FOUND", "'mlp' version 9 is not served"),
        ({"name": "mlp", "version": "x"}, "INVALID_ARGUMENT", "version is 'x'"),
    ],
)
@pytest.mark.parametrize("name", ["ModelConfig", "ModelStatistics"])
def test_an_unknown_model_gets_its_status(
    call: Caller, name: str, fields: dict[str, str], status: str, words: str
) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        call(name, **fields)
    assert (caught.value.code().name, words in caught.value.details()) == (status, True)


def test_a_version_without_a_name_is_refused(call: Caller) -> None:
    with pytest.raises(grpc.RpcError, match="version '1' came without a model name"):
        call("ModelStatistics", version="1")


def test_a_window_of_requests_shows_in_every_count(call: Caller) -> None:
    """``queue.count`` must grow though nothing queues, or perf_analyzer finds no version."""
    before = call("ModelStatistics", name="mlp").model_stats[0]
    window(call)
    after = call("ModelStatistics", name="mlp").model_stats[0]
    assert after.inference_count - before.inference_count == WINDOW
    assert 0 < after.execution_count - before.execution_count <= WINDOW
    assert after.last_inference >= before.last_inference
    assert after.last_inference > 0
    for phase in ("success", "queue", "compute_input", "compute_infer", "compute_output"):
        old, new = getattr(before.inference_stats, phase), getattr(after.inference_stats, phase)
        assert new.count - old.count == WINDOW, phase
        assert new.ns >= old.ns
    assert after.inference_stats.compute_infer.ns > before.inference_stats.compute_infer.ns
    assert after.inference_stats.cache_hit.count == after.inference_stats.cache_miss.count == 0
    runs = sum(batch.compute_infer.count for batch in after.batch_stats)
    assert runs == after.execution_count


@pytest.mark.skipif(not os.access("/dev/shm", os.W_OK), reason="no /dev/shm to write to")
def test_the_shared_memory_mode_of_perf_analyzer(repository: Path, transport: str) -> None:
    name = f"hlserve-perf-{uuid.uuid4().hex}"
    path = Path("/dev/shm") / name
    path.write_bytes(np.ones(8, np.float32).tobytes() + bytes(96))
    try:
        with (
            running_server(repository, shared_memory=True, transport=transport) as server,
            grpc.insecure_channel(server.address) as channel,
        ):
            call = Caller(channel)
            call("SystemSharedMemoryUnregister", name="")
            call("CudaSharedMemoryUnregister", name="")
            call("SystemSharedMemoryRegister", name="in", key=f"/{name}", byte_size=32)
            call("SystemSharedMemoryRegister", name="out", key=f"/{name}", offset=32, byte_size=96)
            request = inference.ModelInferRequest(model_name="mlp")
            tensor = request.inputs.add(name="input", datatype="FP32", shape=[1, 8])
            for placed, region in ((tensor, "in"), (request.outputs.add(name="logits"), "out")):
                placed.parameters["shared_memory_region"].string_param = region
                placed.parameters["shared_memory_byte_size"].int64_param = 32
            fields = {field.name: value for field, value in request.ListFields()}
            answer = call("ModelInfer", **fields)
            assert answer.outputs[0].parameters["shared_memory_byte_size"].int64_param == 12
            assert np.frombuffer(path.read_bytes()[32:44], np.float32).any()
            call("SystemSharedMemoryUnregister", name="")
            assert not call("SystemSharedMemoryStatus").regions
    finally:
        path.unlink()


def test_tritonclient_reads_configuration_statistics_and_the_repository(
    server: RunningServer,
) -> None:
    triton = pytest.importorskip("tritonclient.grpc")
    with triton.InferenceServerClient(server.address) as client:
        config = client.get_model_config("mlp", as_json=True)["config"]
        assert config["input"] == [{"name": "input", "data_type": "TYPE_FP32", "dims": ["8"]}]
        assert config["max_batch_size"] == 64
        (record,) = client.get_inference_statistics("mlp").model_stats
        assert record.version == "1"
        states = {m.name: m.state for m in client.get_model_repository_index().models}
        assert states["mlp"] == "READY"
        assert states["corrupt"] == "UNAVAILABLE"
        for change in (
            lambda: client.load_model("mlp", config="{}", files={"file:1/model.onnx": b"x"}),
            lambda: client.unload_model("mlp"),
        ):
            with pytest.raises(
                Exception, match=r"StatusCode.UNAVAILABLE.*explicit model load / unload"
            ):
                change()


def test_the_index_can_leave_out_what_does_not_answer(call: Caller) -> None:
    everything = {model.name for model in call("RepositoryIndex").models}
    ready = {model.name for model in call("RepositoryIndex", ready=True).models}
    assert everything - ready == {"corrupt"}
    (corrupt,) = [m for m in call("RepositoryIndex").models if m.name == "corrupt"]
    assert "cannot load it" in corrupt.reason


def test_tritonclient_streams_answers_to_its_callback(server: RunningServer) -> None:
    triton = pytest.importorskip("tritonclient.grpc")
    answers: list[Any] = []
    tensor = triton.InferInput("x", [1, 2], "FP32")
    tensor.set_data_from_numpy(np.ones((1, 2), np.float32))
    with triton.InferenceServerClient(server.address) as client:
        client.start_stream(lambda result, error: answers.append((result, error)))
        for number, model in enumerate(["identity_FP32", "absent", "identity_FP32"]):
            client.async_stream_infer(model, [tensor], request_id=str(number))
        client.stop_stream()
    (first, _), (_, error), (last, _) = answers
    assert [first.get_response().id, last.get_response().id] == ["0", "2"]
    assert first.as_numpy("y").tolist() == [[1, 1]]
    assert "model 'absent' is not in" in str(error)


@pytest.mark.parametrize(
    ("name", "fields", "words"),
    [
        ("RepositoryIndex", {"repository_name": "other"}, "repository 'other' is unknown"),
        ("RepositoryModelLoad", {"repository_name": "other"}, "repository 'other' is unknown"),
        (
            "RepositoryModelLoad",
            {"model_name": "m", "parameters": {"config": {"int64_param": 1}}},
            "load of model 'm': parameter 'config' holds int64_param, expected string_param",
        ),
        (
            "RepositoryModelLoad",
            {"model_name": "m", "parameters": {"file:1/model.onnx": {"bytes_param": b"x"}}},
            "load of model 'm': files came without the parameter config",
        ),
        (
            "RepositoryModelLoad",
            {"model_name": "m", "parameters": {"nope": {"bool_param": True}}},
            "unknown parameter 'nope', expected config or file:<version>/<file>",
        ),
        (
            "RepositoryModelUnload",
            {"model_name": "m", "parameters": {"unload_dependents": {"string_param": "yes"}}},
            "parameter 'unload_dependents' holds string_param, expected bool_param",
        ),
        (
            "RepositoryModelUnload",
            {"model_name": "m", "parameters": {"nope": {}}},
            "unknown parameter 'nope', expected unload_dependents",
        ),
    ],
)
def test_wrong_repository_calls_are_told(
    call: Caller, name: str, fields: dict[str, Any], words: str
) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        call(name, **fields)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert words in caught.value.details()
