"""ModelInfer's requests: the fast way reads what protobuf and the codec read, or leaves it."""

import math
from dataclasses import fields as attributes

from hlserve.pb.messages import inference
from hlserve.rpcs import find
from hlserve.serving.request import InferRequest
from hlserve.serving.shared_memory import SharedMemory
from hlserve.serving.transports.context import parse
from hlserve.serving.transports.http2.fast_infer import FastInfer
from hlserve.serving.transports.infer_messages import decode_request
from tests.fuzz.targets.pieces import fields

RPC = find("ModelInfer")
DEADLINE_S = 12.5
MAX_ELEMENTS = 2**10
# model_name, model_version, id, inputs, outputs, and raw_input_contents twice
TAGS = (0x0A, 0x12, 0x1A, 0x2A, 0x32, 0x3A, 0x3A)
DATATYPES = {
    "FP32": 4,
    "INT64": 8,
    "UINT8": 1,
    "FP16": 2,
    "BF16": 2,
    "BOOL": 1,
    "BYTES": 5,
    "no": 1,
}


def infer_requests(data: bytes) -> None:
    """Two requests to one server: what it kept of the first may meet the second.

    The first byte says which of them are built, and which are the bytes themselves.
    """
    fast = FastInfer(MAX_ELEMENTS)
    mode = data[0] if data else 0
    first, second = fields(data[1:], 2)
    first, second = built(first) if mode & 1 else first, built(second) if mode & 2 else second
    for message in (first, second, first):
        got = fast.decode(message, DEADLINE_S)
        if got is not None:
            _assert_same(got, slow(message))  # which raises where the request is wrong


def built(data: bytes) -> bytes:
    """Fields of two bytes (kind, size) and a payload: in any order, with lengths that fit."""
    out, wanted = [], [0]
    while len(data) >= 2:
        kind, size = data[0] % 8, data[1]
        payload, data = data[2 : 2 + size], data[2 + size :]
        if kind == 3 and payload:
            payload, size_bytes = _tensor(payload)
            wanted.append(size_bytes)
        elif kind == 6:  # values that fit the next tensor
            payload = payload[:1] * (wanted.pop(1) if len(wanted) > 1 else 0)
        if kind == 7:
            out.append(payload)
        else:
            out.append(bytes([TAGS[kind]]) + _varint(len(payload)) + payload)
    return b"".join(out)


def _tensor(data: bytes) -> tuple[bytes, int]:
    """An input and how many bytes its values take: a datatype, sizes, what follows them."""
    name = tuple(DATATYPES)[data[0] % len(DATATYPES)]
    shape = [size - 2 for size in data[2 : 2 + data[1] % 4]] if len(data) > 1 else []
    tensor = inference.ModelInferRequest.InferInputTensor(
        name=f"x{data[0] // 64}", datatype=name, shape=shape
    )
    count = max(0, math.prod(shape))
    size_bytes = count * DATATYPES[name] if count <= MAX_ELEMENTS else 0
    return tensor.SerializeToString() + data[2 + len(shape) :], size_bytes


def _varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def slow(data: bytes) -> InferRequest:
    message = parse(RPC, data)
    assert isinstance(message, inference.ModelInferRequest)
    return decode_request(
        message, SharedMemory(), DEADLINE_S, max_elements=MAX_ELEMENTS, max_shared_bytes=2**20
    ).request


def _assert_same(got: InferRequest, want: InferRequest) -> None:
    assert list(got.inputs) == list(want.inputs)
    for name, array in want.inputs.items():
        ours = got.inputs[name]
        assert (ours.dtype, ours.shape) == (array.dtype, array.shape)
        assert ours.tobytes() == array.tobytes()
        assert ours.flags.aligned
    for attribute in attributes(InferRequest):
        if attribute.name not in ("inputs", "signature"):
            assert getattr(got, attribute.name) == getattr(want, attribute.name)
