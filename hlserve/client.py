"""InferenceClient: arrays or raw items in, arrays out; needs NumPy, grpcio and protobuf only.

::

    with InferenceClient("localhost:8001") as client:
        result = client.infer("fashion", images)
        result.outputs["probabilities"]
        client.infer_items("sentiment", ["good food, good staff"])
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from types import TracebackType
from typing import Any, TypeVar, cast

import grpc
import numpy as np
from google.protobuf.message import Message
from numpy.typing import ArrayLike, NDArray

from hlserve import codec, datatypes, rpcs
from hlserve.errors import DataError, InvalidRequestError, ServerError
from hlserve.frontend import FrontEnd, from_json
from hlserve.pb.messages import health, inference, message_class

Array = NDArray[Any]
_Response = TypeVar("_Response", bound=Message)

DEFAULT_TIMEOUT_S = 60.0

_OPTIONS = (
    ("grpc.max_receive_message_length", codec.MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", codec.MAX_MESSAGE_BYTES),
)


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


@dataclass(frozen=True, slots=True)
class ModelState:
    """One version in the repository: ``READY``, ``LOADING``, ``UNLOADING`` or ``UNAVAILABLE``."""

    name: str
    version: str
    state: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Duration:
    """How often something was done, and how long all of it took, nanoseconds."""

    count: int
    ns: int


@dataclass(frozen=True, slots=True)
class ModelStatistics:
    """What one version has done since it was loaded.

    Attributes:
        name: the model.
        version: its version.
        inference_count: rows answered.
        execution_count: runs; joined requests share one.
        last_inference_ms: milliseconds since the epoch; 0: none yet.
        success: requests answered, from the server's door to the answer; the next four are its
            parts.
        queue: waiting.
        compute_input: joining rows.
        compute_infer: running.
        compute_output: taking the answers apart.
        fail: requests that got no answer.
    """

    name: str
    version: str
    inference_count: int
    execution_count: int
    last_inference_ms: int
    success: Duration
    queue: Duration
    compute_input: Duration
    compute_infer: Duration
    compute_output: Duration
    fail: Duration


def model_states(response: inference.RepositoryIndexResponse) -> tuple[ModelState, ...]:
    """Of every model, as the server lists them."""
    return tuple(ModelState(m.name, m.version, m.state, m.reason) for m in response.models)


def model_statistics(response: inference.ModelStatisticsResponse) -> tuple[ModelStatistics, ...]:
    """Of every version asked for."""
    return tuple(_statistics(each) for each in response.model_stats)


def _statistics(message: inference.ModelStatistics) -> ModelStatistics:
    phases = message.inference_stats
    return ModelStatistics(
        name=message.name,
        version=message.version,
        inference_count=message.inference_count,
        execution_count=message.execution_count,
        last_inference_ms=message.last_inference,
        success=_duration(phases.success),
        queue=_duration(phases.queue),
        compute_input=_duration(phases.compute_input),
        compute_infer=_duration(phases.compute_infer),
        compute_output=_duration(phases.compute_output),
        fail=_duration(phases.fail),
    )


def _duration(message: inference.StatisticDuration) -> Duration:
    return Duration(message.count, message.ns)


class InferenceClient:
    """Speaks the Open Inference Protocol v2; safe from several threads at once.

    Args:
        address: ``host:port``; the connection is made at the first call.
        timeout_s: of each call, where the call says nothing; None: wait for ever.
    """

    def __init__(self, address: str, *, timeout_s: float | None = DEFAULT_TIMEOUT_S) -> None:
        self._timeout_s = timeout_s
        self._channel = grpc.insecure_channel(address, options=_OPTIONS)
        self._models: dict[tuple[str, str], ModelMetadata] = {}

    def __enter__(self) -> InferenceClient:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connection."""
        self._channel.close()

    def is_server_live(self, *, timeout_s: float | None = None) -> bool:
        """Whether the process answers.

        Raises:
            ServerError: it does not.
        """
        request = inference.ServerLiveRequest()
        response = self._call("ServerLive", request, inference.ServerLiveResponse, timeout_s)
        return response.live

    def is_server_ready(self, *, timeout_s: float | None = None) -> bool:
        """Whether the server takes requests.

        Raises:
            ServerError: it does not answer.
        """
        request = inference.ServerReadyRequest()
        response = self._call("ServerReady", request, inference.ServerReadyResponse, timeout_s)
        return response.ready

    def is_model_ready(
        self, model: str, version: str = "", *, timeout_s: float | None = None
    ) -> bool:
        """Whether a model, or one version of it, takes requests.

        Raises:
            ServerError: the server does not know it (NOT_FOUND), or does not answer.
        """
        request = inference.ModelReadyRequest(name=model, version=version)
        response = self._call("ModelReady", request, inference.ModelReadyResponse, timeout_s)
        return response.ready

    def is_healthy(self, service: str = "", *, timeout_s: float | None = None) -> bool:
        """The standard gRPC health check.

        Raises:
            ServerError: the server does not know the service, or does not answer.
        """
        request = health.HealthCheckRequest(service=service)
        row = rpcs.find("Check", rpcs.HEALTH_SERVICE)
        response = self._call_row(row, request, health.HealthCheckResponse, timeout_s)
        return response.status == health.HealthCheckResponse.SERVING

    def server_metadata(self, *, timeout_s: float | None = None) -> ServerMetadata:
        """Who answers.

        Raises:
            ServerError: the server does not answer.
        """
        request = inference.ServerMetadataRequest()
        response = self._call(
            "ServerMetadata", request, inference.ServerMetadataResponse, timeout_s
        )
        return ServerMetadata(response.name, response.version, tuple(response.extensions))

    def model_metadata(
        self, model: str, version: str = "", *, timeout_s: float | None = None
    ) -> ModelMetadata:
        """What a model takes and gives.

        Raises:
            ServerError: the server does not know it (NOT_FOUND), it is not ready (UNAVAILABLE),
                or the server does not answer.
        """
        request = inference.ModelMetadataRequest(name=model, version=version)
        response = self._call("ModelMetadata", request, inference.ModelMetadataResponse, timeout_s)
        return ModelMetadata(
            name=response.name,
            versions=tuple(response.versions),
            platform=response.platform,
            inputs=_tensors(response.inputs),
            outputs=_tensors(response.outputs),
            properties=dict(response.properties),
        )

    def frontend(
        self, model: str, version: str = "", *, timeout_s: float | None = None
    ) -> FrontEnd | None:
        """What makes the model's inputs of raw items; None where they are numbers.

        Raises:
            SchemaVersionError: a newer hlserve published it.
            ModelFileError: it is no front end that this hlserve knows.
            ServerError: see ``model_metadata``.
        """
        return frontend_of(self.model_metadata(model, version, timeout_s=timeout_s))

    def infer(
        self,
        model: str,
        inputs: Mapping[str, ArrayLike] | ArrayLike,
        version: str = "",
        *,
        outputs: Sequence[str] | None = None,
        request_id: str = "",
        parameters: Mapping[str, codec.Parameter] | None = None,
        timeout_s: float | None = None,
    ) -> InferResult:
        """Runs a model.

        Args:
            model: its name.
            inputs: arrays by input name; text and bytes travel as BYTES. A single array (or
                nested list) goes to the model's only input, cast to its datatype where no value
                changes kind: its metadata is asked once and remembered.
            version: empty: the latest.
            outputs: names in the order wanted; None: all.
            request_id: comes back in the answer.
            parameters: of the request.
            timeout_s: also the deadline after which the server will not run it any more.

        Raises:
            InvalidRequestError: the arrays do not travel, or a single array came for a model
                with several inputs.
            ServerError: the server refused or does not answer; ``status`` says which.
        """
        request = inference.ModelInferRequest(
            model_name=model, model_version=version, id=request_id
        )
        for name in outputs or ():
            request.outputs.add(name=name)
        for name, value in (parameters or {}).items():
            request.parameters[name].CopyFrom(codec.encode_parameter(value))
        if isinstance(inputs, Mapping):
            arrays = {name: np.asarray(value) for name, value in inputs.items()}
        else:
            arrays = self._only_input(model, version, inputs, timeout_s)
        codec.encode_inputs(request, arrays)
        return _result(self._call("ModelInfer", request, inference.ModelInferResponse, timeout_s))

    def infer_items(
        self,
        model: str,
        items: Sequence[Any],
        version: str = "",
        *,
        outputs: Sequence[str] | None = None,
        timeout_s: float | None = None,
    ) -> InferResult:
        """Runs a model on raw items, by the front end that was published with it.

        The model's metadata is asked each time, so that a version which is published meanwhile
        is never fed by another's vocabulary.

        Args:
            model: its name.
            items: what its front end takes: texts; paths, contents or ``Sound`` of sounds; paths
                or contents of images; or rows, each cells by column name or a list of cells.
            version: empty: the latest.
            outputs: names in the order wanted; None: all.
            timeout_s: of each of the two calls.

        Raises:
            InvalidRequestError: the model has no front end, or it makes other inputs.
            DataError: an item cannot be taken.
            ServerError: the server refused or does not answer; ``status`` says which.
        """
        if isinstance(items, str | bytes):
            raise DataError(f"items is one {type(items).__name__}, expected a list of them: [item]")
        facts = self.model_metadata(model, version, timeout_s=timeout_s)
        front_end = frontend_of(facts)
        if front_end is None:
            raise InvalidRequestError(f"model {model!r} has no front end: infer() takes its arrays")
        arrays = _fitted(model, front_end.apply(items), facts.inputs)
        pinned = version or (facts.versions[-1] if facts.versions else "")
        return self.infer(model, arrays, pinned, outputs=outputs, timeout_s=timeout_s)

    # ----- model control

    def repository_index(
        self, *, only_ready: bool = False, timeout_s: float | None = None
    ) -> tuple[ModelState, ...]:
        """Every model in the repository, loaded or not."""
        request = inference.RepositoryIndexRequest(ready=only_ready)
        response = inference.RepositoryIndexResponse
        return model_states(self._call("RepositoryIndex", request, response, timeout_s))

    def load_model(self, model: str, *, timeout_s: float | None = None) -> None:
        """Loads a model, or loads it again."""
        request = inference.RepositoryModelLoadRequest(model_name=model)
        response = inference.RepositoryModelLoadResponse
        self._call("RepositoryModelLoad", request, response, timeout_s)

    def unload_model(self, model: str, *, timeout_s: float | None = None) -> None:
        """Takes a model out of service."""
        request = inference.RepositoryModelUnloadRequest(model_name=model)
        response = inference.RepositoryModelUnloadResponse
        self._call("RepositoryModelUnload", request, response, timeout_s)

    def model_statistics(
        self, model: str = "", version: str = "", *, timeout_s: float | None = None
    ) -> tuple[ModelStatistics, ...]:
        """What models have done since they were loaded; without a name, all of them."""
        request = inference.ModelStatisticsRequest(name=model, version=version)
        response = inference.ModelStatisticsResponse
        return model_statistics(self._call("ModelStatistics", request, response, timeout_s))

    # ----- below

    def _only_input(
        self, model: str, version: str, value: ArrayLike, timeout_s: float | None
    ) -> dict[str, Array]:
        facts = self._models.get((model, version))
        if facts is None:
            facts = self.model_metadata(model, version, timeout_s=timeout_s)
            self._models[(model, version)] = facts
        if len(facts.inputs) != 1:
            names = [tensor.name for tensor in facts.inputs]
            raise InvalidRequestError(
                f"model {model!r} has the inputs {names}: pass a mapping from name to array"
            )
        return {facts.inputs[0].name: cast_array(np.asarray(value), facts.inputs[0])}

    def _call(
        self, name: str, request: Message, response: type[_Response], timeout_s: float | None
    ) -> _Response:
        return self._call_row(rpcs.find(name), request, response, timeout_s)

    def _call_row(
        self,
        row: rpcs.Rpc,
        request: Message,
        response: type[_Response],
        timeout_s: float | None,
    ) -> _Response:
        call = self._channel.unary_unary(
            row.path,
            request_serializer=message_class(row.request).SerializeToString,
            response_deserializer=response.FromString,
        )
        try:
            return cast(
                "_Response",
                call(request, timeout=self._timeout_s if timeout_s is None else timeout_s),
            )
        except grpc.RpcError as error:
            raise ServerError(error.code().name, error.details() or "no details") from error


def frontend_of(facts: ModelMetadata) -> FrontEnd | None:
    """The front end that a server names among a model's properties; raises as ``from_json``."""
    text = facts.properties.get("frontend")
    return None if text is None else from_json(text, where=f"model {facts.name!r}: front end")


def _fitted(
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


def _tensors(
    tensors: Sequence[inference.ModelMetadataResponse.TensorMetadata],
) -> tuple[TensorMetadata, ...]:
    return tuple(TensorMetadata(t.name, t.datatype, tuple(t.shape)) for t in tensors)


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


def _result(response: inference.ModelInferResponse) -> InferResult:
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
