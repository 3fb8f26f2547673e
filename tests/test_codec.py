"""Arrays to the wire and back: round trips, raw and typed, and parameters."""

import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from hlserve import codec, datatypes
from hlserve.datatypes import Datatype
from hlserve.errors import InvalidRequestError
from hlserve.pb.messages import inference

NUMBERS = [row for row in datatypes.DATATYPES if row.name != "BYTES"]
SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)


def through_the_wire(array: NDArray[Any]) -> NDArray[Any]:
    request = codec.encode_inputs(inference.ModelInferRequest(), {"x": array})
    read = inference.ModelInferRequest.FromString(request.SerializeToString())
    return codec.decode_tensors(read.inputs, read.raw_input_contents, where="input")["x"]


@settings(deadline=None)
@given(st.data(), st.sampled_from(NUMBERS))
def test_numbers_come_back_bit_by_bit(data: st.DataObject, row: Datatype) -> None:
    array = data.draw(hnp.arrays(row.dtype, SHAPES))
    back = through_the_wire(array)
    assert (back.dtype, back.shape, back.tobytes()) == (array.dtype, array.shape, array.tobytes())


@settings(deadline=None)
@given(st.lists(st.binary(max_size=5), max_size=8), st.booleans())
def test_bytes_come_back_whatever_they_hold(elements: list[bytes], equal_lengths: bool) -> None:
    if equal_lengths:
        elements = [element.ljust(5, b"\0") for element in elements]
    array = np.empty(len(elements), dtype=object)
    array[:] = elements
    assert through_the_wire(array).tolist() == elements


def test_raw_bytes_are_as_the_protocol_says() -> None:
    """Against struct: little-endian, row-major, a length before every BYTES element."""
    array = np.array([[1, 2], [3, 4]], dtype=">i4").T
    assert codec.encode_raw(array, datatypes.by_name("INT32")) == struct.pack("<4i", 1, 3, 2, 4)
    text = np.array(["a", "žž"])
    expected = struct.pack("<I", 1) + b"a" + struct.pack("<I", 4) + "žž".encode()
    assert codec.encode_raw(text, datatypes.by_name("BYTES")) == expected
    assert codec.encode_raw(np.array([True, False]), datatypes.by_name("BOOL")) == b"\1\0"


@pytest.mark.parametrize("row", [r for r in NUMBERS if r.contents_field], ids=lambda r: r.name)
def test_typed_values_come_back(row: Datatype) -> None:
    if row.dtype.kind in "iu":
        bounds = np.iinfo(row.dtype)
        values: list[Any] = [bounds.min, 0, bounds.max]
    else:
        values = [True, False, True] if row.dtype.kind == "b" else [-1.5, 0.0, 2.25]
    tensor = inference.ModelInferRequest.InferInputTensor(name="x", datatype=row.name, shape=[3, 1])
    getattr(tensor.contents, str(row.contents_field)).extend(values)
    array = codec.decode_tensors([tensor], [], where="input")["x"]
    assert (array.dtype, array.ravel().tolist()) == (row.dtype, values)
    assert array.shape == (3, 1)


def test_typed_bytes_come_back() -> None:
    tensor = inference.ModelInferRequest.InferInputTensor(name="x", datatype="BYTES", shape=[2])
    tensor.contents.bytes_contents.extend([b"\xff", b""])
    assert codec.decode_tensors([tensor], [], where="input")["x"].tolist() == [b"\xff", b""]


def test_an_unreadable_element_is_told() -> None:
    with pytest.raises(InvalidRequestError, match="a BYTES element is int 3, expected bytes or"):
        codec.encode_raw(np.array([3], dtype=object), datatypes.by_name("BYTES"))


def test_outputs_are_raw_and_aligned_in_order() -> None:
    response = codec.encode_outputs(
        inference.ModelInferResponse(model_name="m"),
        {"b": np.zeros((0, 3), np.float32), "a": np.ones(2, np.int8)},
    )
    assert [output.name for output in response.outputs] == ["b", "a"]
    assert list(response.raw_output_contents) == [b"", b"\1\1"]
    assert not any(output.HasField("contents") for output in response.outputs)


def test_outputs_larger_than_a_message_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codec, "MAX_MESSAGE_BYTES", 10)
    with pytest.raises(InvalidRequestError, match="model 'm': the outputs hold more than 10 bytes"):
        codec.encode_outputs(inference.ModelInferResponse(model_name="m"), {"y": np.zeros(2)})


@pytest.mark.parametrize("value", [True, -(2**63), 2**64 - 1, 0.5, "text"])
def test_parameters_come_back(value: codec.Parameter) -> None:
    parameters = {"p": codec.encode_parameter(value)}
    back = codec.decode_parameters(parameters, where="")["p"]
    assert back == value
    assert type(back) is type(value)


@pytest.mark.parametrize("value", [2**64, -(2**63) - 1, None, b"x"])
def test_a_parameter_that_does_not_travel_is_told(value: Any) -> None:
    with pytest.raises(InvalidRequestError, match="does not travel, expected bool, 64-bit int"):
        codec.encode_parameter(value)
