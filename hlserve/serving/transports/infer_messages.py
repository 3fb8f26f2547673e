"""ModelInfer's messages: what a request asks for, and the answer in the form it asked for.

Inputs and outputs may lie in shared memory. Reserved parameters mean something (serving.md names
them); those of other names are the client's own and harmless.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hlserve import codec, datatypes
from hlserve.errors import HlserveError, InvalidRequestError, UnsupportedError
from hlserve.pb.messages import inference
from hlserve.serving.request import InferRequest, InferResponse
from hlserve.serving.shared_memory import MAX_PART_BYTES, Region, SharedMemory

_FINAL_RESPONSE = "triton_enable_empty_final_response"
_SEQUENCE = ("sequence_id", "sequence_start", "sequence_end")
_REGION = "shared_memory_region"
_REGION_PLACE = ("shared_memory_byte_size", "shared_memory_offset")
_CLASSIFICATION = "classification"
_RESERVED_PREFIX = "triton_"
_MAX_PARAMETERS = 10_000
_MAX_TENSORS = 10_000  # inputs, and outputs asked for
_MAX_PRIORITY = 2**32 - 1  # Triton's configuration knows 32 bits of levels
_MAX_TIMEOUT_US = 2**63 - 1
Parameters = Mapping[str, codec.Parameter]


@dataclass(frozen=True, slots=True)
class Place:
    """Where an output goes instead of into the message."""

    region: Region
    offset: int
    byte_size: int


@dataclass(frozen=True, slots=True)
class DecodedInfer:
    """A request, and what only its answer's message needs.

    Attributes:
        request: for the data plane.
        places: outputs that go to shared memory, by name.
    """

    request: InferRequest
    places: Mapping[str, Place]


def decode_request(
    message: inference.ModelInferRequest,
    memory: SharedMemory,
    deadline_s: float | None,
    *,
    max_elements: int,
    max_shared_bytes: int,
) -> DecodedInfer:
    """What a message asks for.

    Args:
        message: as it came.
        memory: the regions it may name.
        deadline_s: on the event loop's clock; None: no deadline.
        max_elements: of one input.
        max_shared_bytes: of all inputs that lie in shared memory.

    Raises:
        InvalidRequestError: tensors or parameters are malformed.
        NotFoundError: a shared memory region is not registered.
        UnsupportedError: it asks for shared memory or sequences, which are not there.
    """
    model = f"model {message.model_name!r}"
    check_counts(message, model)
    parameters = _decode_parameters(message.parameters, f"{model}:")
    if parameters:
        _refuse_reserved(parameters, model)
    places, classifications = _decode_outputs(message, memory, model)
    elsewhere = _read_regions(message, memory, model, min(max_shared_bytes, MAX_PART_BYTES))
    request = InferRequest(
        model_name=message.model_name,
        model_version=message.model_version,
        request_id=message.id,
        parameters=parameters,
        priority=_integer(parameters, "priority", model, most=_MAX_PRIORITY),
        timeout_us=_integer(parameters, "timeout", model, most=_MAX_TIMEOUT_US),
        inputs=codec.decode_tensors(
            message.inputs,
            message.raw_input_contents,
            where=f"{model}: input",
            elsewhere=elsewhere,
            max_elements=max_elements,
        ),
        outputs=tuple(output.name for output in message.outputs),
        classifications=classifications,
        deadline_s=deadline_s,
    )
    return DecodedInfer(request, places)


def asks_for_final_response(message: inference.ModelInferRequest) -> bool:
    """Whether the last answer to a request of a stream is to say that it is the last."""
    return _FINAL_RESPONSE in message.parameters and message.parameters[_FINAL_RESPONSE].bool_param


def encode_response(
    answer: InferResponse, places: Mapping[str, Place]
) -> inference.ModelInferResponse:
    """The answer: raw, one entry an output; empty where the output went to shared memory.

    Raises:
        InvalidRequestError: a region is too small for its output, or the message too large.
    """
    response = inference.ModelInferResponse(
        model_name=answer.model_name,
        model_version=answer.model_version,
        id=answer.request_id,
    )
    if not places:
        return codec.encode_outputs(response, answer.outputs)
    here = {name: array for name, array in answer.outputs.items() if name not in places}
    message = codec.encode_outputs(inference.ModelInferResponse(), here)
    entries = iter(zip(message.outputs, message.raw_output_contents, strict=True))
    for name, array in answer.outputs.items():
        if name in places:
            _write_output(response, name, array, places[name])
            continue
        output, raw = next(entries)
        response.outputs.append(output)
        response.raw_output_contents.append(raw)
    return response


def check_counts(message: inference.ModelInferRequest, model: str) -> None:
    """Bounds how many inputs and outputs are looked at.

    Raises:
        InvalidRequestError: there are too many.
    """
    for kind, count in (("inputs", len(message.inputs)), ("outputs", len(message.outputs))):
        if count > _MAX_TENSORS:
            raise InvalidRequestError(
                f"{model}: {count} {kind} came, expected at most {_MAX_TENSORS}"
            )


# ----------------------------------------------------------------------------- parameters


def _decode_parameters(parameters: Any, where: str) -> dict[str, codec.Parameter]:
    if not parameters:
        return {}
    if len(parameters) > _MAX_PARAMETERS:
        raise InvalidRequestError(
            f"{where} {len(parameters)} parameters came, expected at most {_MAX_PARAMETERS}"
        )
    return codec.decode_parameters(parameters, where=where)


def _refuse_reserved(parameters: Parameters, model: str) -> None:
    for name, value in parameters.items():
        if name == _FINAL_RESPONSE or name == "sequence_start" or name == "sequence_end":
            if not isinstance(value, bool):
                raise _wrong_kind(model, name, value, "a bool")
        elif name == "sequence_id":
            if isinstance(value, bool | float):
                raise _wrong_kind(model, name, value, "an integer or a string")
        elif name.startswith(_RESERVED_PREFIX):
            raise InvalidRequestError(
                f"{model}: unknown parameter {name!r}: names that begin with "
                f"{_RESERVED_PREFIX!r} are reserved"
            )
    asked = [name for name in _SEQUENCE if parameters.get(name)]
    if asked:
        raise UnsupportedError(
            f"{model} is no sequence model, so it takes no parameter {asked[0]!r}"
        )


def _wrong_kind(model: str, name: str, value: object, expected: str) -> InvalidRequestError:
    return InvalidRequestError(f"{model}: parameter {name!r} is {value!r}, expected {expected}")


def _integer(parameters: Parameters, name: str, where: str, *, most: int) -> int:
    if name not in parameters:
        return 0
    value = parameters[name]
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
        raise _wrong_kind(where, name, value, f"an integer from 0 to {most}")
    return value


# ----------------------------------------------------------------------------- shared memory


def _read_regions(
    message: inference.ModelInferRequest, memory: SharedMemory, model: str, most: int
) -> dict[int, bytes]:
    """The raw contents of inputs that lie in shared memory, by the input's index."""
    places: dict[int, Place] = {}
    for index, tensor in enumerate(message.inputs):
        if tensor.parameters:
            where = f"{model}: input {tensor.name!r}"
            place = _decode_place(_decode_parameters(tensor.parameters, where), memory, where)
            if place is not None:
                _check_size(tensor, place, where)
                places[index] = place
    if not places:
        return {}
    # As little as a message may bring: what is read is a copy.
    total = sum(place.byte_size for place in places.values())
    if total > most:
        raise InvalidRequestError(
            f"{model}: the inputs in shared memory hold {total} bytes, expected at most {most}, "
            "as in a message"
        )
    return {
        index: place.region.read(place.offset, place.byte_size) for index, place in places.items()
    }


def _check_size(tensor: Any, place: Place, where: str) -> None:
    """Before the bytes are read: those that the shape cannot need are not."""
    try:
        codec.check_raw_size(place.byte_size, tensor)
    except InvalidRequestError as error:
        raise InvalidRequestError(f"{where}: {error}") from error


def _decode_place(parameters: Parameters, memory: SharedMemory, where: str) -> Place | None:
    if _REGION not in parameters:
        for name in _REGION_PLACE:
            if name in parameters:
                raise InvalidRequestError(f"{where}: {name} came without {_REGION}")
        return None
    region_name = parameters[_REGION]
    if not isinstance(region_name, str):
        raise _wrong_kind(where, _REGION, region_name, "a string")
    try:
        region = memory.get(region_name)
    except HlserveError as error:
        raise type(error)(f"{where}: {error}") from error
    size_name, offset_name = _REGION_PLACE
    if size_name not in parameters:
        raise InvalidRequestError(f"{where}: {_REGION} came without {size_name}")
    byte_size = _integer(parameters, size_name, where, most=2**63 - 1)
    offset = _integer(parameters, offset_name, where, most=2**63 - 1)
    try:
        region.check(offset, byte_size)
    except InvalidRequestError as error:
        raise InvalidRequestError(f"{where}: {error}") from error
    return Place(region, offset, byte_size)


def _decode_outputs(
    message: inference.ModelInferRequest, memory: SharedMemory, model: str
) -> tuple[dict[str, Place], dict[str, int]]:
    places: dict[str, Place] = {}
    classifications: dict[str, int] = {}
    for output in message.outputs:
        if not output.parameters:
            continue
        where = f"{model}: output {output.name!r}"
        parameters = _decode_parameters(output.parameters, where)
        place = _decode_place(parameters, memory, where)
        count = _integer(parameters, _CLASSIFICATION, where, most=2**31 - 1)
        if place is not None and count:
            raise InvalidRequestError(
                f"{where}: classification and shared memory came together, expected one of them"
            )
        if place is not None:
            places[output.name] = place
        if count:
            classifications[output.name] = count
    return places, classifications


def _write_output(
    response: inference.ModelInferResponse, name: str, array: codec.Array, place: Place
) -> None:
    datatype = datatypes.of_array(array)
    raw = codec.encode_raw(array, datatype)
    where = f"model {response.model_name!r}: output {name!r}"
    if len(raw) > place.byte_size:
        raise InvalidRequestError(
            f"{where} has {len(raw)} bytes, shared memory region {place.region.name!r} "
            f"was given {place.byte_size} for it"
        )
    try:
        place.region.write(place.offset, raw)
    except InvalidRequestError as error:
        raise InvalidRequestError(f"{where}: {error}") from error
    output = response.outputs.add(name=name, datatype=datatype.name, shape=array.shape)
    output.parameters[_REGION].string_param = place.region.name
    output.parameters[_REGION_PLACE[0]].int64_param = len(raw)
    if place.offset:
        output.parameters[_REGION_PLACE[1]].int64_param = place.offset
    response.raw_output_contents.append(b"")
