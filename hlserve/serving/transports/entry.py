"""What stands around every call, whatever the transport: stages before it and after it.

A stage refuses a call by raising (a missing key, too many calls at once), or watches it (a trace,
a log line). Each transport takes its calls from ``Entry``, so a stage is written once.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, NoReturn, Protocol, TypeVar

from google.protobuf.message import Message

from hlserve.errors import HlserveError
from hlserve.rpcs import Rpc
from hlserve.serving.transports.calls import (
    CallContext,
    EncodeAnswer,
    InferCall,
    StreamCall,
    UnaryCall,
)

Request = TypeVar("Request")
Response = TypeVar("Response")


class Stage(Protocol):
    """Something done around a call; both methods run on the event loop and do not wait."""

    def begin(self, context: CallContext) -> object:
        """Before the call.

        Returns:
            What ``end`` gets back.

        Raises:
            HlserveError: the call is refused.
        """

    def end(self, context: CallContext, begun: object, error: BaseException | None) -> None:
        """After the call, however it ended; not called where ``begin`` raised."""


class Answering(Protocol):
    """What answers a row: this process's calls, or those of every process."""

    def unary(self, rpc: Rpc) -> UnaryCall:
        """The call for a row with one request and one answer."""

    def infer(self, encode: EncodeAnswer) -> InferCall:
        """The ModelInfer call for a transport that reads and writes plain requests by itself."""

    def stream(self, rpc: Rpc) -> StreamCall:
        """The call for a row that streams, on either side."""


class Entry:
    """The calls with the stages around them.

    Args:
        calls: what answers.
        stages: from the outside in.
    """

    def __init__(self, calls: Answering, stages: Sequence[Stage] = ()) -> None:
        self._calls = calls
        self._stages = tuple(stages)

    def unary(self, rpc: Rpc) -> UnaryCall:
        """The call for a row with one request and one answer."""
        return self._staged(self._calls.unary(rpc))

    def infer(self, encode: EncodeAnswer) -> InferCall:
        """The ModelInfer call for a transport that reads and writes plain requests by itself."""
        return self._staged(self._calls.infer(encode))

    def _staged(
        self, call: Callable[[Request, CallContext], Awaitable[Response]]
    ) -> Callable[[Request, CallContext], Awaitable[Response]]:
        if not self._stages:
            return call

        async def staged(request: Request, context: CallContext) -> Response:
            with _Staged(self._stages, context):
                return await call(request, context)

        return staged

    def stream(self, rpc: Rpc) -> StreamCall:
        """The call for a row that streams, on either side."""
        call = self._calls.stream(rpc)
        if not self._stages:
            return call

        async def staged(
            requests: AsyncIterator[Any], context: CallContext
        ) -> AsyncIterator[Message]:
            with _Staged(self._stages, context):
                async for response in call(requests, context):
                    yield response

        return staged

    def refuse(self, context: CallContext, error: HlserveError) -> NoReturn:
        """For a transport that got bytes which are no request: the stages see the refusal.

        Raises:
            HlserveError: ``error``, or what a stage has against the call before that.
        """
        with _Staged(self._stages, context):
            raise error


class _Staged:
    """Begins the stages in order and ends in reverse those that began."""

    def __init__(self, stages: tuple[Stage, ...], context: CallContext) -> None:
        self._stages = stages
        self._context = context
        self._begun: list[tuple[Stage, object]] = []

    def __enter__(self) -> None:
        try:
            for stage in self._stages:
                self._begun.append((stage, stage.begin(self._context)))
        except BaseException as error:
            self._end(error)
            raise

    def __exit__(self, _type: object, error: BaseException | None, _traceback: object) -> None:
        self._end(error)

    def _end(self, error: BaseException | None) -> None:
        for stage, begun in reversed(self._begun):
            stage.end(self._context, begun, error)
