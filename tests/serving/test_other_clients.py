"""Unmodified clients of other projects, against local ONNX Runtime, for every datatype."""

import importlib.util
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from hlserve import datatypes
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
