"""DataPlane: what the server does, in plain Python, without a transport.

Every transport turns its wire into these calls. All of them run on the event loop.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field

from hlserve import __version__
from hlserve.errors import (
    InferenceError,
    InvalidRequestError,
    ModelNotReadyError,
    NotFoundError,
    ShuttingDownError,
    UnavailableError,
)
from hlserve.pb.messages import model_config
from hlserve.repository import TensorSpec
from hlserve.rpcs import SERVICES
from hlserve.serving.checks import check_request
from hlserve.serving.classification import classify
from hlserve.serving.model import ServedModel
from hlserve.serving.prediction import Predictor, PredictRequest, PredictResponse
from hlserve.serving.request import Array, InferRequest, InferResponse
from hlserve.serving.served_config import served_config
from hlserve.serving.session import TensorInfo
from hlserve.serving.settings import ServerSettings
from hlserve.serving.shared_memory import SharedMemory
from hlserve.serving.store import ModelStore

SERVER_NAME = "hlserve"
PLATFORM = "onnxruntime_onnx"
_NO_CONTROL = "model control is none on this server, so models are not loaded or unloaded by call"
# Triton's names for what every server of ours offers beyond the six calls.
EXTENSIONS = (
    "classification",
    "model_configuration",
    "binary_tensor_data",
    "parameters",
    "statistics",
    "logging",
)


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


@dataclass(frozen=True, slots=True)
class ModelIndex:
    """One version in the repository: Triton's ``state`` and, where it does not answer, why."""

    name: str
    version: str
    state: str
    reason: str = ""


class DataPlane:
    """The server's verbs.

    Args:
        store: the models.
        shared_memory: regions that requests may name; None: shared memory is off.
        settings: what can be asked and changed while it runs; None: the defaults.
    """

    def __init__(
        self,
        store: ModelStore,
        *,
        shared_memory: SharedMemory | None = None,
        settings: ServerSettings | None = None,
    ) -> None:
        self._store = store
        self._predictor = Predictor()
        self.shared_memory = shared_memory or SharedMemory()
        self.settings = settings or ServerSettings()
        self._readiness_changed = asyncio.Event()
        self._is_closed = False
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
        extensions: tuple[str, ...] = EXTENSIONS
        if self.shared_memory.is_on:
            extensions += ("system_shared_memory",)
        if self.settings.can_trace:
            extensions += ("trace",)
        return ServerMetadata(extensions=extensions)

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

    def model_config(self, name: str, version: str) -> model_config.ModelConfig:
        """How a model is served, defaults filled in.

        Raises:
            NotFoundError: no such model or version.
            ModelNotReadyError: it is loading or failed.
            InvalidRequestError: ``version`` is not a version number.
        """
        return served_config(self._store.get(name, version))

    def statistics(self, name: str, version: str) -> list[ServedModel]:
        """The versions whose record is asked for; without a name all, without a version each.

        Raises:
            NotFoundError: no such model or version.
            ModelNotReadyError: the version is loading or failed.
            InvalidRequestError: ``version`` is not a version number, or came without a name.
        """
        if not name and version:
            raise InvalidRequestError(f"version {version!r} came without a model name")
        if version:
            return [self._store.get(name, version)]
        names = [name] if name else self._store.names()
        return [
            self._store.get(each, str(number))
            for each in names
            for number in self._store.versions(each)
        ]

    def repository_index(self, ready_only: bool) -> list[ModelIndex]:
        """Every model, with those versions that answer."""
        index = []
        for name in self._store.names():
            versions = self._store.versions(name)
            index += [ModelIndex(name, str(number), "READY") for number in versions]
            if not versions and not ready_only:
                index.append(ModelIndex(name, "", "UNAVAILABLE", self._why_not_ready(name)))
        return index

    def _why_not_ready(self, name: str) -> str:
        try:
            self._store.get(name)
        except ModelNotReadyError as error:
            return str(error)
        return ""

    async def load_model(self, name: str, config: str | None, files: Mapping[str, bytes]) -> None:
        """Loads a model, or loads it anew.

        Raises:
            UnavailableError: models are not loaded by call on this server.
        """
        raise UnavailableError(f"model {name!r}: {_NO_CONTROL}")

    async def unload_model(self, name: str, unload_dependents: bool) -> None:
        """Ends a model.

        Raises:
            UnavailableError: models are not unloaded by call on this server.
        """
        raise UnavailableError(f"model {name!r}: {_NO_CONTROL}")

    def trace_values(self, model: str) -> dict[str, tuple[str, ...]]:
        """What is traced of a model, or with an empty name of all.

        Raises:
            NotFoundError: no such model.
        """
        self._check_model(model)
        return self.settings.trace_values(model)

    def change_trace(self, changes: Mapping[str, Sequence[str]], model: str) -> None:
        """Changes what is traced of a model, or with an empty name of all.

        Raises:
            NotFoundError: no such model.
            UnavailableError: this server sends traces nowhere.
            InvalidRequestError: a setting is unknown, impossible, or cannot be changed.
        """
        self._check_model(model)
        self.settings.change_trace(changes, model)

    def _check_model(self, name: str) -> None:
        if name:
            self._store.versions(name)

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
            outputs={name: _answer(model, request, name, outputs[name]) for name in wanted},
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

    async def watch_health(self, service: str) -> AsyncGenerator[bool | None]:
        """What ``health_check`` says, now and at every change; None: no such service.

        Raises:
            ShuttingDownError: the server ends.
        """
        is_known = not service or service in SERVICES
        told: list[bool | None] = []
        while not self._is_closed:
            changed = self._readiness_changed
            state = self.server_ready() if is_known else None
            if told != [state]:
                yield state
                told = [state]
                continue  # it may have changed while that was sent
            await changed.wait()
        raise ShuttingDownError("the server is shutting down")

    def readiness_changed(self) -> None:
        """Tells those who watch that the answer may be another."""
        self._readiness_changed.set()
        self._readiness_changed = asyncio.Event()

    def begin_drain(self) -> None:
        """Not ready from here on; requests already taken go on."""
        self._is_draining = True
        self.readiness_changed()

    def close(self) -> None:
        """Ends what would go on for ever: those who watch."""
        self._is_closed = True
        self.readiness_changed()

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


def _answer(model: ServedModel, request: InferRequest, name: str, array: Array) -> Array:
    """An output's values, or its top classes where they were asked for."""
    count = request.classifications.get(name)
    if not count:
        return array
    labels = None if model.metadata is None else model.metadata.class_labels
    try:
        return classify(array, count, labels=labels, has_rows=model.joins)
    except InvalidRequestError as error:
        raise InvalidRequestError(f"{model.label}: output {name!r}: {error}") from error


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
