"""The table of datatypes is consistent and complete."""

import sys

import numpy as np
import pytest

from hlserve import datatypes
from hlserve.errors import InvalidRequestError, MissingDependencyError
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
    assert datatypes.by_onnx_type("tensor(float8e4m3fn)") is None


def test_bf16_is_the_upper_half_of_a_float32_rounded_to_even() -> None:
    """Against ml_dtypes, over every class of number and the ties."""
    ml_dtypes = pytest.importorskip("ml_dtypes")
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2**32, 20_000, dtype=np.uint32)
    ties = np.uint32(0x8000) + (np.arange(64, dtype=np.uint32) << np.uint32(16))
    special = np.array([0, 0x80000000, 0x7F800000, 0xFF800000, 0x7FC00000, 0x7F7FFFFF], np.uint32)
    values = np.concatenate([bits, ties, special]).view(np.float32)
    numbers = values[~np.isnan(values)]
    expected = numbers.astype(ml_dtypes.bfloat16)
    got = datatypes.round_to_bf16(numbers)
    assert got.tobytes() == expected.tobytes()
    assert datatypes.widen_bf16(got).tolist() == expected.astype(np.float32).tolist()
    assert np.isnan(datatypes.widen_bf16(datatypes.round_to_bf16(values[np.isnan(values)]))).all()


def test_ml_dtypes_arrays_travel_as_bf16_and_come_back() -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    array = np.array([1.5, -2], ml_dtypes.bfloat16)
    assert datatypes.of_array(array).name == "BF16"
    bits = array.view(datatypes.BF16_BITS)
    assert datatypes.as_ml_dtypes(bits).tolist() == array.tolist()


def test_without_ml_dtypes_a_bf16_answer_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    with pytest.raises(MissingDependencyError, match="pip install ml-dtypes"):
        datatypes.as_ml_dtypes(np.zeros(1, datatypes.BF16_BITS))
