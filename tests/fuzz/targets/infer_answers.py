"""ModelInfer's answers: written byte for byte as protobuf writes them."""

import numpy as np

from hlserve import codec
from hlserve.errors import HlserveError
from hlserve.pb.messages import inference
from hlserve.serving.request import InferResponse
from hlserve.serving.statistics import ModelStatistics, Phases
from hlserve.serving.transports.http2.fast_infer import FastInfer
from tests.fuzz.targets.pieces import fields

DTYPES = ("<f4", "<i8", "u1", "<f2", "?", "<f8", "<u2", "i1", ">f4", "object", "<c8", "<U1")


def infer_answers(data: bytes) -> None:
    """Two answers of one server: what it kept of the first may meet the second."""
    fast = FastInfer()
    first, second = (answer(half) for half in fields(data, 2))
    for each in (first, second, first):
        assert written(fast, each) == by_protobuf(each)


def answer(data: bytes) -> InferResponse:
    name, version, request_id, tensors = fields(data, 4)
    outputs = {}
    while tensors:
        kind, rank, shape, tensors = tensors[0], tensors[1:2], tensors[2:6], tensors[6:]
        dtype = DTYPES[kind % len(DTYPES)]
        sizes = [size % 4 for size in shape[: int.from_bytes(rank) % 5]]
        name_bytes, values = tensors[: kind // 64], tensors[kind // 64 :]
        outputs[text(name_bytes)] = array(dtype, sizes, values)
        tensors = values[int(np.prod(sizes)) :]
    return InferResponse(
        text(name), text(version), text(request_id), outputs, 1, Phases(), ModelStatistics()
    )


def text(data: bytes) -> str:
    return data.decode("utf-8", "replace")


def array(dtype: str, sizes: list[int], values: bytes) -> np.ndarray:  # type: ignore[type-arg]
    count = int(np.prod(sizes))
    numbers = np.frombuffer(values[:count].ljust(count, b"\1"), np.uint8)
    if dtype == "object":
        made = np.empty(count, object)
        made[:] = [b"v" * number for number in numbers]
    else:
        made = numbers.astype(dtype)
    return made.reshape(sizes).T  # not contiguous


def written(fast: FastInfer, each: InferResponse) -> bytes | str:
    try:
        return fast.encode(each)
    except HlserveError as error:
        return str(error)


def by_protobuf(each: InferResponse) -> bytes | str:
    response = inference.ModelInferResponse(
        model_name=each.model_name, model_version=each.model_version, id=each.request_id
    )
    try:
        return codec.encode_outputs(response, each.outputs).SerializeToString()
    except HlserveError as error:
        return str(error)
