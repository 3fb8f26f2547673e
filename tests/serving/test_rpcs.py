"""Every row of the table of RPCs answers, over every transport; the table is complete."""

from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import grpc
import pytest

from hlserve import errors
from hlserve.errors import HlserveError
from hlserve.pb import messages
from hlserve.pb.messages import health, inference, message_class, prediction
from hlserve.rpcs import RPCS, SERVICES, Rpc, find
from hlserve.serving.description import EXTENSIONS
from hlserve.serving.transports import status
from tests.serving.running import RunningServer


def mlp_request() -> inference.ModelInferRequest:
    request = inference.ModelInferRequest(model_name="mlp", id="seven")
    tensor = request.inputs.add(name="input", datatype="FP32", shape=[1, 8])
    tensor.contents.fp32_contents.extend([0.0] * 8)
    return request


def mlp_prediction() -> prediction.PredictRequest:
    numbers = prediction.Numbers(values=[0.0] * 8)
    instances = [prediction.Instance(numbers=numbers)]
    return prediction.PredictRequest(model="mlp", id="seven", instances=instances)


INFERENCE = "/inference.GRPCInferenceService"
Refused = tuple[str, str]
# Path -> a request, and what must hold of the answer; or the status and words of its refusal.
CASES: dict[str, tuple[Callable[[], Any], Callable[[Any], bool] | Refused]] = {
    "/inference.GRPCInferenceService/ServerLive": (
        inference.ServerLiveRequest,
        lambda answer: answer.live,
    ),
    "/inference.GRPCInferenceService/ServerReady": (
        inference.ServerReadyRequest,
        lambda answer: answer.ready,
    ),
    "/inference.GRPCInferenceService/ModelReady": (
        lambda: inference.ModelReadyRequest(name="mlp", version="1"),
        lambda answer: answer.ready,
    ),
    "/inference.GRPCInferenceService/ServerMetadata": (
        inference.ServerMetadataRequest,
        lambda answer: (answer.name, tuple(answer.extensions)) == ("hlserve", EXTENSIONS),
    ),
    "/inference.GRPCInferenceService/ModelMetadata": (
        lambda: inference.ModelMetadataRequest(name="mlp"),
        lambda answer: list(answer.inputs[0].shape) == [-1, 8] and answer.versions == ["1"],
    ),
    "/inference.GRPCInferenceService/ModelInfer": (
        mlp_request,
        lambda answer: answer.id == "seven" and len(answer.raw_output_contents) == 2,
    ),
    "/hlserve.v1.Prediction/Predict": (
        mlp_prediction,
        lambda answer: answer.id == "seven" and len(answer.predictions[0].outputs) == 2,
    ),
    "/hlserve.v1.Prediction/PredictStream": (
        mlp_prediction,
        lambda answer: answer.response.id == "seven",
    ),
    f"{INFERENCE}/ModelStreamInfer": (
        mlp_request,
        lambda answer: answer.infer_response.id == "seven" and not answer.error_message,
    ),
    f"{INFERENCE}/ModelConfig": (
        lambda: inference.ModelConfigRequest(name="mlp", version="1"),
        lambda answer: (answer.config.name, answer.config.max_batch_size) == ("mlp", 64),
    ),
    f"{INFERENCE}/ModelStatistics": (
        lambda: inference.ModelStatisticsRequest(name="mlp"),
        lambda answer: [(s.name, s.version) for s in answer.model_stats] == [("mlp", "1")],
    ),
    f"{INFERENCE}/RepositoryIndex": (
        inference.RepositoryIndexRequest,
        lambda answer: (
            ("mlp", "1", "READY") in [(m.name, m.version, m.state) for m in answer.models]
        ),
    ),
    f"{INFERENCE}/RepositoryModelLoad": (
        lambda: inference.RepositoryModelLoadRequest(model_name="mlp"),
        ("UNAVAILABLE", "explicit model load / unload is not allowed"),
    ),
    f"{INFERENCE}/RepositoryModelUnload": (
        lambda: inference.RepositoryModelUnloadRequest(model_name="mlp"),
        ("UNAVAILABLE", "explicit model load / unload is not allowed"),
    ),
    f"{INFERENCE}/SystemSharedMemoryStatus": (
        inference.SystemSharedMemoryStatusRequest,
        ("UNIMPLEMENTED", "start it with --system-shared-memory"),
    ),
    f"{INFERENCE}/SystemSharedMemoryRegister": (
        lambda: inference.SystemSharedMemoryRegisterRequest(name="r", key="/k", byte_size=1),
        ("UNIMPLEMENTED", "start it with --system-shared-memory"),
    ),
    f"{INFERENCE}/SystemSharedMemoryUnregister": (
        inference.SystemSharedMemoryUnregisterRequest,
        ("UNIMPLEMENTED", "start it with --system-shared-memory"),
    ),
    f"{INFERENCE}/CudaSharedMemoryStatus": (
        inference.CudaSharedMemoryStatusRequest,
        lambda answer: not answer.regions,
    ),
    f"{INFERENCE}/CudaSharedMemoryRegister": (
        lambda: inference.CudaSharedMemoryRegisterRequest(name="r", raw_handle=b"h", byte_size=1),
        ("UNIMPLEMENTED", "CUDA shared memory is not offered"),
    ),
    f"{INFERENCE}/CudaSharedMemoryUnregister": (
        inference.CudaSharedMemoryUnregisterRequest,
        lambda answer: answer.ByteSize() == 0,
    ),
    f"{INFERENCE}/TraceSetting": (
        lambda: inference.TraceSettingRequest(model_name="mlp"),
        lambda answer: list(answer.settings["trace_level"].value) == ["OFF"],
    ),
    f"{INFERENCE}/LogSettings": (
        inference.LogSettingsRequest,
        lambda answer: answer.settings["log_error"].bool_param,
    ),
    "/grpc.health.v1.Health/Watch": (
        health.HealthCheckRequest,
        lambda answer: answer.status == answer.SERVING,
    ),
    "/grpc.health.v1.Health/Check": (
        health.HealthCheckRequest,
        lambda answer: answer.status == answer.SERVING,
    ),
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo": (
        lambda: messages.reflection.ServerReflectionRequest(list_services="*"),
        lambda answer: [s.name for s in answer.list_services_response.service] == list(SERVICES),
    ),
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": (
        lambda: messages.reflection_v1alpha.ServerReflectionRequest(list_services="*"),
        lambda answer: [s.name for s in answer.list_services_response.service] == list(SERVICES),
    ),
}


def call(channel: grpc.Channel, rpc: Rpc, request: Any) -> Any:
    codecs = {
        "request_serializer": message_class(rpc.request).SerializeToString,
        "response_deserializer": message_class(rpc.response).FromString,
    }
    if rpc.streams_request:
        answers = channel.stream_stream(rpc.path, **codecs)(iter([request]), timeout=20)
        return next(iter(answers))
    if rpc.streams_response:
        return next(iter(channel.unary_stream(rpc.path, **codecs)(request, timeout=20)))
    return channel.unary_unary(rpc.path, **codecs)(request, timeout=20)


@pytest.mark.parametrize("rpc", RPCS, ids=lambda rpc: rpc.path)
def test_every_served_rpc_answers(server: RunningServer, rpc: Rpc) -> None:
    make_request, expected = CASES[rpc.path]
    with grpc.insecure_channel(server.address) as channel:
        if callable(expected):
            assert expected(call(channel, rpc, make_request()))
            return
        with pytest.raises(grpc.RpcError) as caught:
            call(channel, rpc, make_request())
    status_name, words = expected
    assert (caught.value.code().name, words in caught.value.details()) == (status_name, True)


def test_the_table_lists_every_method_of_every_service_as_it_is_declared() -> None:
    declared = {}
    for file in messages.FILES:
        for service in messages.POOL.FindFileByName(file).services_by_name.values():
            for method in service.methods:
                declared[f"/{service.full_name}/{method.name}"] = (
                    method.input_type.full_name,
                    method.output_type.full_name,
                    method.client_streaming,
                    method.server_streaming,
                )
    listed = {
        rpc.path: (rpc.request, rpc.response, rpc.streams_request, rpc.streams_response)
        for rpc in RPCS
    }
    assert listed == declared


def test_every_served_rpc_has_a_case() -> None:
    assert set(CASES) == {rpc.path for rpc in RPCS}


def test_a_row_that_is_not_there_is_told() -> None:
    with pytest.raises(LookupError, match=r"no RPC inference\.GRPCInferenceService/Nope"):
        find("Nope")


def test_every_error_has_a_status() -> None:
    classes = {
        value
        for value in vars(errors).values()
        if isinstance(value, type) and issubclass(value, HlserveError)
    }
    assert set(status.STATUSES) == classes
    assert set(status.STATUSES.values()) <= set(status.STATUS_NUMBERS)
    for name, number in status.STATUS_NUMBERS.items():
        assert grpc.StatusCode[name].value[0] == number


@pytest.mark.parametrize("char", ["x", "%", "\n", "ž", "😀"])
@pytest.mark.parametrize("count", [300, 10_000])
def test_long_details_are_cut_in_the_middle_by_what_they_are_as_a_header(
    char: str, count: int
) -> None:
    text = status.details_of(HlserveError("begin" + char * count + "end"))
    sent = quote(text, safe="".join(map(chr, range(0x20, 0x7F))).replace("%", ""))
    assert len(sent) <= 4096  # half of the headers that clients take
    assert text.startswith("begin" + char * 100)
    assert text.endswith(char * 100 + "end")
    assert (" ... " in text) is (count > 300)


def test_reflection_gives_the_files_to_call_every_service(server: RunningServer) -> None:
    """What grpcurl does: learn the messages from the server, then call it."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    reflection = messages.reflection
    rpc = find("ServerReflectionInfo", "grpc.reflection.v1.ServerReflection")
    question = reflection.ServerReflectionRequest(
        file_containing_symbol="inference.GRPCInferenceService"
    )
    pool = descriptor_pool.DescriptorPool()
    with grpc.insecure_channel(server.address) as channel:
        answer = call(channel, rpc, question)
        for data in reversed(answer.file_descriptor_response.file_descriptor_proto):
            pool.Add(descriptor_pb2.FileDescriptorProto.FromString(data))
        method = pool.FindMethodByName("inference.GRPCInferenceService.ServerLive")
        request = message_factory.GetMessageClass(method.input_type)
        response = message_factory.GetMessageClass(method.output_type)
        live = channel.unary_unary(
            "/inference.GRPCInferenceService/ServerLive",
            request_serializer=request.SerializeToString,
            response_deserializer=response.FromString,
        )
        assert live(request()).live


@pytest.mark.parametrize(
    ("question", "code", "text"),
    [
        ({"file_by_filename": "absent.proto"}, 5, "file 'absent.proto' is unknown"),
        ({"file_containing_symbol": "no.Such"}, 5, "symbol 'no.Such' is unknown"),
        ({"all_extension_numbers_of_type": "no.Such"}, 5, "symbol 'no.Such' is unknown"),
        ({"file_containing_extension": {"containing_type": "a"}}, 5, "have no extensions"),
        ({}, 3, "asks nothing"),
    ],
)
def test_a_wrong_reflection_question_gets_an_error_answer(
    server: RunningServer, question: dict[str, Any], code: int, text: str
) -> None:
    rpc = find("ServerReflectionInfo", "grpc.reflection.v1.ServerReflection")
    with grpc.insecure_channel(server.address) as channel:
        answer = call(channel, rpc, messages.reflection.ServerReflectionRequest(**question))
    assert answer.error_response.error_code == code
    assert text in answer.error_response.error_message


def test_reflection_answers_by_file_name_and_for_extension_numbers(server: RunningServer) -> None:
    rpc = find("ServerReflectionInfo", "grpc.reflection.v1.ServerReflection")
    request = messages.reflection.ServerReflectionRequest
    with grpc.insecure_channel(server.address) as channel:
        answer = call(channel, rpc, request(file_by_filename="hlserve/pb/health.proto"))
        assert len(answer.file_descriptor_response.file_descriptor_proto) == 1
        name = "inference.ModelInferRequest"
        answer = call(channel, rpc, request(all_extension_numbers_of_type=name))
        assert answer.all_extension_numbers_response.base_type_name == name
