"""Generic handlers made from the table of RPCs; the one place where errors become statuses.

Requests arrive as bytes and are parsed inside the handler, so that a malformed message is a plain
INVALID_ARGUMENT and not grpcio's own INTERNAL.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
from google.protobuf.message import Message

from hlserve.errors import HlserveError, InvalidRequestError
from hlserve.rpcs import RPCS, SERVICES, Rpc
from hlserve.serving.dataplane import deadline_after
from hlserve.serving.transports.context import CallContext, parse
from hlserve.serving.transports.entry import Entry
from hlserve.serving.transports.status import INTERNAL, INTERNAL_DETAILS, details_of, status_of

Context = grpc.aio.ServicerContext[Any, Any]

_LOG = logging.getLogger(__name__)


def generic_handlers(entry: Entry) -> list[grpc.GenericRpcHandler[Any, Any]]:
    """One handler a service, with every row of the table."""
    return [
        grpc.method_handlers_generic_handler(
            service, {rpc.name: _handler(rpc, entry) for rpc in RPCS if rpc.service == service}
        )
        for service in SERVICES
    ]


def _handler(rpc: Rpc, entry: Entry) -> Any:
    if not rpc.streams_request and not rpc.streams_response:
        return grpc.unary_unary_rpc_method_handler(_unary(rpc, entry))
    stream = _stream(rpc, entry)
    if not rpc.streams_request:
        return grpc.unary_stream_rpc_method_handler(_with_one_request(stream))
    if not rpc.streams_response:
        raise NotImplementedError(f"{rpc.path}: no RPC with only a request stream is served yet")
    return grpc.stream_stream_rpc_method_handler(stream)


def _unary(rpc: Rpc, entry: Entry) -> Callable[[bytes, Context], Awaitable[bytes]]:
    call = entry.unary(rpc)

    async def handle(data: bytes, context: Context) -> bytes:
        async with _errors_as_statuses(rpc, context):
            call_context = _call_context(rpc, context)
            call_context.record.request_bytes = len(data)
            try:
                request = parse(rpc, data)
            except InvalidRequestError as error:
                entry.refuse(call_context, error)
            response = await call(request, call_context)
            return response.SerializeToString()

    return handle


def _stream(
    rpc: Rpc, entry: Entry
) -> Callable[[AsyncIterator[bytes], Context], AsyncIterator[bytes]]:
    call = entry.stream(rpc)

    async def parsed(
        requests: AsyncIterator[bytes], call_context: CallContext
    ) -> AsyncIterator[Message]:
        async for data in requests:
            call_context.record.request_bytes += len(data)
            yield parse(rpc, data)

    async def handle(requests: AsyncIterator[bytes], context: Context) -> AsyncIterator[bytes]:
        async with _errors_as_statuses(rpc, context):
            call_context = _call_context(rpc, context)
            async for response in call(parsed(requests, call_context), call_context):
                yield response.SerializeToString()

    return handle


def _with_one_request(
    stream: Callable[[AsyncIterator[bytes], Context], AsyncIterator[bytes]],
) -> Callable[[bytes, Context], AsyncIterator[bytes]]:
    async def one(data: bytes) -> AsyncIterator[bytes]:
        yield data

    async def handle(data: bytes, context: Context) -> AsyncIterator[bytes]:
        async for response in stream(one(data), context):  # grpcio tells generators by inspection
            yield response

    return handle


def _call_context(rpc: Rpc, context: Context) -> CallContext:
    metadata = {k: v for k, v in context.invocation_metadata() or () if isinstance(v, str)}
    deadline_s = deadline_after(context.time_remaining())
    return CallContext(rpc, deadline_s, metadata, context.peer())


@asynccontextmanager
async def _errors_as_statuses(rpc: Rpc, context: Context) -> AsyncIterator[None]:
    """Ends the call with the error's status; what we did not raise on purpose says nothing."""
    try:
        yield
    except HlserveError as error:
        status = status_of(error)
        if status == INTERNAL:
            _LOG.error("%s: %s", rpc.path, error)
        await context.abort(grpc.StatusCode[status], details_of(error))
    except Exception as error:
        if isinstance(error, grpc.aio.AbortError):
            raise
        _LOG.exception("%s failed", rpc.path)
        await context.abort(grpc.StatusCode.INTERNAL, INTERNAL_DETAILS)
