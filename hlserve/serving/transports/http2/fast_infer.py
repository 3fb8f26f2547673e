"""ModelInfer between bytes and the data plane's own types, without a protobuf message.

Requests of one client differ in their id and their values; the rest repeats. What stands before
the first ``raw_input_contents``, less the id, is the key to a template: the request as protobuf
reads it, without values. Whatever is not plain (typed contents, parameters, BYTES, BOOL, shapes
that do not fit, any field out of order) is not for this path: ``decode`` answers None, and the
message goes through protobuf, which also finds the words where it is wrong.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from google.protobuf.message import DecodeError

from hlserve import codec, datatypes
from hlserve.codec import MAX_MESSAGE_BYTES
from hlserve.errors import InvalidRequestError
from hlserve.pb.messages import inference
from hlserve.serving.request import Array, InferRequest, InferResponse
from hlserve.serving.transports.infer_messages import check_counts

_NAME, _VERSION, _ID, _INPUTS, _OUTPUTS, _RAW = 0x0A, 0x12, 0x1A, 0x2A, 0x32, 0x3A
_BEFORE_RAW = frozenset((_NAME, _VERSION, _INPUTS, _OUTPUTS))
_MAX_TEMPLATES = 512
_MAX_KEY_BYTES = 4096
_MAX_HEADS = 512
_MAX_FAST_BYTES = 2**30
# Values may be anything for these; BOOL must be 0 or 1 and BYTES carries lengths.
_CHECKED_DATATYPES = ("BOOL", "BYTES")
# Of outputs whose bytes go as they are: numbers of this machine's order, which is the wire's.
_FAST_DTYPES = frozenset(np.dtype(code) for code in "?bhilqBHILQefd")


@dataclass(frozen=True, slots=True)
class _Input:
    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    size_bytes: int
    before_raw: bytes


@dataclass(frozen=True, slots=True, eq=False)  # compared by identity, which is quick
class _Template:
    """A request without its id and values."""

    model_name: str
    model_version: str
    inputs: tuple[_Input, ...]
    outputs: tuple[str, ...]

    def only_array(self, data: bytes, position: int) -> dict[str, Array] | None:
        """What ``_arrays`` gives, where there is one input; None: ask that."""
        only = self.inputs[0]
        start = position + len(only.before_raw)
        if len(self.inputs) > 1 or start + only.size_bytes != len(data):
            return None
        if not data.startswith(only.before_raw, position):
            return None
        return {only.name: np.ndarray(only.shape, only.dtype, data[start:])}


class _Head(NamedTuple):
    """An answer without its id and values.

    Attributes:
        before_id, after_id: what stands before the id, and between it and the raw entries.
        before_raws: what stands before the values of each raw entry.
        before_only_raw: all of it together, where there is one entry and no id.
        after_only_id: what stands between the id and the values, where there is one entry.
    """

    before_id: bytes
    after_id: bytes
    before_raws: tuple[bytes, ...]
    before_only_raw: bytes
    after_only_id: tuple[bytes, bytes]


class FastInfer:
    """The fast path; one for the whole server, used on the event loop only.

    Args:
        max_elements: of one input; a request with more is not for this path.
    """

    def __init__(self, max_elements: int = MAX_MESSAGE_BYTES) -> None:
        self._max_elements = max_elements
        # None: such requests are not plain; knowing it saves the attempt.
        self._templates: dict[bytes, _Template | None] = {}
        self._heads: dict[tuple[Any, ...], _Head] = {}

    def decode(
        self, data: bytes, deadline_s: float | None, start: int = 0, arrived_ns: int = 0
    ) -> InferRequest | None:
        """The request, exactly as protobuf and the codec would read it; None: ask them.

        Args:
            data: a serialized ``ModelInferRequest`` from ``start`` on.
            deadline_s: on the event loop's clock.
            start: where it begins.
            arrived_ns: when it came, by ``time.monotonic_ns``; 0: it is not known.
        """
        try:
            key, raw_start, request_id = _split(data, start)
        except (IndexError, UnicodeDecodeError):
            return None
        if raw_start < 0:
            return None
        try:
            template = self._templates[key]
        except KeyError:
            template = self._add_template(key)
        if template is None:
            return None
        arrays = template.only_array(data, raw_start) or _arrays(template.inputs, data, raw_start)
        if arrays is None:
            return None
        return InferRequest(
            template.model_name,
            arrays,
            template.model_version,
            template.outputs,
            request_id,
            deadline_s=deadline_s,
            signature=template,
            arrived_ns=arrived_ns,
        )

    def _add_template(self, key: bytes) -> _Template | None:
        template = _template(key, self._max_elements)
        if len(key) <= _MAX_KEY_BYTES:
            if len(self._templates) >= _MAX_TEMPLATES:
                self._templates.clear()
            self._templates[key] = template
        return template

    def encode(self, answer: InferResponse) -> bytes:
        """The serialized ``ModelInferResponse``, byte for byte as protobuf writes it.

        Raises:
            InvalidRequestError: the outputs are larger than a message may be.
        """
        if len(answer.outputs) == 1:  # nearly always
            [(name, array)] = answer.outputs.items()
            key = (answer.model_name, answer.model_version, name, array.dtype, array.shape)
            head = self._heads.get(key)
            if head is not None:  # so it is of a fast type, and small enough
                raw = array.tobytes()
                if not answer.request_id:
                    return head.before_only_raw + raw
                text = answer.request_id.encode()
                parts = (head.before_id, b"\x1a", varint(len(text)), text, *head.after_only_id, raw)
                return b"".join(parts)
        return self._encode_any(answer)

    def _encode_any(self, answer: InferResponse) -> bytes:
        key: list[Any] = [answer.model_name, answer.model_version]
        size_bytes = 0
        for name, array in answer.outputs.items():
            if array.dtype not in _FAST_DTYPES:
                return _by_protobuf(answer)
            size_bytes += array.nbytes
            key += (name, array.dtype, array.shape)
        if size_bytes > _MAX_FAST_BYTES:
            return _by_protobuf(answer)  # it checks the size
        head = self._heads.get(tuple(key)) or self._add_head(tuple(key), answer)
        parts = [head.before_id]
        if answer.request_id:
            text = answer.request_id.encode()
            parts += (b"\x1a", varint(len(text)), text)
        parts.append(head.after_id)
        for before_raw, array in zip(head.before_raws, answer.outputs.values(), strict=True):
            parts += (before_raw, array.tobytes())
        return b"".join(parts)

    def _add_head(self, key: tuple[Any, ...], answer: InferResponse) -> _Head:
        before = inference.ModelInferResponse(
            model_name=answer.model_name, model_version=answer.model_version
        )
        after = inference.ModelInferResponse()
        before_raws = []
        for name, array in answer.outputs.items():
            datatype = datatypes.of_array(array)
            after.outputs.add(name=name, datatype=datatype.name, shape=array.shape)
            before_raws.append(b"\x32" + varint(array.nbytes))
        before_id, after_id = before.SerializeToString(), after.SerializeToString()
        head = _Head(
            before_id,
            after_id,
            tuple(before_raws),
            before_id + after_id + b"".join(before_raws[:1]),
            (after_id, b"".join(before_raws[:1])),
        )
        if len(self._heads) >= _MAX_HEADS:
            self._heads.clear()
        self._heads[key] = head
        return head


def _by_protobuf(answer: InferResponse) -> bytes:
    response = inference.ModelInferResponse(
        model_name=answer.model_name,
        model_version=answer.model_version,
        id=answer.request_id,
    )
    return codec.encode_outputs(response, answer.outputs).SerializeToString()


def _split(data: bytes, begin: int) -> tuple[bytes, int, str]:
    """What stands before the raw entries less the id, where they begin (-1: not plain), the id.

    Raises:
        IndexError: the message is cut off.
        UnicodeDecodeError: the id is no text.
    """
    position, end = begin, len(data)
    id_start = id_end = text_start = -1
    while position < end:
        tag = data[position]
        if tag == _RAW:
            break
        length = data[position + 1]
        start = position + 2
        if length >= 0x80:
            length, start = _length(data, position + 1)
        stop = start + length
        if stop > end:
            return b"", -1, ""
        if tag == _ID:
            if id_start >= 0:
                return b"", -1, ""  # the last one counts; rare enough for protobuf
            id_start, text_start, id_end = position, start, stop
        elif tag not in _BEFORE_RAW:
            return b"", -1, ""
        position = stop
    else:
        return b"", -1, ""  # no raw entries
    if id_start < 0:
        return data[begin:position], position, ""
    key = data[begin:id_start] + data[id_end:position]
    return key, position, data[text_start:id_end].decode()


def _length(data: bytes, position: int) -> tuple[int, int]:
    """A length of at most four bytes, and where it ends; longer ones reach past any end."""
    value = data[position]
    if value < 0x80:
        return value, position + 1
    value &= 0x7F
    for shift in (7, 14, 21):
        position += 1
        byte = data[position]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position + 1
    return MAX_MESSAGE_BYTES + 1, position + 1


def _arrays(inputs: tuple[_Input, ...], data: bytes, position: int) -> dict[str, Array] | None:
    """The raw entries, read-only; None: they do not fit, or something follows them."""
    arrays: dict[str, Array] = {}
    end = len(data)
    for tensor in inputs:
        if position >= end or data[position] != _RAW:
            return None
        try:
            length, position = _length(data, position + 1)
        except IndexError:
            return None
        if length != tensor.size_bytes or position + length > end:
            return None
        stop = position + length
        # A slice, which costs a copy, is aligned; the place in the message seldom is.
        arrays[tensor.name] = np.ndarray(tensor.shape, tensor.dtype, data[position:stop])
        position = stop
    return arrays if position == end else None


def _template(key: bytes, max_elements: int) -> _Template | None:
    try:
        message = inference.ModelInferRequest.FromString(key)
    except DecodeError:
        return None
    inputs: dict[str, _Input] = {}
    try:
        check_counts(message, message.model_name)
        for tensor in message.inputs:
            if tensor.parameters or tensor.HasField("contents") or tensor.name in inputs:
                return None
            datatype = datatypes.by_name(tensor.datatype)
            shape = codec.checked_shape(tensor.shape, datatype, max_elements)
            # Empty tensors have rules of their own.
            if datatype.name in _CHECKED_DATATYPES or not math.prod(shape) or not shape:
                return None
            size_bytes = math.prod(shape) * datatype.size_bytes
            before_raw = bytes((_RAW,)) + varint(size_bytes)
            inputs[tensor.name] = _Input(tensor.name, datatype.dtype, shape, size_bytes, before_raw)
    except InvalidRequestError:
        return None
    if not inputs or any(output.parameters for output in message.outputs):
        return None
    return _Template(
        message.model_name,
        message.model_version,
        tuple(inputs.values()),
        tuple(output.name for output in message.outputs),
    )


def varint(value: int) -> bytes:
    """A number as protobuf writes it."""
    if value < 0x80:
        return bytes((value,))
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
