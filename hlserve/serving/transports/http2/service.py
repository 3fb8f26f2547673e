"""What all connections share: the rows of the table with their calls, and how each call answers."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from hlserve.errors import HlserveError, InvalidRequestError
from hlserve.pb.messages import inference
from hlserve.rpcs import RPCS, Rpc
from hlserve.serving.transports.context import (
    CallContext,
    Cancellable,
    DeliverBytes,
    StreamCall,
    UnaryCall,
    parse,
)
from hlserve.serving.transports.entry import Entry
from hlserve.serving.transports.http2.fast_infer import FastInfer, varint
from hlserve.serving.transports.http2.grpc_status import GrpcStatusError
from hlserve.serving.transports.http2.limits import Http2Limits
from hlserve.serving.transports.infer_calls import stream_error
from hlserve.serving.transports.status import INTERNAL, INTERNAL_DETAILS, details_of, status_of

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Row:
    """One RPC and its call; exactly one of the two calls is set."""

    rpc: Rpc
    unary: UnaryCall | None
    stream: StreamCall | None
    is_infer: bool
    is_infer_stream: bool = False


class GrpcService:
    """The table of RPCs over bytes.

    Attributes:
        rows: by path.
        turn: of the event loop.
        open_connections: how many there are; kept by the server.

    Args:
        entry: what answers.
        limits: of the transport.
        max_tensor_elements: of one input.
    """

    def __init__(self, entry: Entry, limits: Http2Limits, max_tensor_elements: int) -> None:
        self.limits = limits
        self._entry = entry
        self.turn = entry.turn
        self.open_connections = 0
        self._held_bytes = 0
        self.rows = {rpc.path: _row(rpc, entry) for rpc in RPCS}
        self._fast = FastInfer(max_tensor_elements)
        self._infer = entry.infer(self._fast.encode)
        self._infer_in_stream = entry.infer_in_stream(self._fast.encode)

    def hold(self, held: int, size: int) -> int:
        """Counts bytes of a call that are not whole, or not taken yet, among those of all calls.

        Args:
            held: what it held until now.
            size: what it holds from now on, which comes back.

        Raises:
            GrpcStatusError: all together would hold too many; the call holds what it held.
        """
        total = self._held_bytes + size - held
        if size > held and total > self.limits.max_buffered_bytes:
            raise GrpcStatusError(
                "UNAVAILABLE",
                f"unfinished requests hold {total} bytes, this server takes "
                f"{self.limits.max_buffered_bytes} at once: try again later",
            )
        self._held_bytes = total
        return size

    def begin_infer(
        self, data: bytes, start: int, context: CallContext, deliver: DeliverBytes
    ) -> Cancellable | None:
        """ModelInfer without a coroutine; None: the request is not plain, ``unary`` answers it.

        Args:
            data: the request from ``start`` on.
            start: where it begins.
            context: of the call.
            deliver: gets the serialized answer or an error, once, perhaps before this returns.

        Raises:
            HlserveError: the request was not taken.
        """
        request = self._fast.decode(data, context.deadline_s, start, context.arrived_ns)
        if request is None:
            return None
        context.record.request_bytes = len(data) - start
        return self._infer(request, context, deliver)

    def open_stream(self, context: CallContext) -> Callable[[BaseException | None], None]:
        """Begins a ModelStreamInfer that is taken message by message; answers how to end it.

        Raises:
            HlserveError: it is refused.
        """
        return self._entry.open_stream(context)

    def begin_message(
        self,
        data: bytes,
        start: int,
        context: CallContext,
        arrived_ns: int,
        deliver: Callable[[bytes], None],
    ) -> Cancellable | None:
        """One message of such a stream; None: it is not plain, ``message`` answers it.

        Args:
            data: a serialized ``ModelInferRequest`` from ``start`` on.
            start: where it begins.
            context: of the stream.
            arrived_ns: when it came, by ``time.monotonic_ns``.
            deliver: gets the serialized answer, once, perhaps before this returns.
        """
        request = self._fast.decode(data, context.deadline_s, start, arrived_ns)
        if request is None:
            return None
        context.record.request_bytes += len(data) - start
        tell = partial(_tell_stream, context.rpc, request.request_id, deliver)
        try:
            return self._infer_in_stream(request, context, tell)
        except Exception as error:  # an answer, too
            tell(error)
            return _NOTHING_BEGUN

    async def message(self, data: bytes, context: CallContext) -> bytes:
        """The serialized answer to one message of such a stream.

        Raises:
            InvalidRequestError: the bytes are no request.
        """
        context.record.request_bytes += len(data)
        request = parse(context.rpc, data)
        assert isinstance(request, inference.ModelInferRequest)
        return (await self._entry.stream_answer(request, context)).SerializeToString()

    async def unary(self, row: Row, data: bytes, context: CallContext) -> bytes:
        """The serialized answer of a call with one request and one answer.

        Raises:
            HlserveError: the call failed, or the bytes are no request.
        """
        context.record.request_bytes = len(data)
        assert row.unary is not None
        try:
            message = parse(row.rpc, data)
        except InvalidRequestError as error:
            self._entry.refuse(context, error)
        return (await row.unary(message, context)).SerializeToString()


class _NothingBegun:
    """A call that had its answer before it began."""

    def cancel(self) -> None:
        """Nothing runs."""


_NOTHING_BEGUN = _NothingBegun()


def _tell_stream(
    rpc: Rpc, request_id: str, deliver: Callable[[bytes], None], outcome: bytes | Exception
) -> None:
    """A ModelStreamInferResponse of a ModelInferResponse, or of an error."""
    if isinstance(outcome, Exception):
        deliver(stream_error(outcome, request_id, rpc).SerializeToString())
    else:
        deliver(b"\x12" + varint(len(outcome)) + outcome)


def _row(rpc: Rpc, entry: Entry) -> Row:
    if rpc.streams_request or rpc.streams_response:
        is_infer = rpc.call == "model_stream_infer"
        return Row(rpc, None, entry.stream(rpc), is_infer=False, is_infer_stream=is_infer)
    return Row(rpc, entry.unary(rpc), None, is_infer=rpc.call == "model_infer")


def status_and_details(rpc: Rpc, error: Exception) -> tuple[str, str]:
    """How an error ends a call; what we did not raise on purpose says nothing of itself."""
    if isinstance(error, GrpcStatusError):
        return error.status, error.details
    if isinstance(error, HlserveError):
        status = status_of(error)
        if status == INTERNAL:
            _LOG.error("%s: %s", rpc.path, error)
        return status, details_of(error)
    _LOG.error("%s failed", rpc.path, exc_info=error)
    return INTERNAL, INTERNAL_DETAILS
