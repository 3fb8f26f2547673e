"""The RPCs, message in and message out: what every transport runs for a row of ``hlserve.rpcs``.

Here protobuf meets the DataPlane, and nowhere else on the server. A transport parses the request,
awaits the call that the row names, and serializes the answer.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from functools import partial
from typing import Any, TypeVar

from google.protobuf.message import Message

from hlserve.errors import UnsupportedError
from hlserve.pb.messages import health, inference, message_class, prediction
from hlserve.rpcs import Rpc
from hlserve.serving import reflection
from hlserve.serving.transports import prediction_calls
from hlserve.serving.transports.admin_messages import (
    check_repository,
    load_parameters,
    log_changes,
    log_message,
    model_asked,
    regions_message,
    statistics_message,
    trace_message,
    unloads_dependents,
)
from hlserve.serving.transports.context import CallContext, StreamCall, UnaryCall
from hlserve.serving.transports.infer_calls import InferCalls
from hlserve.serving.transports.streams import answered_in_order

# Requests of one stream that are read and have no answer yet: enough for a full batch.
MAX_STREAM_IN_FLIGHT = 128

Asked = TypeVar("Asked", bound=Message)
Answered = TypeVar("Answered", bound=Message)


class Calls(InferCalls):
    """The calls, named as in the table of RPCs.

    Args:
        data_plane: what does the work.
        max_tensor_elements: of one input.
        max_message_bytes: of one request's inputs in shared memory, and of what is read ahead of a
            stream.
    """

    def unary(self, rpc: Rpc) -> UnaryCall:
        """The call for a row with one request and one answer."""
        call: UnaryCall = getattr(self, rpc.call)
        return call

    def stream(self, rpc: Rpc) -> StreamCall:
        """The call for a row that streams, on either side."""
        call: StreamCall = getattr(self, rpc.call)
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
        context.record.asks(request.name, request.version)
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
        context.record.asks(request.name, request.version)
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

    async def model_stream_infer(
        self, requests: AsyncIterator[inference.ModelInferRequest], context: CallContext
    ) -> AsyncIterator[inference.ModelStreamInferResponse]:
        """Runs each request of a stream; answers in their order, an error as an answer."""
        answer = partial(self.stream_answer, context=context)
        async with aclosing(self._in_order(requests, answer)) as answers:
            async for response in answers:
                yield response

    async def model_config(
        self, request: inference.ModelConfigRequest, context: CallContext
    ) -> inference.ModelConfigResponse:
        """How a model is served."""
        context.record.asks(*model_asked(request))
        config = self._data_plane.model_config(request.name, request.version)
        return inference.ModelConfigResponse(config=config)

    async def model_statistics(
        self, request: inference.ModelStatisticsRequest, context: CallContext
    ) -> inference.ModelStatisticsResponse:
        """What models have done."""
        context.record.asks(*model_asked(request))
        served = self._data_plane.statistics(request.name, request.version)
        records = [statistics_message(model) for model in served]
        return inference.ModelStatisticsResponse(model_stats=records)

    async def repository_index(
        self, request: inference.RepositoryIndexRequest, context: CallContext
    ) -> inference.RepositoryIndexResponse:
        """Every model, loaded or not."""
        check_repository(request.repository_name)
        response = inference.RepositoryIndexResponse()
        for entry in self._data_plane.repository_index(request.ready):
            response.models.add(
                name=entry.name, version=entry.version, state=entry.state, reason=entry.reason
            )
        return response

    async def repository_model_load(
        self, request: inference.RepositoryModelLoadRequest, context: CallContext
    ) -> inference.RepositoryModelLoadResponse:
        """Loads a model; answers when it takes requests."""
        context.record.asks(*model_asked(request))
        check_repository(request.repository_name)
        config, files = load_parameters(request)
        await self._data_plane.load_model(request.model_name, config, files)
        return inference.RepositoryModelLoadResponse()

    async def repository_model_unload(
        self, request: inference.RepositoryModelUnloadRequest, context: CallContext
    ) -> inference.RepositoryModelUnloadResponse:
        """Ends a model."""
        context.record.asks(*model_asked(request))
        check_repository(request.repository_name)
        await self._data_plane.unload_model(request.model_name, unloads_dependents(request))
        return inference.RepositoryModelUnloadResponse()

    async def system_shared_memory_status(
        self, request: inference.SystemSharedMemoryStatusRequest, context: CallContext
    ) -> inference.SystemSharedMemoryStatusResponse:
        """Which regions are registered."""
        return regions_message(self._data_plane.shared_memory.status(request.name))

    async def system_shared_memory_register(
        self, request: inference.SystemSharedMemoryRegisterRequest, context: CallContext
    ) -> inference.SystemSharedMemoryRegisterResponse:
        """Takes a region in."""
        self._data_plane.shared_memory.register(
            request.name, request.key, request.offset, request.byte_size
        )
        return inference.SystemSharedMemoryRegisterResponse()

    async def system_shared_memory_unregister(
        self, request: inference.SystemSharedMemoryUnregisterRequest, context: CallContext
    ) -> inference.SystemSharedMemoryUnregisterResponse:
        """Forgets one region, or all."""
        self._data_plane.shared_memory.unregister(request.name)
        return inference.SystemSharedMemoryUnregisterResponse()

    async def cuda_shared_memory_status(
        self, request: inference.CudaSharedMemoryStatusRequest, context: CallContext
    ) -> inference.CudaSharedMemoryStatusResponse:
        """There are no regions on a GPU."""
        if request.name:
            raise _no_cuda()
        return inference.CudaSharedMemoryStatusResponse()

    async def cuda_shared_memory_register(
        self, request: inference.CudaSharedMemoryRegisterRequest, context: CallContext
    ) -> inference.CudaSharedMemoryRegisterResponse:
        """Not offered."""
        raise _no_cuda()

    async def cuda_shared_memory_unregister(
        self, request: inference.CudaSharedMemoryUnregisterRequest, context: CallContext
    ) -> inference.CudaSharedMemoryUnregisterResponse:
        """Forgets all of none: perf_analyzer asks that before it registers system memory."""
        if request.name:
            raise _no_cuda()
        return inference.CudaSharedMemoryUnregisterResponse()

    async def trace_setting(
        self, request: inference.TraceSettingRequest, context: CallContext
    ) -> inference.TraceSettingResponse:
        """Changes what is given; answers what is traced then."""
        context.record.asks(*model_asked(request))
        if request.settings:
            changes = {name: setting.value for name, setting in request.settings.items()}
            self._data_plane.change_trace(changes, request.model_name)
        return trace_message(self._data_plane.trace_values(request.model_name))

    async def log_settings(
        self, request: inference.LogSettingsRequest, context: CallContext
    ) -> inference.LogSettingsResponse:
        """Changes what is given; answers what holds for the log then."""
        settings = self._data_plane.settings
        if request.settings:
            settings.change_log(log_changes(request))
        return log_message(settings.log())

    async def predict(
        self, request: prediction.PredictRequest, context: CallContext
    ) -> prediction.PredictResponse:
        """Things in, labels and numbers out."""
        return await prediction_calls.predict(
            self._data_plane, request, context.deadline_s, context.record
        )

    async def predict_stream(
        self, requests: AsyncIterator[Any], context: CallContext
    ) -> AsyncIterator[Message]:
        """The same for every message of a stream; answers in their order, an error as an answer."""

        async def answer(request: prediction.PredictRequest) -> prediction.PredictStreamResponse:
            return await prediction_calls.predict_or_error(
                self._data_plane, request, context.deadline_s, context.record
            )

        async with aclosing(self._in_order(requests, answer)) as answers:
            async for response in answers:
                yield response

    def _in_order(
        self, requests: AsyncIterator[Asked], answer: Callable[[Asked], Awaitable[Answered]]
    ) -> AsyncGenerator[Answered]:
        """The answers of one stream, within the bounds of every stream."""
        return answered_in_order(
            requests,
            answer,
            max_in_flight=MAX_STREAM_IN_FLIGHT,
            max_bytes=self._max_message_bytes,
            size_of=_size,
        )

    async def health_check(
        self, request: health.HealthCheckRequest, context: CallContext
    ) -> health.HealthCheckResponse:
        """The standard health call."""
        status = health.HealthCheckResponse
        is_serving = self._data_plane.health_check(request.service)
        return status(status=status.SERVING if is_serving else status.NOT_SERVING)

    async def health_watch(
        self, requests: AsyncIterator[health.HealthCheckRequest], context: CallContext
    ) -> AsyncIterator[health.HealthCheckResponse]:
        """The state now and at every change; the call stays open for an unknown service too."""
        status = health.HealthCheckResponse
        words = {True: status.SERVING, False: status.NOT_SERVING, None: status.SERVICE_UNKNOWN}
        async for request in requests:
            async with aclosing(self._data_plane.watch_health(request.service)) as states:
                async for state in states:
                    yield status(status=words[state])

    async def server_reflection_info(
        self, requests: AsyncIterator[Any], context: CallContext
    ) -> AsyncIterator[Message]:
        """Answers each question of a reflection client, in either version of the protocol."""
        async for request in requests:
            yield reflection.answer(request, message_class(context.rpc.response)())


def _size(request: Message) -> int:
    return request.ByteSize()


def _no_cuda() -> UnsupportedError:
    return UnsupportedError("CUDA shared memory is not offered by this server")
