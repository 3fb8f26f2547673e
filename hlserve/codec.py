"""Wire tensors <-> NumPy arrays, raw and typed; the one place that knows how values travel.

Raw contents are little-endian, row-major, without padding; BYTES elements each carry a 4-byte
little-endian length. Typed contents are protobuf fields. Everything is checked on the way in:
a message names the tensor, what was expected and what came.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hlserve import datatypes
from hlserve.datatypes import Datatype
from hlserve.errors import InvalidRequestError
from hlserve.pb.messages import inference

MAX_MESSAGE_BYTES = 2**31 - 1  # protobuf's bound on one message, and gRPC's
MAX_DIMS = 64  # NumPy's bound on an array's

_LENGTH = struct.Struct("<I")  # before every BYTES element
_CONTENTS_FIELDS = tuple(
    dict.fromkeys(row.contents_field for row in datatypes.DATATYPES if row.contents_field)
)

Array = NDArray[Any]


class WireTensor(Protocol):
    """What input tensors of a request and output tensors of a response have in common."""

    name: str
    datatype: str

    @property
    def shape(self) -> Any:
        """A repeated int64."""

    @property
    def contents(self) -> Any:
        """An ``InferTensorContents``."""

    def HasField(self, field_name: Any) -> bool:  # noqa: N802 - protobuf's name
        """Whether a message field is set."""


def decode_tensors(
    tensors: Sequence[WireTensor],
    raw_contents: Sequence[bytes],
    *,
    where: str,
    max_elements: int = MAX_MESSAGE_BYTES,
    elsewhere: Mapping[int, bytes] | None = None,
) -> dict[str, Array]:
    """Arrays by tensor name, in the tensors' order; raw ones are read-only views of the bytes.

    Args:
        tensors: the described tensors of one message.
        raw_contents: its raw entries: one a tensor that is not elsewhere, or none where contents
            are typed.
        where: how a message names a tensor, up to its quoted name: ``model 'm': input``.
        max_elements: of one tensor.
        elsewhere: raw contents that did not travel in the message, by the tensor's index.

    Raises:
        InvalidRequestError: a tensor comes twice or holds too many elements, its values do not
            fit its shape and datatype, raw and typed contents are mixed, or entries and tensors
            differ in number.
    """
    elsewhere = elsewhere or {}
    expected = len(tensors) - len(elsewhere)
    if raw_contents and len(raw_contents) != expected:
        raise InvalidRequestError(
            f"{where}s: {len(raw_contents)} raw entries came for {expected} tensors, "
            "expected one each"
        )
    entries = iter(raw_contents)
    arrays: dict[str, Array] = {}
    for index, tensor in enumerate(tensors):
        label = f"{where} {tensor.name!r}"
        if tensor.name in arrays:
            raise InvalidRequestError(f"{label} already exists in the message, expected once")
        raw = elsewhere[index] if index in elsewhere else next(entries, None)
        arrays[tensor.name] = _decode_tensor(tensor, raw, max_elements, label)
    return arrays


def _decode_tensor(tensor: WireTensor, raw: bytes | None, max_elements: int, label: str) -> Array:
    try:
        datatype = datatypes.by_name(tensor.datatype)
        shape = checked_shape(tensor.shape, datatype, max_elements)
        if raw is None:
            return _decode_typed(tensor, datatype, shape)
        if tensor.HasField("contents"):
            raise InvalidRequestError(
                "has typed contents beside raw entries or shared memory, expected one of them"
            )
        return decode_raw(raw, datatype, shape)
    except InvalidRequestError as error:
        raise InvalidRequestError(f"{label}: {error}") from error


def checked_shape(dims: Sequence[int], datatype: Datatype, max_elements: int) -> tuple[int, ...]:
    """The shape of a tensor that a message describes.

    Raises:
        InvalidRequestError: it has too many dimensions, a negative one, or too many elements.
    """
    if len(dims) > MAX_DIMS:  # first: the product of a million dimensions takes minutes
        raise InvalidRequestError(f"shape of {len(dims)} dimensions, expected at most {MAX_DIMS}")
    shape = tuple(dims)
    if any(dim < 0 for dim in shape):
        raise InvalidRequestError(
            f"shape {list(shape)} has a negative dimension, expected all dimensions specified"
        )
    # Zero dimensions aside, so that [0, 2**62] is refused here and not by an allocator.
    if math.prod(dim for dim in shape if dim) * max(datatype.size_bytes, 1) > MAX_MESSAGE_BYTES:
        raise InvalidRequestError(
            f"shape {list(shape)} holds more than {MAX_MESSAGE_BYTES} bytes of {datatype.name}"
        )
    if math.prod(shape) > max_elements:
        raise InvalidRequestError(
            f"shape {list(shape)} holds {math.prod(shape)} elements, expected at most "
            f"{max_elements}"
        )
    return shape


def decode_raw(raw: bytes, datatype: Datatype, shape: tuple[int, ...]) -> Array:
    """The array in one raw entry.

    Raises:
        InvalidRequestError: the bytes do not fit the shape, or are no values of the datatype.
    """
    _check_size(len(raw), datatype, shape)
    if datatype.name == "BYTES":
        return _decode_bytes_elements(raw, math.prod(shape)).reshape(shape)
    if datatype.name == "BOOL":
        _check_bool_bytes(raw)
    return np.frombuffer(raw, dtype=datatype.dtype).reshape(shape)


def check_raw_size(size: int, tensor: WireTensor) -> None:
    """Whether a raw entry of so many bytes can hold a tensor.

    Raises:
        InvalidRequestError: it cannot, or datatype or shape are impossible.
    """
    datatype = datatypes.by_name(tensor.datatype)
    _check_size(size, datatype, checked_shape(tensor.shape, datatype, MAX_MESSAGE_BYTES))


def _check_size(size: int, datatype: Datatype, shape: tuple[int, ...]) -> None:
    """Before memory is taken for as many values as the shape says."""
    count = math.prod(shape)
    if datatype.name == "BYTES":
        if size < count * _LENGTH.size:
            raise InvalidRequestError(
                f"raw contents hold {size} bytes, expected at least {count * _LENGTH.size}: "
                f"a length before each of {count} BYTES elements"
            )
    elif size != count * datatype.size_bytes:
        raise InvalidRequestError(
            f"raw contents hold {size} bytes, expected {count * datatype.size_bytes} "
            f"for shape {list(shape)} of {datatype.name}"
        )


def _check_bool_bytes(raw: bytes) -> None:
    values = np.frombuffer(raw, dtype=np.uint8)
    if values.size and values.max() > 1:
        raise InvalidRequestError(f"BOOL holds the byte {values.max()}, expected 0 or 1")


def _decode_bytes_elements(raw: bytes, count: int) -> Array:
    elements = np.empty(count, dtype=object)
    if _fill_equal_lengths(raw, elements):
        return elements
    offset, end = 0, len(raw)
    for index in range(count):
        if offset + _LENGTH.size > end:
            raise InvalidRequestError(
                f"raw contents end inside a length: {index} BYTES elements came, expected {count}"
            )
        (length,) = _LENGTH.unpack_from(raw, offset)
        offset += _LENGTH.size
        if offset + length > end:
            raise InvalidRequestError(
                f"BYTES element {index} says {length} bytes, only {end - offset} are left"
            )
        elements[index] = raw[offset : offset + length]
        offset += length
    if offset != end:
        raise InvalidRequestError(
            f"raw contents hold {end - offset} bytes more than {count} BYTES elements"
        )
    return elements


def _fill_equal_lengths(raw: bytes, elements: Array) -> bool:
    """Fills ``elements`` at once where all have one length (ids, codes); False if they do not."""
    count = len(elements)
    if count == 0 or len(raw) % count or len(raw) < count * _LENGTH.size:
        return False
    length = len(raw) // count - _LENGTH.size
    rows = np.frombuffer(raw, dtype=np.uint8).reshape(count, -1)
    prefixes = np.ascontiguousarray(rows[:, : _LENGTH.size]).view("<u4")
    if not (prefixes == length).all():
        return False
    stride = length + _LENGTH.size
    starts = range(_LENGTH.size, len(raw) + 1, stride)
    elements[:] = [raw[start : start + length] for start in starts][:count]
    return True


def _decode_typed(tensor: WireTensor, datatype: Datatype, shape: tuple[int, ...]) -> Array:
    field = datatype.contents_field
    if field is None:
        raise InvalidRequestError(f"{datatype.name} has no typed contents, send it raw")
    contents = tensor.contents
    for other in _CONTENTS_FIELDS:
        if other != field and len(getattr(contents, other)):
            raise InvalidRequestError(
                f"values came in {other}, expected {field} for {datatype.name}"
            )
    values = getattr(contents, field)
    expected = math.prod(shape)
    if len(values) != expected:
        raise InvalidRequestError(
            f"{field} holds {len(values)} values, expected {expected} for shape {list(shape)}"
        )
    if datatype.name == "BYTES":
        elements = np.empty(expected, dtype=object)
        elements[:] = list(values)
        return elements.reshape(shape)
    return _narrow(values, datatype).reshape(shape)


def _narrow(values: Sequence[Any], datatype: Datatype) -> Array:
    """Typed values in the datatype's own width; (U)INT8 and 16 travel as 32 bits.

    Raises:
        InvalidRequestError: a value is outside the datatype's range.
    """
    if datatype.dtype.kind not in "iu":
        return np.array(values, dtype=datatype.dtype)
    wide = np.array(values, dtype=np.int64 if datatype.dtype.kind == "i" else np.uint64)
    bounds = np.iinfo(datatype.dtype)
    if wide.size and (wide.min() < bounds.min or wide.max() > bounds.max):
        outlier = wide.min() if wide.min() < bounds.min else wide.max()
        raise InvalidRequestError(
            f"value {outlier} is outside {datatype.name}, expected {bounds.min} to {bounds.max}"
        )
    return wide.astype(datatype.dtype)


def encode_raw(array: Array, datatype: Datatype) -> bytes:
    """One raw entry.

    Raises:
        InvalidRequestError: a BYTES element is neither bytes nor text.
    """
    if datatype.name == "BF16":
        return np.ascontiguousarray(array).view(datatype.dtype).tobytes()
    if datatype.name != "BYTES":
        return np.ascontiguousarray(array, dtype=datatype.dtype).tobytes()
    parts: list[bytes] = []
    for element in as_bytes(array).ravel():
        parts.append(_LENGTH.pack(len(element)))
        parts.append(element)
    return b"".join(parts)


def as_bytes(array: Array) -> Array:
    """The same array as objects of ``bytes``; text becomes UTF-8.

    Raises:
        InvalidRequestError: an element is neither bytes nor text.
    """
    if array.dtype.kind == "U":
        array = np.char.encode(array, "utf-8")
    elements = np.empty(array.size, dtype=object)
    elements[:] = [_element_bytes(value) for value in array.ravel().tolist()]
    return elements.reshape(array.shape)


def _element_bytes(value: object) -> bytes:
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return value.encode()
    raise InvalidRequestError(
        f"a BYTES element is {type(value).__name__} {value!r}, expected bytes or str"
    )


def encode_inputs(
    request: inference.ModelInferRequest, arrays: Mapping[str, Array]
) -> inference.ModelInferRequest:
    """Adds every array to the request as a raw input; answers the request."""
    for name, array in arrays.items():
        datatype = datatypes.of_array(array)
        request.inputs.add(name=name, datatype=datatype.name, shape=array.shape)
        request.raw_input_contents.append(encode_raw(array, datatype))
    return request


def encode_outputs(
    response: inference.ModelInferResponse, arrays: Mapping[str, Array]
) -> inference.ModelInferResponse:
    """Adds every array to the response as a raw output; answers the response.

    Always raw, one entry an output: tritonclient reads ``raw_output_contents[i]`` for output i
    and shows typed numbers as empty arrays.

    Raises:
        InvalidRequestError: the outputs are larger than a message may be.
    """
    size_bytes = 0
    for name, array in arrays.items():
        datatype = datatypes.of_array(array)
        raw = encode_raw(array, datatype)
        size_bytes += len(raw)
        if size_bytes > MAX_MESSAGE_BYTES:
            raise InvalidRequestError(
                f"model {response.model_name!r}: the outputs hold more than {MAX_MESSAGE_BYTES} "
                "bytes, ask for fewer rows or outputs"
            )
        response.outputs.add(name=name, datatype=datatype.name, shape=array.shape)
        response.raw_output_contents.append(raw)
    return response


Parameter = bool | int | float | str


def decode_parameters(
    parameters: Mapping[str, inference.InferParameter], *, where: str
) -> dict[str, Parameter]:
    """Plain values by name.

    Raises:
        InvalidRequestError: a parameter holds no value.
    """
    values: dict[str, Parameter] = {}
    for name, parameter in parameters.items():
        field = parameter.WhichOneof("parameter_choice")
        if field is None:
            raise InvalidRequestError(f"{where} parameter {name!r} holds no value")
        values[name] = getattr(parameter, field)
    return values


def encode_parameter(value: Parameter) -> inference.InferParameter:
    """A plain value as the protocol's parameter; integers past int64 travel as uint64.

    Raises:
        InvalidRequestError: the value is of no kind that the protocol has.
    """
    if isinstance(value, bool):
        return inference.InferParameter(bool_param=value)
    if isinstance(value, int) and -(2**63) <= value < 2**63:
        return inference.InferParameter(int64_param=value)
    if isinstance(value, int) and 0 <= value < 2**64:
        return inference.InferParameter(uint64_param=value)
    if isinstance(value, float):
        return inference.InferParameter(double_param=value)
    if isinstance(value, str):
        return inference.InferParameter(string_param=value)
    raise InvalidRequestError(
        f"parameter value {value!r} does not travel, expected bool, 64-bit int, float or str"
    )
