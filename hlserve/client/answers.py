"""What a client gives: values, and how they are read from the protocol's messages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hlserve import codec, datatypes
from hlserve.errors import InvalidRequestError, ServerError
from hlserve.frontend import FrontEnd, from_json
from hlserve.pb.messages import inference

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class InferResult:
    """One answer.

    Attributes:
        outputs: arrays by name, in the order asked for; BYTES as objects of ``bytes``.
        model_name: the model that answered.
        model_version: the version that answered.
        request_id: as it was sent.
    """

    outputs: dict[str, Array]
    model_name: str
    model_version: str
    request_id: str = ""


@dataclass(frozen=True, slots=True)
class TensorMetadata:
    """One input or output; -1 in ``shape`` where a dimension varies."""

    name: str
    datatype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ModelMetadata:
    """What a model takes and gives; ``properties`` are the server's facts about it, as text."""

    name: str
    versions: tuple[str, ...]
    platform: str
    inputs: tuple[TensorMetadata, ...]
    outputs: tuple[TensorMetadata, ...]
    properties: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ServerMetadata:
    """Who answers."""

    name: str
    version: str
    extensions: tuple[str, ...]


def frontend_of(facts: ModelMetadata) -> FrontEnd | None:
    """The front end that a server names among a model's properties; raises as ``from_json``."""
    text = facts.properties.get("frontend")
    return None if text is None else from_json(text, where=f"model {facts.name!r}: front end")


def fitted(
    model: str, arrays: Mapping[str, Array], tensors: Sequence[TensorMetadata]
) -> dict[str, Array]:
    """What a front end made, as the model takes it: flat where it is, in its datatypes."""
    fitted = {}
    for tensor in tensors:
        array, shape = arrays.get(tensor.name), tensor.shape[1:]
        if array is None:
            raise InvalidRequestError(
                f"model {model!r} takes the input {tensor.name!r}, its front end makes "
                f"{', '.join(map(repr, arrays))}"
            )
        if -1 not in shape and prod(shape) == prod(array.shape[1:]):
            array = array.reshape(len(array), *shape)
        fitted[tensor.name] = cast_array(array, tensor)
    return fitted


def cast_array(array: Array, tensor: TensorMetadata) -> Array:
    """Numbers in the input's datatype: any number to a float, integers to an integer.

    What cannot be cast is handed back as it came; the server says what it expects.

    Raises:
        InvalidRequestError: an integer is outside the datatype.
    """
    datatype = datatypes.by_name(tensor.datatype)
    if datatypes.of_array(array) is datatype:
        return array
    kinds = array.dtype.kind, datatype.dtype.kind
    to_float = kinds[1] == "f" and kinds[0] in "biuf"
    to_integer = kinds[1] in "iu" and kinds[0] in "biu"
    if not (to_float or to_integer):
        return array
    with np.errstate(over="ignore"):  # checked below
        cast_array = array.astype(datatype.dtype)
    if to_integer and not np.array_equal(cast_array, array):
        raise InvalidRequestError(
            f"input {tensor.name!r} holds values outside {tensor.datatype}: "
            f"{array.min()} to {array.max()}"
        )
    return cast_array


def server_metadata(response: inference.ServerMetadataResponse) -> ServerMetadata:
    """Who answers."""
    return ServerMetadata(response.name, response.version, tuple(response.extensions))


def model_metadata(response: inference.ModelMetadataResponse) -> ModelMetadata:
    """What a model takes and gives."""
    return ModelMetadata(
        name=response.name,
        versions=tuple(response.versions),
        platform=response.platform,
        inputs=_tensors(response.inputs),
        outputs=_tensors(response.outputs),
        properties=dict(response.properties),
    )


def infer_result(response: inference.ModelInferResponse) -> InferResult:
    """The arrays of an answer.

    Raises:
        ServerError: they cannot be read.
    """
    where = f"model {response.model_name!r}: output"
    try:
        outputs = codec.decode_tensors(response.outputs, response.raw_output_contents, where=where)
        for name, array in outputs.items():
            if array.dtype == datatypes.BF16_BITS:
                outputs[name] = datatypes.as_ml_dtypes(array)
    except InvalidRequestError as error:
        raise ServerError("INTERNAL", f"the server's answer cannot be read: {error}") from error
    return InferResult(
        outputs=outputs,
        model_name=response.model_name,
        model_version=response.model_version,
        request_id=response.id,
    )


def _tensors(
    tensors: Sequence[inference.ModelMetadataResponse.TensorMetadata],
) -> tuple[TensorMetadata, ...]:
    return tuple(TensorMetadata(t.name, t.datatype, tuple(t.shape)) for t in tensors)
