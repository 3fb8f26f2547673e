"""A tour of bad requests: the right status, words that help, and a server that goes on."""

from collections.abc import Callable, Iterator
from typing import Any

import grpc
import numpy as np
import pytest

from hlserve.pb.messages import inference
from tests.serving.running import RunningServer

Request = inference.ModelInferRequest
INFER = "/inference.GRPCInferenceService/ModelInfer"


@pytest.fixture(scope="module")
def channel(server: RunningServer) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(server.address) as opened:
        yield opened


def good() -> Request:
    request = Request(model_name="mlp")
    request.inputs.add(name="input", datatype="FP32", shape=[2, 8])
    request.raw_input_contents.append(np.zeros((2, 8), np.float32).tobytes())
    return request


def send(channel: grpc.Channel, request: Request | bytes) -> inference.ModelInferResponse:
    data = request if isinstance(request, bytes) else request.SerializeToString()
    answer: bytes = channel.unary_unary(INFER)(data, timeout=20)
    return inference.ModelInferResponse.FromString(answer)


def changed(change: Callable[[Request], Any]) -> Callable[[], Request]:
    def make() -> Request:
        request = good()
        change(request)
        return request

    return make


def set_field(**fields: Any) -> Callable[[], Request]:
    return changed(lambda request: [setattr(request, k, v) for k, v in fields.items()])


def set_input(**fields: Any) -> Callable[[], Request]:
    return changed(lambda request: [setattr(request.inputs[0], k, v) for k, v in fields.items()])


def set_shape(*shape: int) -> Callable[[], Request]:
    return changed(lambda request: request.inputs[0].shape.__setitem__(slice(None), shape))


def set_raw(*raw: bytes) -> Callable[[], Request]:
    return changed(lambda request: request.raw_input_contents.__setitem__(slice(None), raw))


def add_output(*names: str) -> Callable[[], Request]:
    return changed(lambda request: [request.outputs.add(name=name) for name in names])


def tensor(model: str, datatype: str, shape: list[int], raw: bytes) -> Callable[[], Request]:
    def make() -> Request:
        request = Request(model_name=model, raw_input_contents=[raw])
        request.inputs.add(name="x", datatype=datatype, shape=shape)
        return request

    return make


def typed(model: str, datatype: str, shape: list[int], **contents: Any) -> Callable[[], Request]:
    def make() -> Request:
        request = Request(model_name=model)
        added = request.inputs.add(name="x", datatype=datatype, shape=shape)
        for field, values in contents.items():
            getattr(added.contents, field).extend(values)
        return request

    return make


def duplicate(request: Request) -> None:
    request.inputs.add(name="input", datatype="FP32", shape=[1, 8])
    request.raw_input_contents.append(b"\0" * 32)


def different_rows() -> Request:
    request = Request(model_name="add_and_subtract")
    for name, rows in (("a", 1), ("b", 2)):
        request.inputs.add(name=name, datatype="FP32", shape=[rows, 1])
        request.raw_input_contents.append(b"\0" * 4 * rows)
    return request


def only_one_of_two() -> Request:
    request = different_rows()
    del request.inputs[1], request.raw_input_contents[1]
    return request


def too_many_rows() -> Request:
    request = Request(model_name="limited", raw_input_contents=[b"\0" * 160])
    request.inputs.add(name="input", datatype="FP32", shape=[5, 8])
    return request


def extra_input(request: Request) -> None:
    request.inputs.add(name="more", datatype="FP32", shape=[1])
    request.raw_input_contents.append(b"\0" * 4)


INVALID, MISSING = "INVALID_ARGUMENT", "NOT_FOUND"
LONG = "x" * 10_000

CASES: dict[str, tuple[Callable[[], Request | bytes], str, str]] = {
    # who
    "no model name": (set_field(model_name=""), MISSING, "model '' is not in"),
    "unknown model": (set_field(model_name="absent"), MISSING, "model 'absent' is not in"),
    "blank model name": (set_field(model_name="\t"), MISSING, r"model '\t' is not in"),
    "space as model name": (set_field(model_name=" "), MISSING, "model ' ' is not in"),
    "newline as model name": (set_field(model_name="\n"), MISSING, r"model '\n' is not in"),
    "return as model name": (set_field(model_name="\r"), MISSING, r"model '\r' is not in"),
    "form feed as model name": (set_field(model_name="\f"), MISSING, r"model '\x0c' is not in"),
    "vertical tab as model name": (set_field(model_name="\v"), MISSING, r"model '\x0b' is not in"),
    "path out of the root": (set_field(model_name="../../etc/passwd"), MISSING, "is not in"),
    "three dots": (set_field(model_name="..."), MISSING, "model '...' is not in"),
    "path as model name": (set_field(model_name="../mlp"), MISSING, "model '../mlp' is not in"),
    "path inside a name": (set_field(model_name="a/../mlp"), MISSING, "is not in"),
    "two dots": (set_field(model_name=".."), MISSING, "model '..' is not in"),
    "valid but absent name": (set_field(model_name="model..1"), MISSING, "'model..1' is not in"),
    "wrong case of a model": (set_field(model_name="MLP"), MISSING, "model 'MLP' is not in"),
    "name of 10,000 emoji": (set_field(model_name="😀" * 10_000), MISSING, "😀 ... 😀"),
    "name of 1000 emoji": (set_field(model_name="😀" * 1000), MISSING, "😀 ... 😀"),
    "name of percents": (set_field(model_name="%" * 5000), MISSING, "% ... %"),
    "name of newlines": (set_field(model_name="\n" * 5000), MISSING, r"\n ... "),
    "a million emoji": (set_field(model_name="😀" * 1_000_000), MISSING, "😀 ... 😀"),
    "name of 10 kB": (set_field(model_name=LONG), MISSING, " ... "),
    "unknown version": (set_field(model_version="9"), MISSING, "'mlp' version 9 is not served"),
    "version text": (set_field(model_version="abc"), INVALID, "version is 'abc', expected a pos"),
    "version with a tail": (set_field(model_version="1abc"), INVALID, "version is '1abc'"),
    "negative version": (set_field(model_version="-1"), INVALID, "version is '-1'"),
    "version zero": (set_field(model_version="0"), INVALID, "version is '0'"),
    "version with a zero": (set_field(model_version="01"), INVALID, "version is '01'"),
    "version 2^63": (set_field(model_version=str(2**63)), INVALID, f"version is '{2**63}'"),
    "model that failed": (set_field(model_name="corrupt"), "UNAVAILABLE", "'corrupt' is not ready"),
    # names of tensors
    "no inputs": (lambda: Request(model_name="mlp"), INVALID, "missing ['input']"),
    "one input missing": (only_one_of_two, INVALID, "expected the inputs ['a', 'b'], got ['a']"),
    "one input too many": (changed(extra_input), INVALID, "unexpected ['more']"),
    "wrong case of an input": (set_input(name="Input"), INVALID, "unexpected ['Input']"),
    "input twice": (changed(duplicate), INVALID, "model 'mlp': input 'input' already exists"),
    "unknown output": (add_output("nope"), INVALID, "unknown output 'nope', expected one of ["),
    "output twice": (
        add_output("logits", "logits"),
        INVALID,
        "output 'logits' is requested twice",
    ),
    "10,000 times one output": (
        add_output(*["logits"] * 10_000),
        INVALID,
        "output 'logits' is requested twice",
    ),
    "10,001 outputs": (
        add_output(*["logits"] * 10_001),
        INVALID,
        "model 'mlp': 10001 outputs came, expected at most 10000",
    ),
    # shapes
    "rank too small": (set_shape(16), INVALID, "has shape [16], expected [-1, 8]"),
    "rank too large": (set_shape(1, 2, 8), INVALID, "has shape [1, 2, 8], expected [-1, 8]"),
    "scalar": (tensor("identity_FP32", "FP32", [], b"\0" * 4), INVALID, "shape [], expected [-1"),
    "wrong dimension": (set_shape(4, 4), INVALID, "has shape [4, 4], expected [-1, 8]"),
    "dimension -1": (set_shape(-1, 8), INVALID, "shape [-1, 8] has a negative dimension"),
    "dimension -2": (set_shape(-2, -8), INVALID, "shape [-2, -8] has a negative dimension"),
    "dimension 2^31": (set_shape(2**31, 8), INVALID, "holds more than 2147483647 bytes of FP32"),
    "product overflows": (set_shape(2**4, 2**60 + 2), INVALID, "holds more than"),
    "65 dimensions": (
        set_shape(2, 8, *[1] * 63),
        INVALID,
        "input 'input': shape of 65 dimensions, expected at most 64",
    ),
    "a million dimensions": (
        set_shape(*[2**62] * 1_000_000),
        INVALID,
        "shape of 1000000 dimensions, expected at most 64",
    ),
    "64 dimensions": (set_shape(2, 8, *[1] * 62), INVALID, "1, 1], expected [-1, 8]"),
    "zero hides overflow": (set_shape(0, 2**62), INVALID, "holds more than"),
    "different rows": (different_rows, INVALID, "differ in their number of rows, {'a': 1, 'b': 2}"),
    "more rows than allowed": (too_many_rows, INVALID, "has 5 rows, expected at most 4"),
    "fixed batch": (
        tensor("fixed_batch", "FP32", [2, 4], b"\0" * 32),
        INVALID,
        "input 'x' has shape [2, 4], expected [1, 4]",
    ),
    # datatypes
    "unknown datatype": (
        set_input(datatype="FP8"),
        INVALID,
        "input 'input': unknown datatype 'FP8",
    ),
    "no datatype": (set_input(datatype=""), INVALID, "unknown datatype ''"),
    "lower case datatype": (set_input(datatype="fp32"), INVALID, "unknown datatype 'fp32'"),
    "right size, wrong kind": (
        set_input(datatype="INT32"),
        INVALID,
        "model 'mlp' version 1: input 'input' has datatype INT32, expected FP32",
    ),
    # raw data
    "short by one": (set_raw(b"\0" * 63), INVALID, "raw contents hold 63 bytes, expected 64"),
    "long by one": (set_raw(b"\0" * 65), INVALID, "raw contents hold 65 bytes, expected 64"),
    "empty": (set_raw(b""), INVALID, "raw contents hold 0 bytes, expected 64 for shape [2, 8]"),
    "an extra raw entry": (set_raw(b"\0" * 64, b""), INVALID, "2 raw entries came for 1 tensors"),
    "no data": (set_raw(), INVALID, "fp32_contents holds 0 values, expected 16"),
    "raw and typed": (
        changed(lambda request: request.inputs[0].contents.fp32_contents.extend([0.0] * 16)),
        INVALID,
        "has typed contents beside raw entries or shared memory",
    ),
    "BOOL of two": (
        tensor("identity_BOOL", "BOOL", [1, 2], b"\1\2"),
        INVALID,
        "input 'x': BOOL holds the byte 2, expected 0 or 1",
    ),
    # BYTES
    "length cut off": (
        tensor("identity_BYTES", "BYTES", [1, 1], b"\1\0"),
        INVALID,
        "hold 2 bytes, expected at least 4: a length before each of 1 BYTES elements",
    ),
    "second length cut off": (
        tensor("identity_BYTES", "BYTES", [1, 2], b"\5\0\0\0abcde\1\0"),
        INVALID,
        "end inside a length: 1 BYTES elements came, expected 2",
    ),
    "67 million elements of nothing": (
        tensor("identity_BYTES", "BYTES", [1, 2**26], b""),
        INVALID,
        "hold 0 bytes, expected at least 268435456: a length before each",
    ),
    "length past the end": (
        tensor("identity_BYTES", "BYTES", [1, 1], b"\5\0\0\0abc"),
        INVALID,
        "BYTES element 0 says 5 bytes, only 3 are left",
    ),
    "length 2^32-1": (
        tensor("identity_BYTES", "BYTES", [1, 1], b"\xff\xff\xff\xffabc"),
        INVALID,
        "says 4294967295 bytes, only 3 are left",
    ),
    "too few elements": (
        tensor("identity_BYTES", "BYTES", [1, 2], b"\1\0\0\0a"),
        INVALID,
        "hold 5 bytes, expected at least 8: a length before each of 2 BYTES elements",
    ),
    "too many elements": (
        tensor("identity_BYTES", "BYTES", [1, 1], b"\1\0\0\0a\1\0\0\0b"),
        INVALID,
        "5 bytes more than 1 BYTES elements",
    ),
    "not UTF-8": (
        tensor("identity_BYTES", "BYTES", [1, 1], b"\1\0\0\0\xff"),
        INVALID,
        "model 'identity_BYTES' version 1: input 'x' holds bytes that are not UTF-8",
    ),
    # typed data
    "too many values": (
        typed("identity_FP32", "FP32", [1, 1], fp32_contents=[1, 2]),
        INVALID,
        "fp32_contents holds 2 values, expected 1",
    ),
    "wrong field": (
        typed("identity_FP32", "FP32", [1, 1], fp64_contents=[1]),
        INVALID,
        "values came in fp64_contents, expected fp32_contents for FP32",
    ),
    "FP16 typed": (
        typed("identity_FP16", "FP16", [1, 1], fp32_contents=[1]),
        INVALID,
        "FP16 has no typed contents, send it raw",
    ),
    "BF16 typed": (
        typed("identity_BF16", "BF16", [1, 1], fp32_contents=[1]),
        INVALID,
        "BF16 has no typed contents, send it raw",
    ),
    "too few values": (
        typed("identity_FP32", "FP32", [1, 2], fp32_contents=[1]),
        INVALID,
        "fp32_contents holds 1 values, expected 2",
    ),
    "INT8 of -129": (
        typed("identity_INT8", "INT8", [1, 1], int_contents=[-129]),
        INVALID,
        "value -129 is outside INT8",
    ),
    "INT8 of 300": (
        typed("identity_INT8", "INT8", [1, 2], int_contents=[1, 300]),
        INVALID,
        "value 300 is outside INT8, expected -128 to 127",
    ),
    "INT16 of -40000": (
        typed("identity_INT16", "INT16", [1, 1], int_contents=[-40000]),
        INVALID,
        "value -40000 is outside INT16",
    ),
    "UINT8 of 256": (
        typed("identity_UINT8", "UINT8", [1, 1], uint_contents=[256]),
        INVALID,
        "value 256 is outside UINT8, expected 0 to 255",
    ),
    # parameters
    "parameter without a value": (
        changed(lambda request: request.parameters["p"].SetInParent()),
        INVALID,
        "parameter 'p' holds no value",
    ),
    "shared memory": (
        changed(
            lambda request: setattr(
                request.inputs[0].parameters["shared_memory_region"], "string_param", "r"
            )
        ),
        "UNIMPLEMENTED",
        "input 'input': shared memory is off on this server",
    ),
    # the message itself
    "garbage": (lambda: b"\xff" * 40, INVALID, "not a valid inference.ModelInferRequest (40 bytes"),
    "name that is not UTF-8": (lambda: b"\x0a\x02\xff\xfe", INVALID, "is not a valid"),
    # the model
    "a row that the model cannot take": (
        lambda: lookup_request(9),
        "INTERNAL",
        "model 'lookup' version 1: ONNX Runtime failed",
    ),
}


def lookup_request(index: int) -> Request:
    request = Request(model_name="lookup", raw_input_contents=[np.int64(index).tobytes()])
    request.inputs.add(name="index", datatype="INT64", shape=[1])
    return request


@pytest.mark.parametrize("case", CASES)
def test_a_bad_request_gets_its_status_and_the_server_goes_on(
    channel: grpc.Channel, case: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    make, status, words = CASES[case]
    with pytest.raises(grpc.RpcError) as caught:
        send(channel, make())
    details = caught.value.details()
    assert (caught.value.code().name, words in details) == (status, True), details
    assert "Traceback" not in details
    assert "/onnxruntime_src" not in details
    assert len(caplog.records) <= 1
    assert all(record.exc_info is None for record in caplog.records)
    assert len(send(channel, good()).outputs) == 2


def test_harmless_parameters_are_taken(channel: grpc.Channel) -> None:
    """The C++ client sends the first with every request; users send their own."""
    request = good()
    request.parameters["triton_enable_empty_final_response"].bool_param = True
    for number in range(1000):
        request.parameters[f"mine {number}"].double_param = number
    assert len(send(channel, request).outputs) == 2


def test_outputs_come_in_the_order_asked_for(channel: grpc.Channel) -> None:
    names = [output.name for output in send(channel, good()).outputs]
    assert names == ["probabilities", "logits"]
    answer = send(channel, add_output("logits", "probabilities")())
    assert [output.name for output in answer.outputs] == ["logits", "probabilities"]
    probabilities = np.frombuffer(answer.raw_output_contents[1], np.float32).reshape(2, 3)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-6)
    assert [o.name for o in send(channel, add_output("logits")()).outputs] == ["logits"]


def test_zero_rows_get_zero_rows(channel: grpc.Channel) -> None:
    request = set_shape(0, 8)()
    request.raw_input_contents[:] = [b""]
    assert list(send(channel, request).outputs[0].shape) == [0, 3]


def test_nan_and_infinity_are_values_not_errors(channel: grpc.Channel) -> None:
    array = np.array([[np.nan, np.inf, -np.inf, 0]], np.float32)
    answer = send(channel, tensor("identity_FP32", "FP32", [1, 4], array.tobytes())())
    assert answer.raw_output_contents[0] == array.tobytes()


def test_typed_values_give_the_raw_answer(channel: grpc.Channel) -> None:
    request = good()
    del request.raw_input_contents[:]
    request.inputs[0].contents.fp32_contents.extend([0.0] * 16)
    assert send(channel, request) == send(channel, good())
