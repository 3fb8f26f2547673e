"""ModelInfer's requests: the fast way reads what protobuf and the codec read, or leaves it."""

from dataclasses import fields as attributes

from hlserve.pb.messages import inference
from hlserve.rpcs import find
from hlserve.serving.request import InferRequest
from hlserve.serving.shared_memory import SharedMemory
from hlserve.serving.transports.calls import parse
from hlserve.serving.transports.http2.fast_infer import FastInfer
from hlserve.serving.transports.infer_messages import decode_request
from tests.fuzz.targets.pieces import fields

RPC = find("ModelInfer")
DEADLINE_S = 12.5
MAX_ELEMENTS = 2**10


def infer_requests(data: bytes) -> None:
    """Two requests to one server: what it kept of the first may meet the second."""
    fast = FastInfer(MAX_ELEMENTS)
    first, second = fields(data, 2)
    for message in (first, second, first):
        got = fast.decode(message, DEADLINE_S)
        if got is not None:
            _assert_same(got, slow(message))  # which raises where the request is wrong


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
