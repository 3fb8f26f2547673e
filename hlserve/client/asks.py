"""What a client asks: for each verb the RPC, its request, and how its answer is read.

The clients only send them, one blocking and one for asyncio; everything else is here, once.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
from google.protobuf.message import Message
from numpy.typing import ArrayLike, NDArray

from hlserve import codec, rpcs
from hlserve.client import answers, control, predicting
from hlserve.errors import DataError, InvalidRequestError, ServerError
from hlserve.pb.messages import health, inference
from hlserve.rpcs import Rpc

Array = NDArray[Any]
Answer = TypeVar("Answer")
Inputs = Mapping[str, ArrayLike]


@dataclass(frozen=True, slots=True)
class Ask(Generic[Answer]):
    """One question.

    Attributes:
        rpc: its row in the table.
        request: the message.
        read: the answer's message -> what the caller gets.
        is_idempotent: whether it may be sent again when it is not known to have arrived.
    """

    rpc: Rpc
    request: Message
    read: Callable[[Any], Answer]
    is_idempotent: bool = True


@dataclass(frozen=True, slots=True)
class InferOptions:
    """What an inference request may say beside its arrays.

    Attributes:
        outputs: names in the order wanted; None: all.
        request_id: comes back in the answer.
        parameters: of the request.
    """

    outputs: Sequence[str] | None = None
    request_id: str = ""
    parameters: Mapping[str, codec.Parameter] | None = None


def server_live() -> Ask[bool]:
    """Whether the process answers."""
    return _ask("ServerLive", inference.ServerLiveRequest(), lambda answer: bool(answer.live))


def server_ready() -> Ask[bool]:
    """Whether the server takes requests."""
    return _ask("ServerReady", inference.ServerReadyRequest(), lambda answer: bool(answer.ready))


def model_ready(model: str, version: str) -> Ask[bool]:
    """Whether a model takes requests."""
    request = inference.ModelReadyRequest(name=model, version=version)
    return _ask("ModelReady", request, lambda answer: bool(answer.ready))


def healthy(service: str) -> Ask[bool]:
    """The standard health check."""
    return Ask(
        rpcs.find("Check", rpcs.HEALTH_SERVICE),
        health.HealthCheckRequest(service=service),
        lambda answer: bool(answer.status == health.HealthCheckResponse.SERVING),
    )


def server_metadata() -> Ask[answers.ServerMetadata]:
    """Who answers."""
    return _ask("ServerMetadata", inference.ServerMetadataRequest(), answers.server_metadata)


def model_metadata(model: str, version: str) -> Ask[answers.ModelMetadata]:
    """What a model takes and gives."""
    request = inference.ModelMetadataRequest(name=model, version=version)
    return _ask("ModelMetadata", request, answers.model_metadata)


def infer(
    model: str, version: str, arrays: Inputs, options: InferOptions
) -> Ask[answers.InferResult]:
    """Runs a model; raises InvalidRequestError where the arrays do not travel."""
    request = infer_request(model, version, arrays, options)
    return _ask("ModelInfer", request, answers.infer_result)


def infer_request(
    model: str, version: str, arrays: Inputs, options: InferOptions
) -> inference.ModelInferRequest:
    """The message that runs a model; raises as ``infer``."""
    request = inference.ModelInferRequest(
        model_name=model, model_version=version, id=options.request_id
    )
    for name in options.outputs or ():
        request.outputs.add(name=name)
    for name, value in (options.parameters or {}).items():
        request.parameters[name].CopyFrom(codec.encode_parameter(value))
    codec.encode_inputs(request, {name: np.asarray(value) for name, value in arrays.items()})
    return request


def stream_answer(
    response: inference.ModelStreamInferResponse,
) -> answers.InferResult | ServerError:
    """One answer of a stream; the protocol gives an error no status there, but its text."""
    if response.error_message:
        return ServerError("UNKNOWN", response.error_message)
    return answers.infer_result(response.infer_response)


def only_input(facts: answers.ModelMetadata, value: ArrayLike) -> dict[str, Array]:
    """A single array as the model's only input, in its datatype.

    Raises:
        InvalidRequestError: the model has several inputs, or an integer is out of range.
    """
    if len(facts.inputs) != 1:
        names = [tensor.name for tensor in facts.inputs]
        raise InvalidRequestError(
            f"model {facts.name!r} has the inputs {names}: pass a mapping from name to array"
        )
    tensor = facts.inputs[0]
    return {tensor.name: answers.cast_array(np.asarray(value), tensor)}


def items_as_arrays(
    facts: answers.ModelMetadata, items: Sequence[Any], version: str
) -> tuple[dict[str, Array], str]:
    """Raw items by the model's front end, and the version that must answer.

    Raises:
        InvalidRequestError: the model has no front end, or it makes other inputs.
        DataError: an item cannot be taken.
    """
    front_end = answers.frontend_of(facts)
    if front_end is None:
        raise InvalidRequestError(f"model {facts.name!r} has no front end: infer() takes arrays")
    arrays = answers.fitted(facts.name, front_end.apply(items), facts.inputs)
    return arrays, version or (facts.versions[-1] if facts.versions else "")


def checked_items(items: Sequence[Any]) -> Sequence[Any]:
    """The items, if they are a list of them; raises DataError for one alone."""
    if isinstance(items, str | bytes):
        raise DataError(f"items is one {type(items).__name__}, expected a list of them: [item]")
    return items


def predict(
    model: str, version: str, instances: Sequence[Any], request_id: str
) -> Ask[predicting.PredictResult]:
    """Labels and numbers for things; raises DataError where one cannot travel."""
    request = predicting.predict_request(model, version, instances, request_id)
    rpc = rpcs.find("Predict", rpcs.PREDICTION_SERVICE)
    return Ask(rpc, request, predicting.predict_result)


# ----- model control


def repository_index(*, only_ready: bool) -> Ask[tuple[control.ModelState, ...]]:
    """Every model in the repository."""
    request = inference.RepositoryIndexRequest(ready=only_ready)
    return _ask("RepositoryIndex", request, control.model_states)


def load_model(
    model: str, config: Mapping[str, Any] | None, files: Mapping[str, bytes] | None
) -> Ask[None]:
    """Loads a model, or loads it again."""
    request = inference.RepositoryModelLoadRequest(model_name=model)
    if config is not None:
        request.parameters["config"].string_param = json.dumps(config)
    for name, content in (files or {}).items():
        request.parameters[f"file:{name}"].bytes_param = content
    return Ask(rpcs.find("RepositoryModelLoad"), request, _nothing, is_idempotent=False)


def unload_model(model: str) -> Ask[None]:
    """Takes a model out of service."""
    request = inference.RepositoryModelUnloadRequest(model_name=model)
    return Ask(rpcs.find("RepositoryModelUnload"), request, _nothing, is_idempotent=False)


def model_statistics(model: str, version: str) -> Ask[tuple[control.ModelStatistics, ...]]:
    """What models have done."""
    request = inference.ModelStatisticsRequest(name=model, version=version)
    return _ask("ModelStatistics", request, control.model_statistics)


def model_config(model: str, version: str) -> Ask[dict[str, Any]]:
    """How a model is served."""
    request = inference.ModelConfigRequest(name=model, version=version)
    return _ask("ModelConfig", request, control.model_config)


# ----- below


def _ask(name: str, request: Message, read: Callable[[Any], Answer]) -> Ask[Answer]:
    return Ask(rpcs.find(name), request, read)


def _nothing(response: Message) -> None:
    """A call whose answer says only that it is done."""
