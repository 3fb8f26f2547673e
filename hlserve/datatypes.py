"""THE table of datatypes: the protocol's name, NumPy's, ONNX Runtime's, and how each travels.

Codec, client and session look everything up here; a datatype is one row.

NumPy has no BF16. Inside the process it is two bytes under a name of its own, so that no number is
ever made of them by mistake; ``ml_dtypes`` arrays are taken, and made for a client that has it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hlserve.errors import InvalidRequestError, MissingDependencyError

BF16_BITS = np.dtype([("bfloat16", "<u2")])


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


def _row(name: str, dtype: Any, contents_field: str | None, onnx_name: str) -> Datatype:
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
    _row("BF16", BF16_BITS, None, "bfloat16"),
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
    if array.dtype.name == "bfloat16":  # of ml_dtypes
        return _BY_NAME["BF16"]
    row = _BY_DTYPE.get(array.dtype.newbyteorder("<"))
    if row is None:
        raise InvalidRequestError(
            f"arrays of dtype {array.dtype} do not travel, expected one of {', '.join(_BY_NAME)}"
        )
    return row


def widen_bf16(bits: NDArray[Any]) -> NDArray[np.float32]:
    """The numbers that BF16's two bytes stand for: the upper half of a float32."""
    wide: NDArray[np.uint32] = bits["bfloat16"].astype(np.uint32)
    return (wide << np.uint32(16)).view(np.float32)


def round_to_bf16(values: NDArray[Any]) -> NDArray[Any]:
    """Numbers as BF16's two bytes, rounded to nearest, ties to even."""
    wide = np.asarray(values, np.float32).view(np.uint32)
    rounded = wide + np.uint32(0x7FFF) + ((wide >> np.uint32(16)) & np.uint32(1))
    quiet = (wide >> np.uint32(16)) | np.uint32(0x40)  # rounding could carry a NaN to zero
    upper = np.where(np.isnan(values), quiet, rounded >> np.uint32(16))
    return upper.astype("<u2").view(BF16_BITS)


def as_ml_dtypes(bits: NDArray[Any]) -> NDArray[Any]:
    """BF16's two bytes as an array that computes.

    Raises:
        MissingDependencyError: ``ml_dtypes`` is not installed.
    """
    try:
        import ml_dtypes
    except ImportError as error:
        raise MissingDependencyError("BF16 arrays need ml_dtypes: pip install ml-dtypes") from error
    return bits.view(ml_dtypes.bfloat16)
