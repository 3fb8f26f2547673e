"""The table of datatypes is consistent and complete."""

import numpy as np
import pytest

from hlserve import datatypes
from hlserve.errors import InvalidRequestError
from hlserve.pb.messages import inference


def test_every_row_is_found_by_each_of_its_names() -> None:
    for row in datatypes.DATATYPES:
        assert datatypes.by_name(row.name) is row
        assert datatypes.by_onnx_type(row.onnx_type) is row
        assert datatypes.of_array(np.empty(1, dtype=row.dtype)) is row
        assert row.size_bytes == (0 if row.name == "BYTES" else row.dtype.itemsize)


def test_the_typed_fields_are_those_of_the_message() -> None:
    fields = {row.contents_field for row in datatypes.DATATYPES} - {None}
    assert fields == set(inference.InferTensorContents.DESCRIPTOR.fields_by_name)


def test_text_and_other_byte_orders_find_their_row() -> None:
    assert datatypes.of_array(np.array(["a"])).name == "BYTES"
    assert datatypes.of_array(np.array([b"a"])).name == "BYTES"
    assert datatypes.of_array(np.array([1], dtype=">i4")).name == "INT32"


def test_what_does_not_travel_is_told() -> None:
    with pytest.raises(InvalidRequestError, match="arrays of dtype complex128 do not travel"):
        datatypes.of_array(np.array([1j]))
    with pytest.raises(InvalidRequestError, match="unknown datatype 'fp32', expected one of BOOL"):
        datatypes.by_name("fp32")
    assert datatypes.by_onnx_type("tensor(bfloat16)") is None
