"""A call that streams, on either side, in a task of its own."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

from google.protobuf.message import Message

from hlserve.serving.transports.context import CallContext, parse
from hlserve.serving.transports.http2 import grpc_status
from hlserve.serving.transports.http2.call_surroundings import Surroundings
from hlserve.serving.transports.http2.frames import ConnectionFaultError
from hlserve.serving.transports.http2.grpc_framing import MessageReader, framed
from hlserve.serving.transports.http2.grpc_status import GrpcStatusError
from hlserve.serving.transports.http2.in_time import in_time
from hlserve.serving.transports.http2.service import Row, status_and_details
from hlserve.serving.transports.http2.streams import Stream


class Streaming:
    """Any number of requests, any number of answers; the client is held back at a window."""

    __slots__ = (
        "_calls",
        "_context",
        "_drained",
        "_error",
        "_held",
        "_is_head_sent",
        "_messages",
        "_news",
        "_queued_bytes",
        "_reader",
        "_row",
        "_stream",
        "_task",
        "_uncredited",
    )

    def __init__(
        self, calls: Surroundings, stream: Stream, row: Row, context: CallContext, encoding: str
    ) -> None:
        self._calls = calls
        self._stream = stream
        self._row = row
        self._context = context
        self._reader = MessageReader(encoding, calls.service.limits.max_message_bytes)
        self._messages: deque[bytes] = deque()
        self._queued_bytes = self._held = 0
        self._uncredited = 0
        self._error: Exception | None = None
        self._news = asyncio.Event()
        self._drained = asyncio.Event()
        stream.on_drained = self._drained.set
        stream.awaits_rest = False
        self._is_head_sent = False
        self._task = calls.loop.create_task(self._run())

    def received(self, data: bytes) -> None:
        """Takes a piece of the body."""
        if self._error is not None:
            return
        messages = self._reader.feed(data)
        self._error = self._reader.error
        self._messages.extend(messages)
        self._queued_bytes += sum(map(len, messages))
        self._stream.awaits_rest = self._reader.held_bytes > 0
        size = self._queued_bytes + self._reader.held_bytes
        try:
            self._held = self._calls.service.hold(self._held, size)
        except GrpcStatusError as error:
            self._error = error
            self._messages.clear()
        self._uncredited += len(data)
        self._credit()
        self._news.set()

    def gone(self) -> None:
        """The client went away."""
        self._messages.clear()  # else one may still be taken, and be counted out twice
        self._held = self._calls.service.hold(self._held, 0)
        self._task.cancel()

    def _credit(self) -> None:
        """Credit for what was taken, and for a message that must become whole to be taken."""
        if not self._messages:
            self._calls.connection.consumed(self._stream, self._uncredited)
            self._uncredited = 0

    async def _requests(self) -> AsyncIterator[bytes]:
        while True:
            while self._messages:
                message = self._messages.popleft()
                self._queued_bytes -= len(message)
                self._held = self._calls.service.hold(self._held, self._held - len(message))
                self._credit()
                self._calls.flush()
                yield message
            if self._error is not None:
                raise self._error
            if self._stream.has_ended:
                return
            self._news.clear()
            await self._news.wait()

    async def _run(self) -> None:
        status, details = "OK", ""
        try:
            await in_time(self._answer(), self._context.deadline_s)
        except ConnectionFaultError as fault:
            self._calls.connection.close(fault.code, fault.reason)
            self._calls.flush()
            return
        except Exception as error:  # as every transport: the one place where errors get a status
            status, details = status_and_details(self._row.rpc, error)
        self._end(status, details)

    async def _answer(self) -> None:
        requests = self._requests()
        if not self._row.rpc.streams_request:
            requests = _exactly_one(requests)
        sender = self._calls.connection.sender
        answers = _answers(self._row, requests, self._context)
        async with aclosing(answers):
            async for answer in answers:
                if not self._is_head_sent:
                    self._is_head_sent = True
                    sender.head(self._stream, grpc_status.RESPONSE_HEAD)
                sender.data(self._stream, framed(answer))
                self._calls.flush()
                if self._stream.unsent_bytes:  # the client reads slower than we answer
                    self._drained.clear()
                    await self._drained.wait()

    def _end(self, status: str, details: str) -> None:
        self._held = self._calls.service.hold(self._held, 0)
        sender = self._calls.connection.sender
        if self._is_head_sent:
            sender.trailers(self._stream, grpc_status.trailers(status, details))
        else:
            sender.trailers_only(self._stream, grpc_status.trailers_only(status, details))
        self._stream.call = None
        self._calls.flush()


async def _exactly_one(requests: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    count = 0
    async for request in requests:
        count += 1
        if count == 1:
            yield request
    if count != 1:
        raise GrpcStatusError("UNIMPLEMENTED", f"{count} whole messages came, expected one")


async def _answers(
    row: Row, requests: AsyncIterator[bytes], context: CallContext
) -> AsyncGenerator[bytes]:
    """The serialized answers."""
    assert row.stream is not None
    async for response in row.stream(_parsed(requests, context), context):
        yield response.SerializeToString()


async def _parsed(requests: AsyncIterator[bytes], context: CallContext) -> AsyncIterator[Message]:
    async for data in requests:
        context.record.request_bytes += len(data)
        yield parse(context.rpc, data)
