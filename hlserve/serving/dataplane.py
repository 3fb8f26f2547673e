"""DataPlane: what the server does, in plain Python, without a transport.

Every transport turns its wire into these calls. All of them run on the event loop.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from functools import partial

from hlserve.codec import MAX_MESSAGE_BYTES
from hlserve.errors import (
    InvalidRequestError,
    NotFoundError,
    ShuttingDownError,
    UnavailableError,
)
from hlserve.pb.messages import model_config
from hlserve.rpcs import SERVICES
from hlserve.serving.config import ControlMode
from hlserve.serving.description import (
    ModelMetadata,
    ServerMetadata,
    describe_model,
    describe_server,
)
from hlserve.serving.inference import DeliverResponse, Inference
from hlserve.serving.model import ServedModel
from hlserve.serving.outcomes import waited_for
from hlserve.serving.overrides import make_overrides
from hlserve.serving.prediction import Predictor, PredictRequest, PredictResponse
from hlserve.serving.readiness import Readiness
from hlserve.serving.request import InferRequest, InferResponse
from hlserve.serving.settings import ServerSettings
from hlserve.serving.shared_memory import SharedMemory
from hlserve.serving.states import ModelState
from hlserve.serving.store import ModelStore
from hlserve.serving.uses import Uses


class DataPlane:
    """The server's verbs.

    Args:
        store: the models.
        control: who says which models are loaded.
        shared_memory: regions that requests may name; None: shared memory is off.
        settings: what can be asked and changed while it runs; None: the defaults.
        max_tensor_elements: of one input that is made of things.
    """

    def __init__(
        self,
        store: ModelStore,
        *,
        control: ControlMode = "none",
        shared_memory: SharedMemory | None = None,
        settings: ServerSettings | None = None,
        max_tensor_elements: int = MAX_MESSAGE_BYTES,
    ) -> None:
        self._store = store
        self._control = control
        self._predictor = Predictor(max_tensor_elements)
        self.shared_memory = shared_memory or SharedMemory()
        self.settings = settings or ServerSettings()
        self.readiness = Readiness(self.server_ready)
        self._is_draining = False
        self._uses = Uses()

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
        return describe_server(
            loads_by_call=self._control == "explicit",
            has_shared_memory=self.shared_memory.is_on,
            can_trace=self.settings.can_trace,
        )

    def model_metadata(self, name: str, version: str) -> ModelMetadata:
        """What a model takes and gives.

        Raises:
            NotFoundError: no such model or version.
            ModelNotReadyError: it is loading or failed.
            InvalidRequestError: ``version`` is not a version number.
        """
        return describe_model(self._store.get(name, version), self._store.versions(name))

    def model_config(self, name: str, version: str) -> model_config.ModelConfig:
        """How a model is served, defaults filled in.

        Raises:
            NotFoundError: no such model or version.
            ModelNotReadyError: it is loading or failed.
            InvalidRequestError: ``version`` is not a version number.
        """
        return self._store.get(name, version).full_config()

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
        self._check_model(name)
        return [model for model in self._store.ready_models() if name in ("", model.name)]

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
            UnavailableError: what is traced cannot be changed on this server.
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
            QueueFullError: too much waits.
            QueueTimeoutError: it waited longer than the model's policy allows.
            DeadlineExceededError: the deadline cannot be met, and it never ran; or it passed, and
                it never ran, or its answer came late.
            InferenceError: ONNX Runtime failed on it.
        """
        return await waited_for(partial(self.begin_infer, request), Inference.cancel)

    def begin_infer(self, request: InferRequest, deliver: DeliverResponse) -> Inference:
        """``model_infer`` for who does not wait: an answer or error is delivered once.

        Args:
            request: what to run.
            deliver: gets the outcome, perhaps before this returns; must not begin another request,
                and not raise.

        Raises:
            HlserveError: the request was not taken; see ``model_infer``.
        """
        model = self._choose(request)
        return Inference(model, request, deliver, self._uses)

    def repository_index(self, ready_only: bool = False) -> tuple[ModelState, ...]:
        """Every model and version, whether it answers and, where it does not, why."""
        return self._store.index(ready_only=ready_only)

    async def load_model(
        self, name: str, config: str | None = None, files: Mapping[str, bytes] | None = None
    ) -> None:
        """Loads a model, or loads it anew without a gap; it answers when this returns.

        Args:
            name: the model.
            config: a ModelConfig as JSON in place of the one on disk.
            files: content by ``file:<version>/<file>``, in place of the files on disk.

        Raises:
            UnavailableError: the server's control mode is another, or it still loads at its start.
            ModelNotFoundError: there is no such model.
            InvalidRequestError: an override is malformed.
            ModelFileError: a version failed; a model that answered before still does.
        """
        self._check_explicit()
        await self._store.load(name, make_overrides(config, files or {}))

    async def unload_model(self, name: str, unload_dependents: bool = False) -> None:
        """Takes no new request for a model; those in flight finish.

        Args:
            name: the model.
            unload_dependents: without meaning here, as there are no ensembles.

        Raises:
            UnavailableError: the server's control mode is another, or it still loads at its start.
            ModelNotFoundError: there is no such model.
        """
        self._check_explicit()
        await self._store.unload(name)

    async def predict(self, request: PredictRequest) -> PredictResponse:
        """Answers things with labels and numbers, by the model's front end where it has one.

        Raises:
            InvalidRequestError: the instances do not fit the model.
            UnsupportedError: this server lacks a library that reads such files.
            HlserveError: see ``model_infer``.
        """
        model = self._choose(request)
        # The whole way on one version, though another may be loaded while its front end works.
        with self._uses, model.uses:
            return await self._predictor.predict(model, request, partial(self._infer_on, model))

    async def _infer_on(self, model: ServedModel, request: InferRequest) -> InferResponse:
        """``model_infer`` on this very version."""
        return await waited_for(
            lambda deliver: Inference(model, request, deliver, self._uses), Inference.cancel
        )

    def health_check(self, service: str) -> bool:
        """Whether a gRPC service, or with an empty name the whole server, takes requests.

        Raises:
            NotFoundError: the server has no such service.
        """
        if service and service not in SERVICES:
            raise NotFoundError(f"service {service!r} is unknown, expected one of {SERVICES}")
        return self.server_ready()

    def watch_health(self, service: str) -> AsyncGenerator[bool | None]:
        """What ``health_check`` says, now and at every change; None: no such service.

        Raises:
            ShuttingDownError: the server ends.
        """
        return self.readiness.watch(is_known=not service or service in SERVICES)

    def begin_drain(self) -> None:
        """Not ready from here on; requests already taken go on."""
        self._is_draining = True
        self.readiness.changed()

    async def drained(self, timeout_s: float) -> bool:
        """Waits until no request is in flight; False if some still are after ``timeout_s``."""
        if not self._uses.count:  # wait_for would not even look with a timeout of 0
            return True
        try:
            await asyncio.wait_for(self._uses.ended(), timeout_s)
        except TimeoutError:
            return False
        return True

    def _check_explicit(self) -> None:
        if self._is_draining:
            raise ShuttingDownError("the server is shutting down and loads nothing")
        if self._control == "poll":
            raise UnavailableError(
                "explicit model load / unload is not allowed if polling is enabled"
            )
        if self._control != "explicit":
            raise UnavailableError(
                "explicit model load / unload is not allowed: the server runs without "
                "--model-control explicit"
            )
        if not self._store.is_loaded:  # a thread fills the store, which no lock guards from calls
            raise UnavailableError("the server still loads its models: try again when it is ready")

    def _choose(self, request: InferRequest | PredictRequest) -> ServedModel:
        if self._is_draining:
            raise ShuttingDownError("the server is shutting down and takes no new request")
        return self._store.get(request.model_name, request.model_version)


def deadline_after(remaining_s: float | None) -> float | None:
    """A deadline on the event loop's clock, from the seconds that a call has left."""
    return None if remaining_s is None else time.monotonic() + remaining_s
