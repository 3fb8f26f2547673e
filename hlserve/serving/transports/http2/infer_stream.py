"""ModelStreamInfer without coroutines: messages in, answers out in their order.

A message of a stream costs as little as a request of its own: plain ones go by callbacks from the
frame to the batch and back. The others each get a task, and wait in the same line.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from functools import partial

from hlserve.errors import CancelledError, DeadlineExceededError, HlserveError
from hlserve.serving.transports.calls import MAX_STREAM_IN_FLIGHT
from hlserve.serving.transports.context import CallContext, Cancellable
from hlserve.serving.transports.http2 import grpc_status
from hlserve.serving.transports.http2.call_surroundings import Surroundings
from hlserve.serving.transports.http2.frames import ConnectionFaultError
from hlserve.serving.transports.http2.grpc_framing import (
    PREFIX_BYTES,
    MessageReader,
    framed,
    is_plain_message,
)
from hlserve.serving.transports.http2.grpc_status import GrpcStatusError
from hlserve.serving.transports.http2.service import Row, status_and_details
from hlserve.serving.transports.http2.streams import Stream

_MAX_UNCOUNTED_BYTES = 2**16


class _Message:
    """One message, until its answer is sent."""

    __slots__ = ("answer", "running", "size")

    def __init__(self, size: int) -> None:
        self.size = size
        self.answer: bytes | None = None
        self.running: Cancellable | asyncio.Task[None] | None = None


class InferStream:
    """One call of ModelStreamInfer.

    Args:
        calls: of the connection.
        stream: the HTTP/2 stream.
        row: of the call.
        context: of the call.
        encoding: of the requests.

    Attributes:
        is_over: its status was sent, or nobody waits for it.
    """

    def __init__(
        self, calls: Surroundings, stream: Stream, row: Row, context: CallContext, encoding: str
    ) -> None:
        self._calls = calls
        self._stream = stream
        self._row = row
        self._context = context
        limits = calls.service.limits
        self._reader = MessageReader(encoding, limits.max_message_bytes)
        self._max_taken_bytes = limits.max_message_bytes
        self._waiting: deque[bytes] = deque()  # whole, and not taken yet
        self._waiting_bytes = self._held = self._uncredited = 0
        self._taken: deque[_Message] = deque()  # in their order, until their answers are sent
        self._taken_bytes = 0
        self._error: Exception | None = None  # ends the stream after the answers before it
        self._is_head_sent = self.is_over = self._will_advance = False
        self._end_stages: Callable[[BaseException | None], None] | None = None
        self._deadline: asyncio.TimerHandle | None = None
        stream.on_drained = self._advance_soon
        stream.awaits_rest = False
        try:
            self._end_stages = calls.service.open_stream(context)
        except HlserveError as error:
            self._end(error)
            return
        if context.deadline_s is not None:
            self._deadline = calls.loop.call_at(context.deadline_s, self._expire)

    def received(self, data: bytes) -> None:
        """Takes a piece of the body."""
        if self.is_over or self._error is not None:
            return
        if self._is_one_message(data) and self._has_room():  # nearly always
            self._uncredited += len(data)
            self._take(data, PREFIX_BYTES)
            self._credit()
            if self._stream.has_ended:
                self._end_if_done()
            return
        messages = self._reader.feed(data)
        self._error = self._reader.error
        if self._error is None and self._stream.has_ended and self._reader.held_bytes:
            self._error = GrpcStatusError("INTERNAL", "the last message is not whole")
        self._stream.awaits_rest = self._reader.held_bytes > 0
        self._waiting.extend(messages)
        self._waiting_bytes += sum(map(len, messages))
        self._uncredited += len(data)
        self._advance()

    def _is_one_message(self, data: bytes) -> bool:
        """Whether a piece of the body is a plain message, and none waits before it.

        Large ones are counted with what all calls hold, and wait in line for that.
        """
        if self._waiting or self._reader.held_bytes or len(data) > _MAX_UNCOUNTED_BYTES:
            return False
        return is_plain_message(data, self._max_taken_bytes)

    def gone(self) -> None:
        """The client went away."""
        if not self.is_over:
            self._finish(CancelledError("the caller went away"))

    def _credit(self) -> None:
        """Credit for what was taken, and for a message that must become whole to be taken."""
        if not self._waiting:
            self._calls.connection.consumed(self._stream, self._uncredited)
            self._uncredited = 0

    # ----- in

    def _advance_soon(self) -> None:
        if not self._will_advance and not self.is_over:
            self._will_advance = True
            self._calls.loop.call_soon(self._advance)

    def _advance(self) -> None:
        """Takes what there is room for; ends where all is done."""
        self._will_advance = False
        if self.is_over:
            return
        try:
            self._held = self._calls.service.hold(self._held, self._size_bytes())
        except GrpcStatusError as error:
            self._error = error
            self._waiting.clear()
            self._waiting_bytes = 0
        while self._waiting and not self.is_over and self._has_room():
            data = self._waiting.popleft()
            self._waiting_bytes -= len(data)
            self._take(data, 0)
        if self.is_over:
            return
        self._credit()
        self._end_if_done()

    def _size_bytes(self) -> int:
        return self._waiting_bytes + self._reader.held_bytes + self._taken_bytes

    def _has_room(self) -> bool:
        return (
            len(self._taken) < MAX_STREAM_IN_FLIGHT
            and self._taken_bytes < self._max_taken_bytes
            and not self._stream.unsent_bytes  # the client reads slower than we answer
        )

    def _take(self, data: bytes, start: int) -> None:
        """Answers the message that is ``data`` from ``start`` on."""
        message = _Message(len(data))
        self._taken.append(message)
        self._taken_bytes += message.size
        running = self._calls.service.begin_message(
            data,
            start,
            self._context,
            int(self._calls.connection.now_s * 1e9),
            partial(self._answered, message),
        )
        if running is None:
            message.running = self._calls.loop.create_task(self._answer(message, data[start:]))
        elif message.answer is None:
            message.running = running

    async def _answer(self, message: _Message, data: bytes) -> None:
        try:
            answer = await self._calls.service.message(data, self._context)
        except Exception as error:  # no request: the stream ends here
            self._give_up_from(message, error)
        else:
            self._answered(message, answer)

    def _give_up_from(self, bad: _Message, error: Exception) -> None:
        """Ends the stream once those before the bad message have their answers."""
        if self.is_over:
            return
        self._error = error
        self._waiting.clear()
        self._waiting_bytes = 0
        bad.running = None
        while self._taken and (message := self._taken.pop()) is not bad:
            if message.running is not None:
                message.running.cancel()
        self._end_if_done()

    # ----- out

    def _answered(self, message: _Message, answer: bytes) -> None:
        message.answer = answer
        message.running = None
        if self.is_over or not self._taken or self._taken[0] is not message:
            return
        try:
            self._send_ready()
        except ConnectionFaultError as fault:
            self._calls.connection.close(fault.code, fault.reason)
        self._calls.flush()
        if self._waiting or self._error is not None or self._stream.has_ended:
            self._advance_soon()

    def _send_ready(self) -> None:
        sender, stream = self._calls.connection.sender, self._stream
        if not self._is_head_sent:
            self._is_head_sent = True
            sender.head(stream, grpc_status.RESPONSE_HEAD)
        while self._taken and self._taken[0].answer is not None:
            message = self._taken.popleft()
            self._taken_bytes -= message.size
            assert message.answer is not None
            sender.data(stream, framed(message.answer))
        if self._held:
            left = min(self._held, self._size_bytes())
            self._held = self._calls.service.hold(self._held, left)

    # ----- its end

    def _end_if_done(self) -> None:
        if self._taken or self._waiting or self._stream.unsent_bytes or self.is_over:
            return
        if self._error is not None or self._stream.has_ended:
            self._end(self._error)

    def _expire(self) -> None:
        self._end(DeadlineExceededError("the deadline passed before an answer"))

    def _end(self, error: Exception | None) -> None:
        """Tells the client, and lets go."""
        if self.is_over:
            return
        sender = self._calls.connection.sender
        status, details = ("OK", "") if error is None else status_and_details(self._row.rpc, error)
        if self._is_head_sent:
            sender.trailers(self._stream, grpc_status.trailers(status, details))
        else:
            sender.trailers_only(self._stream, grpc_status.trailers_only(status, details))
        self._finish(error)
        self._calls.flush()

    def _finish(self, error: Exception | None) -> None:
        self.is_over = True
        self._held = self._calls.service.hold(self._held, 0)
        self._stream.on_drained = None
        if self._deadline is not None:
            self._deadline.cancel()
        for message in self._taken:
            if message.running is not None:
                message.running.cancel()
        self._taken.clear()
        self._waiting.clear()
        if self._end_stages is not None:
            end_stages, self._end_stages = self._end_stages, None
            end_stages(error)
