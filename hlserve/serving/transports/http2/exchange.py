"""One gRPC call on one stream: its messages in, its answer out, its end however it comes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from hlserve.errors import DeadlineExceededError
from hlserve.serving.call_record import CallRecord
from hlserve.serving.transports.context import CallContext, Cancellable
from hlserve.serving.transports.http2 import grpc_status
from hlserve.serving.transports.http2.connection import Connection
from hlserve.serving.transports.http2.eager_call import EagerCall
from hlserve.serving.transports.http2.frames import ConnectionFaultError
from hlserve.serving.transports.http2.grpc_framing import (
    PREFIX,
    PREFIX_BYTES,
    MessageReader,
    is_plain_message,
)
from hlserve.serving.transports.http2.grpc_request import RequestHead
from hlserve.serving.transports.http2.grpc_status import GrpcStatusError
from hlserve.serving.transports.http2.in_time import in_time
from hlserve.serving.transports.http2.infer_stream import InferStream
from hlserve.serving.transports.http2.service import GrpcService, Row, status_and_details
from hlserve.serving.transports.http2.streaming import Streaming
from hlserve.serving.transports.http2.streams import Stream


class Calls:
    """The calls of one connection; its listener.

    Args:
        service: what answers.
        loop: where.
        peer: for the log.
        flush: asks that output is written at the end of this turn of the loop.
    """

    def __init__(
        self,
        service: GrpcService,
        loop: asyncio.AbstractEventLoop,
        peer: str,
        flush: Callable[[], None],
    ) -> None:
        self.service = service
        self._rows = service.rows
        self.max_message_bytes = service.limits.max_message_bytes
        self.loop = loop
        self.peer = peer
        self.flush = flush
        self.connection: Connection[RequestHead]

    def began(self, stream: Stream, head: RequestHead) -> None:
        """Takes or refuses a call."""
        if head.refusal is not None:
            self.connection.sender.trailers_only(stream, head.refusal)
            return
        row = self._rows.get(head.path)
        if row is None:
            details = f"{head.path[:200]} is no method of this server"
            block = grpc_status.trailers_only("UNIMPLEMENTED", details)
            self.connection.sender.trailers_only(stream, block)
            return
        now_s, timeout_s = self.connection.now_s, head.timeout_s
        context = CallContext(
            row.rpc,
            None if timeout_s is None else now_s + timeout_s,
            head.metadata,
            self.peer,
            CallRecord(),
            int(now_s * 1e9),
        )
        if row.unary is not None:
            stream.call = _Unary(self, stream, row, context, head.encoding)
        elif row.is_infer_stream:
            call = InferStream(self, stream, row, context, head.encoding)
            stream.call = None if call.is_over else call  # it may be refused
        else:
            stream.call = Streaming(self, stream, row, context, head.encoding)
        if stream.has_ended and stream.call is not None:
            stream.call.received(b"")

    def received(self, stream: Stream, data: bytes) -> None:
        """Hands a piece of a body on; what comes for a refused call is dropped."""
        if stream.call is not None:
            stream.call.received(data)

    def gone(self, stream: Stream) -> None:
        """Ends the call of a stream that ended."""
        if stream.call is not None:
            stream.call.gone()


class _Unary:
    """One request, one answer."""

    __slots__ = (
        "_calls",
        "_context",
        "_encoding",
        "_held",
        "_messages",
        "_reader",
        "_row",
        "_running",
        "_stream",
        "_timer",
    )

    def __init__(
        self, calls: Calls, stream: Stream, row: Row, context: CallContext, encoding: str
    ) -> None:
        self._calls = calls
        self._stream = stream
        self._row = row
        self._context = context
        self._encoding = encoding
        self._reader: MessageReader | None = None
        self._messages: list[bytes] = []
        self._held = 0
        self._running: Cancellable | asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None  # while the request is not whole

    def received(self, data: bytes) -> None:
        if self._reader is None:
            # As a rule one piece holds the whole body, and the body one plain message.
            if self._stream.has_ended and is_plain_message(data, self._calls.max_message_bytes):
                self._begin(data, PREFIX_BYTES)
                return
            self._reader = MessageReader(self._encoding, self._calls.max_message_bytes)
            if self._context.deadline_s is not None:
                self._timer = self._calls.loop.call_at(self._context.deadline_s, self._expire)
        try:
            message = self._read(self._reader, data)
        except GrpcStatusError as error:
            self._held = self._calls.service.hold(self._held, 0)
            self._end(error)
            return
        if message is not None:
            self._stop_timer()
            self._begin(message, 0)

    def _expire(self) -> None:
        self._held = self._calls.service.hold(self._held, 0)
        self._end(DeadlineExceededError("the deadline passed before the request was whole"))
        self._calls.flush()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _read(self, reader: MessageReader, data: bytes) -> bytes | None:
        """The request once it is whole."""
        stream = self._stream
        messages = reader.feed(data)
        if reader.error is not None:
            raise reader.error
        if not messages and not self._messages and not stream.has_ended:
            self._held = self._calls.service.hold(self._held, reader.held_bytes)
            self._calls.connection.consumed(stream, len(data))
            return None
        if self._messages:
            messages = self._messages + messages
        if len(messages) > 1 or (stream.has_ended and (not messages or reader.held_bytes)):
            raise GrpcStatusError(
                "UNIMPLEMENTED", f"{len(messages)} whole messages came, expected one"
            )
        if stream.has_ended:
            self._held = self._calls.service.hold(self._held, 0)
            return messages[0]
        self._messages = messages
        self._held = self._calls.service.hold(
            self._held, reader.held_bytes + sum(map(len, messages))
        )
        self._calls.connection.consumed(stream, len(data))
        return None

    def _begin(self, data: bytes, start: int) -> None:
        """Answers the request that is ``data`` from ``start`` on."""
        if self._row.is_infer:
            service = self._calls.service
            try:
                running = service.begin_infer(data, start, self._context, self._answered)
            except Exception as error:  # as every transport: where errors get a status
                self._answered(error)
                return
            if running is not None:
                self._running = running
                return
        answer = self._answer(data[start:])
        if self._row.is_infer:
            self._running = EagerCall(answer)
        else:
            self._running = self._calls.loop.create_task(answer)

    def gone(self) -> None:
        self._stop_timer()
        self._held = self._calls.service.hold(self._held, 0)
        if self._running is not None:
            self._running.cancel()

    async def _answer(self, data: bytes) -> None:
        try:
            call = self._calls.service.unary(self._row, data, self._context)
            if self._context.deadline_s is None or self._row.is_infer:
                answer = await call  # the batcher keeps the deadlines of its requests
            else:
                answer = await in_time(call, self._context.deadline_s)
        except Exception as error:
            self._answered(error)
        else:
            self._answered(answer)

    def _answered(self, outcome: bytes | Exception) -> None:
        """Sends the answer; the one place where errors get a status, as in every transport."""
        calls = self._calls
        if isinstance(outcome, Exception):
            self._end(outcome)
            calls.flush()
            return
        try:
            calls.connection.sender.reply(
                self._stream,
                grpc_status.RESPONSE_HEAD,
                PREFIX.pack(0, len(outcome)) + outcome,
                grpc_status.OK_TRAILERS,
            )
        except ConnectionFaultError as fault:
            calls.connection.close(fault.code, fault.reason)
        calls.flush()

    def _end(self, error: Exception) -> None:
        self._stop_timer()
        block = grpc_status.trailers_only(*status_and_details(self._row.rpc, error))
        self._calls.connection.sender.trailers_only(self._stream, block)
        self._stream.call = None
