"""The fast path reads and writes exactly what protobuf and the codec do, or leaves it to them."""

import string
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hlserve import codec
from hlserve.errors import HlserveError
from hlserve.pb.messages import inference
from hlserve.rpcs import find
from hlserve.serving.request import InferRequest, InferResponse
from hlserve.serving.shared_memory import SharedMemory
from hlserve.serving.statistics import ModelStatistics, Phases
from hlserve.serving.transports.context import parse
from hlserve.serving.transports.http2.fast_infer import FastInfer
from hlserve.serving.transports.infer_messages import decode_request

RPC = find("ModelInfer")
DEADLINE_S = 12.5
FAST = FastInfer()  # one for all examples: templates of one request meet the bytes of the next

DATATYPES = {
    "FP32": "<f4",
    "INT64": "<i8",
    "UINT8": "u1",
    "FP16": "<f2",
    "BF16": "<u2",
    "BOOL": "?",
}
TEXT = st.text(string.ascii_letters, max_size=4)


def slow(data: bytes, max_elements: int = codec.MAX_MESSAGE_BYTES) -> InferRequest:
    message = parse(RPC, data)
    assert isinstance(message, inference.ModelInferRequest)
    return decode_request(
        message, SharedMemory(), DEADLINE_S, max_elements=max_elements, max_shared_bytes=1 << 26
    ).request


def assert_same(data: bytes) -> bool:
    """Whether the fast path took it; where it did, the slow one reads the same."""
    got = FAST.decode(data, DEADLINE_S)
    if got is None:
        return False
    want = slow(data)  # raises where the request is wrong: then the fast path had no business
    assert list(got.inputs) == list(want.inputs)
    for name, array in want.inputs.items():
        assert got.inputs[name].dtype == array.dtype
        assert got.inputs[name].shape == array.shape
        assert got.inputs[name].tobytes() == array.tobytes()
        assert got.inputs[name].flags.aligned
    for field in fields(InferRequest):
        if field.name not in ("inputs", "signature"):
            assert getattr(got, field.name) == getattr(want, field.name)
    return True


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    request = inference.ModelInferRequest(
        model_name=draw(TEXT), model_version=draw(TEXT), id=draw(TEXT)
    )
    for index in range(draw(st.integers(0, 2))):
        datatype = draw(st.sampled_from([*DATATYPES, "BYTES", "nope"]))
        shape = draw(st.lists(st.integers(-1, 3), max_size=3))
        request.inputs.add(name=f"x{index}", datatype=datatype, shape=shape)
        elements = int(np.prod(shape)) if min(shape, default=0) >= 0 else 0
        size = elements * np.dtype(DATATYPES.get(datatype, "u1")).itemsize
        request.raw_input_contents.append(draw(st.binary(min_size=size, max_size=size)))
    for name in draw(st.lists(TEXT, max_size=2)):
        request.outputs.add(name=name)
    for change in draw(
        st.sets(st.sampled_from(["parameter", "typed", "tensor", "output"]), max_size=1)
    ):
        if change == "parameter":
            request.parameters["priority"].uint64_param = 1
        elif change == "typed" and request.inputs:
            request.inputs[0].contents.fp32_contents.append(1)
        elif change == "output" and request.outputs:
            request.outputs[0].parameters["classification"].int64_param = 1
        elif request.inputs:
            request.inputs[0].parameters["mine"].int64_param = 1
    return request.SerializeToString(deterministic=True)


@settings(max_examples=300, deadline=None)
@given(requests())
def test_a_request_is_read_as_protobuf_reads_it(data: bytes) -> None:
    assert_same(data)


@settings(max_examples=600, deadline=None)
@given(requests(), st.data())
def test_a_request_with_wrong_bytes_is_read_as_protobuf_reads_it(
    data: bytes, draw: st.DataObject
) -> None:
    """Bytes changed, cut, doubled: never another answer, and never a crash."""
    mutated = bytearray(data)
    for _ in range(draw.draw(st.integers(1, 4))):
        place = draw.draw(st.integers(0, len(mutated)))
        end = min(len(mutated), place + draw.draw(st.integers(0, 3)))
        mutated[place:end] = draw.draw(
            st.one_of(st.binary(max_size=3), st.sampled_from([b"\x1a\x01a", b"\x3a\0", b"\x0a\0"]))
        )
    assert_same(bytes(mutated))


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=60))
def test_garbage_is_read_as_protobuf_reads_it(data: bytes) -> None:
    assert_same(data)


def plain(**fields: str) -> inference.ModelInferRequest:
    request = inference.ModelInferRequest(model_name="m", **fields)
    request.inputs.add(name="x", datatype="FP32", shape=[1, 300])
    request.raw_input_contents.append(bytes(range(240)) * 5)
    return request


@pytest.mark.parametrize("request_id", ["", "7", "i" * 200, "Überschrift"])
def test_a_plain_request_is_taken_with_any_id(request_id: str) -> None:
    assert assert_same(plain(id=request_id, model_version="3").SerializeToString())


def test_requests_that_differ_in_the_id_share_a_template() -> None:
    fast = FastInfer()
    for number in range(100):
        assert fast.decode(plain(id=f"{number}").SerializeToString(), None) is not None
    assert len(fast._templates) == 1


def test_what_clients_can_make_it_keep_is_bounded() -> None:
    fast = FastInfer()
    for number in range(2000):
        fast.decode(plain(model_version=f"{number}").SerializeToString(), None)
    fast.decode(plain(model_version="v" * 10_000).SerializeToString(), None)
    assert len(fast._templates) <= 512
    assert sum(map(len, fast._templates)) < 512 * 4096


def changed(change: Callable[[inference.ModelInferRequest], None]) -> bytes:
    request = plain()
    request.outputs.add(name="y")
    change(request)
    return request.SerializeToString()


def priority(request: inference.ModelInferRequest) -> None:
    request.parameters["priority"].uint64_param = 1


def shared_memory(request: inference.ModelInferRequest) -> None:
    request.inputs[0].parameters["shared_memory_region"].string_param = "r"


def classification(request: inference.ModelInferRequest) -> None:
    request.outputs[0].parameters["classification"].int64_param = 3


NOT_PLAIN = {
    "a priority": changed(priority),
    "an input in shared memory": changed(shared_memory),
    "classes instead of values": changed(classification),
    "no tensor": inference.ModelInferRequest(model_name="m").SerializeToString(),
    "an id twice": plain(id="a").SerializeToString()[:0]
    + b"\x1a\x01a"
    + plain(id="b").SerializeToString(),
    "the id last": plain().SerializeToString() + b"\x1a\x01a",
    "an id that is no text": b"\x1a\x01\xff" + plain().SerializeToString(),
    "raw bytes cut off": plain().SerializeToString()[:-1],
    "an unknown field": b"\x7a\x01a" + plain().SerializeToString(),
}


def test_an_input_with_too_many_elements_is_left_to_protobuf() -> None:
    data = plain().SerializeToString()
    assert FastInfer(300).decode(data, None) is not None
    assert FastInfer(299).decode(data, None) is None
    with pytest.raises(HlserveError, match="holds 300 elements, expected at most 299"):
        slow(data, 299)


@pytest.mark.parametrize("name", NOT_PLAIN)
def test_what_is_not_plain_is_left_to_protobuf(name: str) -> None:
    assert FAST.decode(NOT_PLAIN[name], None) is None


def answered(outputs: dict[str, Any], request_id: str = "") -> InferResponse:
    return InferResponse("m", "1", request_id, outputs, 1, Phases(), ModelStatistics())


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(["<f4", "<i8", "u1", "<f2", "?", "object", ">f4", "<f8"]),
    st.lists(st.integers(0, 3), max_size=3),
    st.text(max_size=5),
)
def test_an_answer_is_written_as_protobuf_writes_it(
    dtype: str, shape: list[int], request_id: str
) -> None:
    count = int(np.prod(shape))
    array = np.arange(count).astype(dtype if dtype != "object" else "i8")
    if dtype == "object":
        array = np.array([b"%d" % v for v in array], dtype=object)
    outputs = {"y": array.reshape(shape), "z": array.reshape(shape)[..., None].swapaxes(0, -1)}
    answer = answered(outputs, request_id)
    want = codec.encode_outputs(
        inference.ModelInferResponse(model_name="m", model_version="1", id=request_id), outputs
    ).SerializeToString()
    assert FAST.encode(answer) == want
    assert FAST.encode(answer) == want  # from the cache


def test_an_answer_that_does_not_travel_fails_as_the_codec_fails() -> None:
    outputs = {"y": np.zeros(1, np.complex64)}
    with pytest.raises(HlserveError, match="complex64 do not travel"):
        FAST.encode(answered(outputs))
