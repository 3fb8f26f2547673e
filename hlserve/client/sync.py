"""InferenceClient: the blocking client; what is asked and how answers are read is in ``asks``."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
from hlserve.errors import ServerError
from hlserve.frontend import FrontEnd
from hlserve.pb.messages import message_class

DEFAULT_TIMEOUT_S = 60.0

_Answer = TypeVar("_Answer")


class InferenceClient:
    """Speaks the Open Inference Protocol v2; safe from several threads at once.

    Every verb may raise ServerError: the server refused (``status`` says how), does not answer in
    time, or cannot be reached. A call that met UNAVAILABLE is sent again, unless it changes the
    server; the timeout holds for all attempts together.

    Args:
        address: ``host:port`` or ``unix:/path``; the connection is made at the first call.
        timeout_s: of each call, where the call says nothing; None: wait for ever.
        retry: how often, and how far apart, a call is sent again.
        tls: an encrypted connection; None: in plain.
        api_key: sent with every call.
        compression: of what is sent: ``gzip`` or ``deflate``.
        metadata: headers of every call.

    Raises:
        ConfigError: a PEM file cannot be read, or the compression is unknown.
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
        self._channel = self._connection.channel()
        self._call_options = self._connection.call_options()
        self._timeout_s = timeout_s
        self._retry = retry
        self._rng = Random()
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
        """Whether the process answers."""
        return self._send(asks.server_live(), timeout_s)

    def is_server_ready(self, *, timeout_s: float | None = None) -> bool:
        """Whether the server takes requests."""
        return self._send(asks.server_ready(), timeout_s)

    def is_model_ready(
        self, model: str, version: str = "", *, timeout_s: float | None = None
    ) -> bool:
        """Whether a model, or one version of it, takes requests; NOT_FOUND: it is unknown."""
        return self._send(asks.model_ready(model, version), timeout_s)

    def is_healthy(self, service: str = "", *, timeout_s: float | None = None) -> bool:
        """The standard gRPC health check; NOT_FOUND: there is no such service."""
        return self._send(asks.healthy(service), timeout_s)

    def server_metadata(self, *, timeout_s: float | None = None) -> ServerMetadata:
        """Who answers."""
        return self._send(asks.server_metadata(), timeout_s)

    def model_metadata(
        self, model: str, version: str = "", *, timeout_s: float | None = None
    ) -> ModelMetadata:
        """What a model takes and gives; NOT_FOUND: it is unknown; UNAVAILABLE: not ready."""
        return self._send(asks.model_metadata(model, version), timeout_s)

    def frontend(
        self, model: str, version: str = "", *, timeout_s: float | None = None
    ) -> FrontEnd | None:
        """What makes the model's inputs of raw items; None where they are numbers.

        Raises:
            SchemaVersionError: a newer hlserve published it.
            ModelFileError: it is no front end that this hlserve knows.
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
        """
        if not isinstance(inputs, Mapping):
            facts = self._remembered(model, version, timeout_s)
            inputs = asks.only_input(facts, inputs)
        options = InferOptions(outputs, request_id, parameters)
        return self._send(asks.infer(model, version, inputs, options), timeout_s)

    def infer_items(
        self,
        model: str,
        items: Sequence[Any],
        version: str = "",
        *,
        outputs: Sequence[str] | None = None,
        timeout_s: float | None = None,
    ) -> InferResult:
        """Runs a model on raw items, by the front end that was published with it, applied here.

        The model's metadata is asked each time, so that a version which is published meanwhile
        is never fed by another's vocabulary. ``predict`` lets the server apply it.

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
        """
        items = asks.checked_items(items)
        facts = self.model_metadata(model, version, timeout_s=timeout_s)
        arrays, pinned = asks.items_as_arrays(facts, items, version)
        return self.infer(model, arrays, pinned, outputs=outputs, timeout_s=timeout_s)

    def infer_stream(
        self,
        model: str,
        requests: Iterable[Mapping[str, ArrayLike]],
        version: str = "",
        *,
        outputs: Sequence[str] | None = None,
        timeout_s: float | None = None,
    ) -> Iterator[InferResult | ServerError]:
        """Runs a model on every mapping of arrays, over one stream.

        Args:
            model: its name.
            requests: arrays by input name; asked for as the stream takes them.
            version: empty: the latest.
            outputs: names in the order wanted; None: all.
            timeout_s: of the whole stream; None: no deadline.

        Yields:
            An answer a request, in their order; an error of one request is such an answer, and
            the stream goes on.

        Raises:
            ServerError: the stream itself broke. It is not tried again.
            InvalidRequestError: arrays do not travel; after the answers to those before.
        """
        sending = Sending(
            lambda number, arrays: asks.infer_request(
                model, version, arrays, InferOptions(outputs, str(number))
            )
        )
        rpc = rpcs.find("ModelStreamInfer")
        yield from self._stream(rpc, sending, requests, asks.stream_answer, timeout_s)

    def predict(
        self,
        model: str,
        instances: Sequence[Any],
        version: str = "",
        *,
        request_id: str = "",
        timeout_s: float | None = None,
    ) -> PredictResult:
        """Labels and numbers for things, their inputs made by the server.

        Args:
            model: its name.
            instances: each a text; ``bytes`` or a path: a file's content; a mapping of cells
                (numbers, texts, None) by column name, or of arrays by input name; or numbers.
            version: empty: the latest.
            request_id: comes back in the answer.
            timeout_s: also the deadline after which the server will not run it any more.

        Raises:
            DataError: an instance is none of these, or its file cannot be read.
        """
        return self._send(asks.predict(model, version, instances, request_id), timeout_s)

    def predict_stream(
        self,
        model: str,
        requests: Iterable[Sequence[Any]],
        version: str = "",
        *,
        timeout_s: float | None = None,
    ) -> Iterator[PredictResult | ServerError]:
        """``predict`` for every list of instances, over one stream; see ``infer_stream``."""
        sending = Sending(
            lambda number, instances: predict_request(model, version, instances, str(number))
        )
        rpc = rpcs.find("PredictStream", rpcs.PREDICTION_SERVICE)
        yield from self._stream(rpc, sending, requests, stream_result, timeout_s)

    # ----- model control

    def repository_index(
        self, *, only_ready: bool = False, timeout_s: float | None = None
    ) -> tuple[ModelState, ...]:
        """Every model in the repository, loaded or not."""
        return self._send(asks.repository_index(only_ready=only_ready), timeout_s)

    def load_model(
        self,
        model: str,
        *,
        config: Mapping[str, Any] | None = None,
        files: Mapping[str, bytes] | None = None,
        timeout_s: float | None = None,
    ) -> None:
        """Loads a model, or loads it again; never sent twice.

        Args:
            model: its name.
            config: a ModelConfig in its JSON form, in place of the one on disk.
            files: contents by ``<version>/<file>``, in place of those on disk.
            timeout_s: loading and warming take their time.
        """
        self._send(asks.load_model(model, config, files), timeout_s)

    def unload_model(self, model: str, *, timeout_s: float | None = None) -> None:
        """Takes a model out of service; never sent twice."""
        self._send(asks.unload_model(model), timeout_s)

    def model_statistics(
        self, model: str = "", version: str = "", *, timeout_s: float | None = None
    ) -> tuple[ModelStatistics, ...]:
        """What models have done since they were loaded; without a name, all of them."""
        return self._send(asks.model_statistics(model, version), timeout_s)

    def model_config(
        self, model: str, version: str = "", *, timeout_s: float | None = None
    ) -> dict[str, Any]:
        """How a model is served: Triton's ModelConfig in its JSON form."""
        return self._send(asks.model_config(model, version), timeout_s)

    # ----- below

    def _remembered(self, model: str, version: str, timeout_s: float | None) -> ModelMetadata:
        facts = self._models.get((model, version))
        if facts is None:
            facts = self.model_metadata(model, version, timeout_s=timeout_s)
            self._models[(model, version)] = facts
        return facts

    def _send(self, ask: Ask[_Answer], timeout_s: float | None) -> _Answer:
        call = self._channel.unary_unary(
            ask.rpc.path,
            request_serializer=message_class(ask.rpc.request).SerializeToString,
            response_deserializer=message_class(ask.rpc.response).FromString,
        )
        timeout_s = self._timeout_s if timeout_s is None else timeout_s
        attempts = Attempts(self._retry, timeout_s, self._rng, is_idempotent=ask.is_idempotent)
        while True:
            try:
                response = call(ask.request, timeout=attempts.remaining_s(), **self._call_options)
            except grpc.RpcError as error:
                failure = self._connection.error(error)
                pause_s = attempts.pause_s(failure.status)
                if pause_s is None:
                    raise failure from error
                time.sleep(pause_s)
            else:
                return ask.read(response)

    def _stream(
        self,
        rpc: rpcs.Rpc,
        sending: Sending,
        items: Iterable[Any],
        read: Callable[[Any], _Answer],
        timeout_s: float | None,
    ) -> Iterator[_Answer]:
        call = self._channel.stream_stream(
            rpc.path,
            request_serializer=message_class(rpc.request).SerializeToString,
            response_deserializer=message_class(rpc.response).FromString,
        )
        responses = call(sending.messages(items), timeout=timeout_s, **self._call_options)
        try:
            for response in responses:
                yield read(response)
        except grpc.RpcError as error:
            raise self._connection.error(error) from error
        finally:
            responses.cancel()  # type: ignore[no-untyped-call]  # where the caller stopped reading
        sending.check()
