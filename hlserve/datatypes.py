"""THE table of datatypes: the protocol's name, NumPy's, ONNX Runtime's, and how each travels.

Codec, client and session look everything up here; a datatype is one row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hlserve.errors import InvalidRequestError


@dataclass(frozen=True, slots=True)
class Datatype:
    """One row.

    Attributes:
        name: the protocol's name, such as ``FP32``.
        dtype: NumPy's type inside the process, little-endian; BYTES: objects of ``bytes``.
        size_bytes: bytes an element in raw contents; 0 for BYTES, whose elements carry a length.
        contents_field: the typed field of ``InferTensorContents``; None: travels raw only.
        onnx_type: how ONNX Runtime names the tensor type.
    """

    name: str
    dtype: np.dtype[Any]
    size_bytes: int
    contents_field: str | None
    onnx_type: str


def _row(name: str, dtype: str, contents_field: str | None, onnx_name: str) -> Datatype:
    numpy_dtype = np.dtype(dtype)
    size_bytes = 0 if numpy_dtype.hasobject else numpy_dtype.itemsize
    return Datatype(name, numpy_dtype, size_bytes, contents_field, f"tensor({onnx_name})")


DATATYPES = (
    _row("BOOL", "bool", "bool_contents", "bool"),
    _row("UINT8", "u1", "uint_contents", "uint8"),
    _row("UINT16", "<u2", "uint_contents", "uint16"),
    _row("UINT32", "<u4", "uint_contents", "uint32"),
    _row("UINT64", "<u8", "uint64_contents", "uint64"),
    _row("INT8", "i1", "int_contents", "int8"),
    _row("INT16", "<i2", "int_contents", "int16"),
    _row("INT32", "<i4", "int_contents", "int32"),
    _row("INT64", "<i8", "int64_contents", "int64"),
    _row("FP16", "<f2", None, "float16"),
    _row("FP32", "<f4", "fp32_contents", "float"),
    _row("FP64", "<f8", "fp64_contents", "double"),
    _row("BYTES", "object", "bytes_contents", "string"),
)

_BY_NAME = {row.name: row for row in DATATYPES}
_BY_DTYPE = {row.dtype: row for row in DATATYPES}
_BY_ONNX_TYPE = {row.onnx_type: row for row in DATATYPES}


def by_name(name: str) -> Datatype:
    """The row of a protocol name.

    Raises:
        InvalidRequestError: the protocol (or this server) has no such datatype.
    """
    row = _BY_NAME.get(name)
    if row is None:
        raise InvalidRequestError(
            f"unknown datatype {name!r}, expected one of {', '.join(_BY_NAME)}"
        )
    return row


def by_onnx_type(onnx_type: str) -> Datatype | None:
    """The row of an ONNX Runtime type such as ``tensor(float)``; None if it cannot travel."""
    return _BY_ONNX_TYPE.get(onnx_type)


def of_array(array: NDArray[Any]) -> Datatype:
    """The row that an array travels as; text and ``S`` arrays are BYTES, byte order is ignored.

    Raises:
        InvalidRequestError: no datatype holds this dtype.
    """
    if array.dtype.kind in "SUO":
        return _BY_NAME["BYTES"]
    row = _BY_DTYPE.get(array.dtype.newbyteorder("<"))
    if row is None:
        raise InvalidRequestError(
            f"arrays of dtype {array.dtype} do not travel, expected one of {', '.join(_BY_NAME)}"
        )
    return row
