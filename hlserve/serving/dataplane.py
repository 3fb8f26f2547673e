"""DataPlane: what the server does, in plain Python, without a transport.

Every transport turns its wire into these calls. All of them run on the event loop.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from hlserve import __version__
from hlserve.errors import InferenceError, InvalidRequestError, NotFoundError, ShuttingDownError
from hlserve.repository import TensorSpec
from hlserve.rpcs import SERVICES
from hlserve.serving.checks import check_request
from hlserve.serving.model import ServedModel
from hlserve.serving.prediction import Predictor, PredictRequest, PredictResponse
from hlserve.serving.request import InferRequest, InferResponse
from hlserve.serving.session import TensorInfo
from hlserve.serving.store import ModelStore

SERVER_NAME = "hlserve"
PLATFORM = "onnxruntime_onnx"
# Triton's names for what we offer beyond the six calls; only what is there.
EXTENSIONS = ("binary_tensor_data",)


@dataclass(frozen=True, slots=True)
class ServerMetadata:
    """Who answers."""

    name: str = SERVER_NAME
    version: str = __version__
    extensions: tuple[str, ...] = EXTENSIONS


@dataclass(frozen=True, slots=True)
class ModelMetadata:
    """What a model takes and gives.

    Attributes:
        name: the model.
        versions: those that answer, ascending.
        inputs: -1 where a dimension varies.
        outputs: -1 where a dimension varies.
        properties: facts as text: ``class_labels``, ``units`` and ``frontend`` as JSON, ``task``,
            ``sha256``.
        platform: Triton's name for an ONNX file in ONNX Runtime.
    """

    name: str
    versions: tuple[str, ...]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    properties: Mapping[str, str] = field(default_factory=dict)
    platform: str = PLATFORM


class DataPlane:
    """The server's verbs.

    Args:
        store: the models.
    """

    def __init__(self, store: ModelStore) -> None:
        self._store = store
        self._predictor = Predictor()
        self._is_draining = False
        self._in_flight = 0
        self._idle = asyncio.Event()
        self._idle.set()

    def server_live(self) -> bool:
        """Whether the process answers: it does."""
        return True

    def server_ready(self) -> bool:
        """Whether requests are taken: models were loaded, and the server does not drain.

        One model that failed does not count: an orchestrator would restart the others with it.
        """
        return self._store.is_loaded and not self._is_draining

    def model_ready(self, name: str, version: str) -> bool:
        """Whether a model answers.

        Raises:
            NotFoundError: no such model or version.
            InvalidRequestError: ``version`` is not a version number.
        """
        return self._store.is_ready(name, version) and not self._is_draining

    def server_metadata(self) -> ServerMetadata:
        """Who answers, and which extensions it has."""
        return ServerMetadata()

    def model_metadata(self, name: str, version: str) -> ModelMetadata:
        """What a model takes and gives.

        Raises:
            NotFoundError: no such model or version.
            ModelNotReadyError: it is loading or failed.
            InvalidRequestError: ``version`` is not a version number.
        """
        model = self._store.get(name, version)
        units = _units(model)
        return ModelMetadata(
            name=name,
            versions=tuple(str(number) for number in self._store.versions(name)),
            inputs=tuple(_spec(tensor, units) for tensor in model.session.inputs),
            outputs=tuple(_spec(tensor, units) for tensor in model.session.outputs),
            properties=_properties(model, units),
        )

    async def model_infer(self, request: InferRequest) -> InferResponse:
        """Runs a request, joined with others where the model allows it.

        Raises:
            ShuttingDownError: the server drains.
            NotFoundError: no such model or version.
            ModelNotReadyError: it is loading or failed.
            InvalidRequestError: the request does not fit the model.
            QueueFullError: too many rows wait.
            DeadlineExceededError: the deadline passed; it never ran, or its answer came late.
            InferenceError: ONNX Runtime failed on it.
        """
        if self._is_draining:
            raise ShuttingDownError("the server is shutting down and takes no new request")
        model = self._store.get(request.model_name, request.model_version)
        check_request(model, request)
        wanted = request.outputs or tuple(tensor.name for tensor in model.session.outputs)
        self._begin()
        try:
            outputs = await model.batcher.infer(request.inputs, wanted, request.deadline_s)
        except InferenceError as error:
            raise InferenceError(f"{model.label}: {error}") from error
        except InvalidRequestError as error:
            raise InvalidRequestError(f"{model.label}: {error}") from error
        finally:
            self._end()
        return InferResponse(
            model_name=model.name,
            model_version=str(model.version),
            request_id=request.request_id,
            outputs={name: outputs[name] for name in wanted},
        )

    async def predict(self, request: PredictRequest) -> PredictResponse:
        """Answers things with labels and numbers, by the model's front end where it has one.

        Raises:
            InvalidRequestError: the instances do not fit the model.
            UnsupportedError: this server lacks a library that reads such files.
            HlserveError: see ``model_infer``.
        """
        model = self._store.get(request.model_name, request.model_version)
        return await self._predictor.predict(model, request, self.model_infer)

    def health_check(self, service: str) -> bool:
        """Whether a gRPC service, or with an empty name the whole server, takes requests.

        Raises:
            NotFoundError: the server has no such service.
        """
        if service and service not in SERVICES:
            raise NotFoundError(f"service {service!r} is unknown, expected one of {SERVICES}")
        return self.server_ready()

    def begin_drain(self) -> None:
        """Not ready from here on; requests already taken go on."""
        self._is_draining = True

    async def drained(self, timeout_s: float) -> bool:
        """Waits until no request is in flight; False if some still are after ``timeout_s``."""
        if self._idle.is_set():  # wait_for would not even look with a timeout of 0
            return True
        try:
            await asyncio.wait_for(self._idle.wait(), timeout_s)
        except TimeoutError:
            return False
        return True

    def _begin(self) -> None:
        self._in_flight += 1
        self._idle.clear()

    def _end(self) -> None:
        self._in_flight -= 1
        if not self._in_flight:
            self._idle.set()


def deadline_after(remaining_s: float | None) -> float | None:
    """A deadline on the event loop's clock, from the seconds that a call has left."""
    return None if remaining_s is None else time.monotonic() + remaining_s


def _units(model: ServedModel) -> dict[str, str]:
    if model.metadata is None:
        return {}
    specs = (*model.metadata.inputs, *model.metadata.outputs)
    return {spec.name: spec.units for spec in specs if spec.units is not None}


def _spec(tensor: TensorInfo, units: Mapping[str, str]) -> TensorSpec:
    return TensorSpec(tensor.name, tensor.datatype.name, tensor.shape, units.get(tensor.name))


def _properties(model: ServedModel, units: Mapping[str, str]) -> dict[str, str]:
    if model.metadata is None:
        return {}
    properties = {"sha256": model.metadata.sha256}
    if model.metadata.task is not None:
        properties["task"] = model.metadata.task
    if model.metadata.class_labels is not None:
        properties["class_labels"] = json.dumps(model.metadata.class_labels, ensure_ascii=False)
    if units:
        properties["units"] = json.dumps(units, ensure_ascii=False)
    if model.metadata.frontend is not None:
        properties["frontend"] = json.dumps(model.metadata.frontend, ensure_ascii=False)
    return properties
