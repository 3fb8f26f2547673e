"""AsyncInferenceClient: the same verbs as InferenceClient, for asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from random import Random
from types import TracebackType
from typing import Any, TypeVar

import grpc
from numpy.typing import ArrayLike

from hlserve import codec, rpcs
from hlserve.client import asks
from hlserve.client.answers import InferResult, ModelMetadata, ServerMetadata, frontend_of
from hlserve.client.asks import Ask, InferOptions
from hlserve.client.connection import Compression, Connection, Tls
from hlserve.client.control import ModelState, ModelStatistics
from hlserve.client.predicting import PredictResult, predict_request, stream_result
from hlserve.client.retrying import Attempts, RetryPolicy
from hlserve.client.streaming import Sending
from hlserve.client.sync import DEFAULT_TIMEOUT_S
from hlserve.errors import ServerError
from hlserve.frontend import FrontEnd
from hlserve.pb.messages import message_class

_Answer = TypeVar("_Answer")


class AsyncInferenceClient:
    """InferenceClient for asyncio: the same verbs, arguments and errors; made in a running loop.

    ``infer_stream`` and ``predict_stream`` take asynchronous iterables too. Cancelling the task
    cancels the call, and a request that has not begun to run never does.
    """

    def __init__(
        self,
        address: str,
        *,
        timeout_s: float | None = DEFAULT_TIMEOUT_S,
        retry: RetryPolicy = RetryPolicy(),  # noqa: B008 - frozen
        tls: Tls | None = None,
        api_key: str | None = None,
        compression: Compression | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        self._connection = Connection(address, tls, api_key, compression, metadata or {})
        self._channel = self._connection.aio_channel()
        self._call_options = self._connection.call_options()
        self._timeout_s = timeout_s
        self._retry = retry
        self._rng = Random()
        self._models: dict[tuple[str, str], ModelMetadata] = {}

    async def __aenter__(self) -> AsyncInferenceClient:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the connection."""
        await self._channel.close(grace=None)

    async def is_server_live(self, *, timeout_s: float | None = None) -> bool:
        """Whether the process answers."""
        return await self._send(asks.server_live(), timeout_s)

    async def is_server_ready(self, *, timeout_s: float | None = None) -> bool:
        """Whether the server takes requests."""
        return await self._send(asks.server_ready(), timeout_s)

    async def is_model_ready(
        self, model: str, version: str = "", *, timeout_s: float | None = None
    ) -> bool:
        """Whether a model, or one version of it, takes requests; NOT_FOUND: it is unknown."""
        return await self._send(asks.model_ready(model, version), timeout_s)

    async def is_healthy(self, service: str = "", *, timeout_s: float | None = None) -> bool:
        """The standard gRPC health check; NOT_FOUND: there is no such service."""
        return await self._send(asks.healthy(service), timeout_s)

    async def server_metadata(self, *, timeout_s: float | None = None) -> ServerMetadata:
        """Who answers."""
        return await self._send(asks.server_metadata(), timeout_s)

    async def model_metadata(
        self, model: str, version: str = "", *, timeout_s: float | None = None
    ) -> ModelMetadata:
        """What a model takes and gives; NOT_FOUND: it is unknown; UNAVAILABLE: not ready."""
        return await self._send(asks.model_metadata(model, version), timeout_s)

    async def frontend(
        self, model: str, version: str = "", *, timeout_s: float | None = None
    ) -> FrontEnd | None:
        """What makes the model's inputs of raw items; None where they are numbers."""
        return frontend_of(await self.model_metadata(model, version, timeout_s=timeout_s))

    async def infer(
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
        """Runs a model."""
        if not isinstance(inputs, Mapping):
            facts = await self._remembered(model, version, timeout_s)
            inputs = asks.only_input(facts, inputs)
        options = InferOptions(outputs, request_id, parameters)
        return await self._send(asks.infer(model, version, inputs, options), timeout_s)

    async def infer_items(
        self,
        model: str,
        items: Sequence[Any],
        version: str = "",
        *,
        outputs: Sequence[str] | None = None,
        timeout_s: float | None = None,
    ) -> InferResult:
        """Runs a model on raw items, by the front end that was published with it, applied here."""
        items = asks.checked_items(items)
        facts = await self.model_metadata(model, version, timeout_s=timeout_s)
        arrays, pinned = asks.items_as_arrays(facts, items, version)
        return await self.infer(model, arrays, pinned, outputs=outputs, timeout_s=timeout_s)

    async def infer_stream(
        self,
        model: str,
        requests: Iterable[Mapping[str, ArrayLike]] | AsyncIterable[Mapping[str, ArrayLike]],
        version: str = "",
        *,
        outputs: Sequence[str] | None = None,
        timeout_s: float | None = None,
    ) -> AsyncIterator[InferResult | ServerError]:
        """Runs a model on every mapping of arrays, over one stream."""
        sending = Sending(
            lambda number, arrays: asks.infer_request(
                model, version, arrays, InferOptions(outputs, str(number))
            )
        )
        rpc = rpcs.find("ModelStreamInfer")
        async for answer in self._stream(rpc, sending, requests, asks.stream_answer, timeout_s):
            yield answer

    async def predict(
        self,
        model: str,
        instances: Sequence[Any],
        version: str = "",
        *,
        request_id: str = "",
        timeout_s: float | None = None,
    ) -> PredictResult:
        """Labels and numbers for things, their inputs made by the server."""
        return await self._send(asks.predict(model, version, instances, request_id), timeout_s)

    async def predict_stream(
        self,
        model: str,
        requests: Iterable[Sequence[Any]] | AsyncIterable[Sequence[Any]],
        version: str = "",
        *,
        timeout_s: float | None = None,
    ) -> AsyncIterator[PredictResult | ServerError]:
        """``predict`` for every list of instances, over one stream; see ``infer_stream``."""
        sending = Sending(
            lambda number, instances: predict_request(model, version, instances, str(number))
        )
        rpc = rpcs.find("PredictStream", rpcs.PREDICTION_SERVICE)
        async for answer in self._stream(rpc, sending, requests, stream_result, timeout_s):
            yield answer

    # ----- model control

    async def repository_index(
        self, *, only_ready: bool = False, timeout_s: float | None = None
    ) -> tuple[ModelState, ...]:
        """Every model in the repository, loaded or not."""
        return await self._send(asks.repository_index(only_ready=only_ready), timeout_s)

    async def load_model(
        self,
        model: str,
        *,
        config: Mapping[str, Any] | None = None,
        files: Mapping[str, bytes] | None = None,
        timeout_s: float | None = None,
    ) -> None:
        """Loads a model, or loads it again; never sent twice."""
        await self._send(asks.load_model(model, config, files), timeout_s)

    async def unload_model(self, model: str, *, timeout_s: float | None = None) -> None:
        """Takes a model out of service; never sent twice."""
        await self._send(asks.unload_model(model), timeout_s)

    async def model_statistics(
        self, model: str = "", version: str = "", *, timeout_s: float | None = None
    ) -> tuple[ModelStatistics, ...]:
        """What models have done since they were loaded; without a name, all of them."""
        return await self._send(asks.model_statistics(model, version), timeout_s)

    async def model_config(
        self, model: str, version: str = "", *, timeout_s: float | None = None
    ) -> dict[str, Any]:
        """How a model is served: Triton's ModelConfig in its JSON form."""
        return await self._send(asks.model_config(model, version), timeout_s)

    # ----- below

    async def _remembered(self, model: str, version: str, timeout_s: float | None) -> ModelMetadata:
        facts = self._models.get((model, version))
        if facts is None:
            facts = await self.model_metadata(model, version, timeout_s=timeout_s)
            self._models[(model, version)] = facts
        return facts

    async def _send(self, ask: Ask[_Answer], timeout_s: float | None) -> _Answer:
        call = self._channel.unary_unary(
            ask.rpc.path,
            request_serializer=message_class(ask.rpc.request).SerializeToString,
            response_deserializer=message_class(ask.rpc.response).FromString,
        )
        timeout_s = self._timeout_s if timeout_s is None else timeout_s
        attempts = Attempts(self._retry, timeout_s, self._rng, is_idempotent=ask.is_idempotent)
        while True:
            try:
                response = await call(
                    ask.request, timeout=attempts.remaining_s(), **self._call_options
                )
            except grpc.RpcError as error:
                failure = self._connection.error(error)
                pause_s = attempts.pause_s(failure.status)
                if pause_s is None:
                    raise failure from error
                await asyncio.sleep(pause_s)
            else:
                return ask.read(response)

    async def _stream(
        self,
        rpc: rpcs.Rpc,
        sending: Sending,
        items: Iterable[Any] | AsyncIterable[Any],
        read: Callable[[Any], _Answer],
        timeout_s: float | None,
    ) -> AsyncIterator[_Answer]:
        call = self._channel.stream_stream(
            rpc.path,
            request_serializer=message_class(rpc.request).SerializeToString,
            response_deserializer=message_class(rpc.response).FromString,
        )
        # Written by hand: grpcio's own task for an iterator of requests cancels the call when the
        # connection breaks, and its status is lost.
        stream = call(timeout=timeout_s, **self._call_options)

        async def write() -> None:
            with suppress(grpc.RpcError, asyncio.InvalidStateError):  # reading says it too
                async for message in sending.messages_async(items):
                    await stream.write(message)
                await stream.done_writing()

        writing = asyncio.ensure_future(write())
        try:
            while (response := await stream.read()) is not grpc.aio.EOF:  # type: ignore[attr-defined]
                yield read(response)
        except grpc.RpcError as error:
            raise self._connection.error(error) from error
        finally:
            writing.cancel()
            stream.cancel()  # where the caller has not read to the end
        sending.check()
