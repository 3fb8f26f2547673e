"""The RPCs, message in and message out: what every transport runs for a row of ``hlserve.rpcs``.

Here protobuf meets the DataPlane, and nowhere else on the server. A transport parses the request,
awaits the call that the row names, and serializes the answer.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from google.protobuf.message import DecodeError, Message

from hlserve import codec
from hlserve.errors import InvalidRequestError, UnsupportedError
from hlserve.pb.messages import health, inference, message_class
from hlserve.rpcs import Rpc
from hlserve.serving import reflection
from hlserve.serving.dataplane import DataPlane
from hlserve.serving.request import InferRequest, InferResponse

# Parameters of a tensor that ask for an extension of the protocol.
_REFUSED_PARAMETERS = ("shared_memory_region", "classification")


@dataclass(frozen=True, slots=True)
class CallContext:
    """What a transport knows of a call beside its message.

    Attributes:
        rpc: the row.
        deadline_s: on the event loop's clock; None: no deadline.
        metadata: the client's headers, names in lower case; binary ones are left out.
        peer: where the call comes from, for the log.
    """

    rpc: Rpc
    deadline_s: float | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    peer: str = ""


UnaryCall = Callable[[Any, CallContext], Awaitable[Message]]
StreamCall = Callable[[AsyncIterator[Any], CallContext], AsyncIterator[Message]]


def parse(rpc: Rpc, data: bytes) -> Message:
    """The request message of an RPC.

    Raises:
        InvalidRequestError: the bytes are not one; text that is not UTF-8 is found here too.
    """
    try:
        return message_class(rpc.request).FromString(data)
    except DecodeError as error:
        raise InvalidRequestError(
            f"the request is not a valid {rpc.request} ({len(data)} bytes)"
        ) from error


class Calls:
    """The calls, named as in the table of RPCs.

    Args:
        data_plane: what does the work.
    """

    def __init__(self, data_plane: DataPlane) -> None:
        self._data_plane = data_plane

    def unary(self, rpc: Rpc) -> UnaryCall:
        """The call for a row with one request and one answer."""
        call: UnaryCall = getattr(self, rpc.call or "not_served")
        return call

    def stream(self, rpc: Rpc) -> StreamCall:
        """The call for a row that streams, on either side."""
        call: StreamCall = getattr(self, rpc.call or "not_served_stream")
        return call

    async def server_live(
        self, request: inference.ServerLiveRequest, context: CallContext
    ) -> inference.ServerLiveResponse:
        """The process answers."""
        return inference.ServerLiveResponse(live=self._data_plane.server_live())

    async def server_ready(
        self, request: inference.ServerReadyRequest, context: CallContext
    ) -> inference.ServerReadyResponse:
        """Requests are taken."""
        return inference.ServerReadyResponse(ready=self._data_plane.server_ready())

    async def model_ready(
        self, request: inference.ModelReadyRequest, context: CallContext
    ) -> inference.ModelReadyResponse:
        """One model takes requests."""
        ready = self._data_plane.model_ready(request.name, request.version)
        return inference.ModelReadyResponse(ready=ready)

    async def server_metadata(
        self, request: inference.ServerMetadataRequest, context: CallContext
    ) -> inference.ServerMetadataResponse:
        """Who answers."""
        facts = self._data_plane.server_metadata()
        return inference.ServerMetadataResponse(
            name=facts.name, version=facts.version, extensions=facts.extensions
        )

    async def model_metadata(
        self, request: inference.ModelMetadataRequest, context: CallContext
    ) -> inference.ModelMetadataResponse:
        """What a model takes and gives."""
        facts = self._data_plane.model_metadata(request.name, request.version)
        response = inference.ModelMetadataResponse(
            name=facts.name,
            versions=facts.versions,
            platform=facts.platform,
            properties=facts.properties,
        )
        for specs, tensors in ((facts.inputs, response.inputs), (facts.outputs, response.outputs)):
            for spec in specs:
                tensors.add(name=spec.name, datatype=spec.datatype, shape=spec.shape)
        return response

    async def model_infer(
        self, request: inference.ModelInferRequest, context: CallContext
    ) -> inference.ModelInferResponse:
        """Runs a request; always answers raw."""
        answer = await self._data_plane.model_infer(_infer_request(request, context))
        response = inference.ModelInferResponse(
            model_name=answer.model_name,
            model_version=answer.model_version,
            id=answer.request_id,
        )
        return codec.encode_outputs(response, answer.outputs)

    async def infer(self, request: InferRequest, context: CallContext) -> InferResponse:
        """``model_infer`` for a transport that reads and writes plain requests by itself."""
        return await self._data_plane.model_infer(request)

    async def health_check(
        self, request: health.HealthCheckRequest, context: CallContext
    ) -> health.HealthCheckResponse:
        """The standard health call."""
        status = health.HealthCheckResponse
        is_serving = self._data_plane.health_check(request.service)
        return status(status=status.SERVING if is_serving else status.NOT_SERVING)

    async def server_reflection_info(
        self, requests: AsyncIterator[Any], context: CallContext
    ) -> AsyncIterator[Message]:
        """Answers each question of a reflection client, in either version of the protocol."""
        async for request in requests:
            yield reflection.answer(request, message_class(context.rpc.response)())

    async def not_served(self, request: Message, context: CallContext) -> Message:
        """A row without a call."""
        raise _not_served(context.rpc)

    async def not_served_stream(
        self, requests: AsyncIterator[Any], context: CallContext
    ) -> AsyncIterator[Message]:
        """A streaming row without a call."""
        raise _not_served(context.rpc)
        yield  # an asynchronous generator, as the transports expect


def _not_served(rpc: Rpc) -> UnsupportedError:
    return UnsupportedError(f"{rpc.path} is not offered by this server")


def _infer_request(message: inference.ModelInferRequest, context: CallContext) -> InferRequest:
    model = f"model {message.model_name!r}:"
    _refuse_extensions(message, model)
    return InferRequest(
        model_name=message.model_name,
        model_version=message.model_version,
        request_id=message.id,
        parameters=codec.decode_parameters(message.parameters, where=model),
        inputs=codec.decode_tensors(
            message.inputs, message.raw_input_contents, where=f"{model} input"
        ),
        outputs=tuple(output.name for output in message.outputs),
        deadline_s=context.deadline_s,
    )


def _refuse_extensions(message: inference.ModelInferRequest, model: str) -> None:
    """What would change the meaning of a tensor is refused; unknown parameters are harmless."""
    named = [(tensor.name, tensor.parameters) for tensor in message.inputs]
    named += [(output.name, output.parameters) for output in message.outputs]
    for name, parameters in named:
        for extension in _REFUSED_PARAMETERS:
            if extension in parameters:
                raise UnsupportedError(f"{model} tensor {name!r}: {extension} is not offered")
