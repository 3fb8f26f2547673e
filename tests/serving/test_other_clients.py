"""Unmodified clients of other projects, against local ONNX Runtime, for every datatype."""

import base64
import importlib.util
import subprocess
import sys
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory
from numpy.typing import NDArray

from hlserve import datatypes
from hlserve.pb.messages import reflection
from hlserve.rpcs import find
from hlserve.serving.session import Session
from tests.serving import models
from tests.serving.running import RunningServer

DATATYPES = [row.name for row in datatypes.DATATYPES]


def values(datatype: str) -> NDArray[Any]:
    rng = np.random.default_rng(0)
    dtype = datatypes.by_name(datatype).dtype
    if datatype == "BYTES":
        return np.array([[b"", b"plain", "žluť".encode()], [b"a\x00b", b" ", b"x" * 300]], object)
    if datatype == "BF16":
        bits = np.array([[0x7FC0, 0x7F80, 0x0001], [0xBF80, 0x4049, 0x8000]], np.uint16)
        return bits.view(pytest.importorskip("ml_dtypes").bfloat16)
    if dtype.kind == "f":
        array = rng.standard_normal((2, 3)).astype(dtype)
        array[0] = [np.nan, np.inf, np.finfo(dtype).smallest_subnormal]
        return array
    if dtype.kind == "b":
        return np.array([[True, False, True], [False, False, True]])
    info = np.iinfo(dtype)
    return np.array([[info.min, info.max, 1], [2, 3, 4]], dtype=dtype)


def local_answer(datatype: str, array: NDArray[Any]) -> NDArray[Any]:
    if datatype == "BF16":
        return array  # Identity; ONNX Runtime itself takes and gives none from Python
    answer = Session(models.identity(datatype)).run({"x": array}, ["y"])["y"]
    if datatype == "BYTES":
        return np.array([[text.encode() for text in row] for row in answer], dtype=object)
    return answer


@pytest.mark.parametrize("datatype", DATATYPES)
def test_tritonclient_beside_hlserve_gets_bit_equal_answers(
    server: RunningServer, datatype: str
) -> None:
    triton = pytest.importorskip("tritonclient.grpc", reason="tritonclient is not installed")
    array = values(datatype)
    with triton.InferenceServerClient(server.address) as client:
        tensor = triton.InferInput("x", list(array.shape), datatype)
        tensor.set_data_from_numpy(array)
        result = client.infer(
            f"identity_{datatype}",
            [tensor],
            outputs=[triton.InferRequestedOutput("y")],
            request_id="42",
        )
    answer = result.as_numpy("y")
    expected = local_answer(datatype, array)
    assert result.get_response().id == "42"
    assert answer.dtype == expected.dtype
    assert answer.shape == expected.shape
    if datatype == "BYTES":
        assert answer.tolist() == expected.tolist()
    else:
        assert answer.tobytes() == expected.tobytes()


def test_tritonclient_reads_health_and_metadata_and_several_outputs(server: RunningServer) -> None:
    triton = pytest.importorskip("tritonclient.grpc", reason="tritonclient is not installed")
    with triton.InferenceServerClient(server.address) as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("add_and_subtract", "1")
        assert client.get_server_metadata().name == "hlserve"
        metadata = client.get_model_metadata("add_and_subtract")
        assert [tensor.name for tensor in metadata.outputs] == ["sum", "difference"]
        tensors = []
        for name, value in (("a", 5.0), ("b", 3.0)):
            tensor = triton.InferInput(name, [1, 2], "FP32")
            tensor.set_data_from_numpy(np.full((1, 2), value, np.float32))
            tensors.append(tensor)
        result = client.infer("add_and_subtract", tensors)
        assert result.as_numpy("sum").tolist() == [[8.0, 8.0]]
        assert result.as_numpy("difference").tolist() == [[2.0, 2.0]]
        with pytest.raises(Exception, match=r"StatusCode.NOT_FOUND.*model 'absent'"):
            client.infer("absent", tensors)


KSERVE = """
import asyncio, sys
import numpy as np
import hlserve.client
from kserve import InferenceGRPCClient, InferInput, InferRequest

async def main(address):
    client = InferenceGRPCClient(url=address)
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    tensor = InferInput(name="x", shape=[2, 3], datatype="FP32")
    tensor.set_data_from_numpy(array)
    answer = await client.infer(
        InferRequest(model_name="identity_FP32", infer_inputs=[tensor])
    )
    assert answer.outputs[0].as_numpy().tobytes() == array.tobytes()
    print("equal")

asyncio.run(main(sys.argv[1]))
"""


@pytest.mark.skipif(importlib.util.find_spec("kserve") is None, reason="kserve is not installed")
def test_kserve_beside_hlserve_gets_bit_equal_answers(server: RunningServer) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", KSERVE, server.address], capture_output=True, text=True, timeout=120
    )
    assert ran.stdout.strip() == "equal", ran.stderr


TRITON_AIO = """
import asyncio, sys
import numpy as np
import tritonclient.grpc.aio as triton
from tritonclient.utils import InferenceServerException

def tensor(rows):
    array = np.arange(3 * rows, dtype=np.float32).reshape(rows, 3)
    made = triton.InferInput("x", list(array.shape), "FP32")
    made.set_data_from_numpy(array)
    return array, made

async def main(address):
    async with triton.InferenceServerClient(address) as client:
        assert await client.is_server_ready()
        asked = [tensor(rows) for rows in range(1, 9)]
        answers = await asyncio.gather(
            *(client.infer("identity_FP32", [made], request_id=str(n))
              for n, (_, made) in enumerate(asked))
        )
        for n, ((array, _), answer) in enumerate(zip(asked, answers)):
            assert answer.get_response().id == str(n)
            assert answer.as_numpy("y").tobytes() == array.tobytes()

        async def requests():
            for n, name in enumerate(["identity_FP32", "absent", "identity_FP32"]):
                yield {"model_name": name, "inputs": [tensor(2)[1]], "request_id": str(n)}

        streamed = [each async for each in client.stream_infer(requests())]
        for n in (0, 2):
            result, error = streamed[n]
            assert error is None and result.get_response().id == str(n)
            assert result.as_numpy("y").tobytes() == tensor(2)[0].tobytes()
        assert isinstance(streamed[1][1], InferenceServerException)
        assert "model 'absent'" in str(streamed[1][1])
    print("equal")

asyncio.run(main(sys.argv[1]))
"""

TRITON_STREAM = """
import queue, sys
import numpy as np
import tritonclient.grpc as triton

answers = queue.Queue()
array = np.arange(6, dtype=np.float32).reshape(2, 3)
with triton.InferenceServerClient(sys.argv[1]) as client:
    client.start_stream(callback=lambda result, error: answers.put((result, error)))
    for n in range(20):
        tensor = triton.InferInput("x", [2, 3], "FP32")
        tensor.set_data_from_numpy(array + n)
        name = "absent" if n == 7 else "identity_FP32"
        client.async_stream_infer(name, [tensor], request_id=str(n))
    for n in range(20):
        result, error = answers.get(timeout=20)
        if n == 7:
            assert "model 'absent'" in str(error), error
            continue
        assert error is None, error
        assert result.get_response().id == str(n)
        assert result.as_numpy("y").tobytes() == (array + n).tobytes()
    client.stop_stream()
print("equal")
"""


@pytest.mark.skipif(
    importlib.util.find_spec("tritonclient") is None, reason="tritonclient is not installed"
)
@pytest.mark.parametrize("script", [TRITON_AIO, TRITON_STREAM], ids=["aio", "stream"])
def test_tritonclients_other_ways_get_bit_equal_answers(server: RunningServer, script: str) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", script, server.address], capture_output=True, text=True, timeout=120
    )
    assert ran.stdout.strip() == "equal", ran.stderr


def test_json_is_enough_once_reflection_told_the_messages(server: RunningServer) -> None:
    """What grpcurl does: messages by reflection alone, JSON in, JSON out."""
    with grpc.insecure_channel(server.address) as channel:
        infer = by_reflection(channel, "inference.GRPCInferenceService", "ModelInfer")
        contents = {"fp32_contents": [1.5, -2.0]}
        tensor = {"name": "x", "datatype": "FP32", "shape": [1, 2], "contents": contents}
        answer = infer({"model_name": "identity_FP32", "inputs": [tensor]})
        raw = base64.b64decode(answer["rawOutputContents"][0])
        assert np.frombuffer(raw, np.float32).tolist() == [1.5, -2.0]
        predict = by_reflection(channel, "hlserve.v1.Prediction", "Predict")
        numbers = {"numbers": {"values": [1.5, -2.0]}}
        (told,) = predict({"model": "identity_FP32", "instances": [numbers]})["predictions"]
        assert told["outputs"]["y"] == {"numbers": [1.5, -2.0], "shape": ["2"]}


def by_reflection(channel: grpc.Channel, service: str, method: str) -> Any:
    """A call of JSON values, made of nothing but what the server says of itself."""
    row = find("ServerReflectionInfo", "grpc.reflection.v1.ServerReflection")
    question = reflection.ServerReflectionRequest(file_containing_symbol=service)
    ask = channel.stream_stream(
        row.path,
        request_serializer=question.__class__.SerializeToString,
        response_deserializer=reflection.ServerReflectionResponse.FromString,
    )
    (answer,) = ask(iter([question]), timeout=20)
    pool = descriptor_pool.DescriptorPool()
    files = answer.file_descriptor_response.file_descriptor_proto
    for data in reversed(files):  # what a file imports comes behind it
        pool.Add(descriptor_pb2.FileDescriptorProto.FromString(data))
    described = pool.FindMethodByName(f"{service}.{method}")
    request = message_factory.GetMessageClass(described.input_type)
    call = channel.unary_unary(
        f"/{service}/{method}",
        request_serializer=request.SerializeToString,
        response_deserializer=message_factory.GetMessageClass(described.output_type).FromString,
    )

    def send(values: dict[str, Any]) -> dict[str, Any]:
        message = call(json_format.ParseDict(values, request(), descriptor_pool=pool), timeout=20)
        return json_format.MessageToDict(message, descriptor_pool=pool)

    return send
