"""What stands around every call, whatever the transport: stages before it and after it.

A stage refuses a call by raising (a missing key, too many calls at once), or watches it (a trace,
a log line). Each transport takes its calls from ``Entry``, so a stage is written once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NoReturn, Protocol

from google.protobuf.message import Message

from hlserve.errors import HlserveError
from hlserve.pb.messages import inference
from hlserve.rpcs import Rpc
from hlserve.serving.request import InferRequest
from hlserve.serving.transports.context import (
    CallContext,
    Cancellable,
    DeliverBytes,
    EncodeAnswer,
    InferCall,
    StreamCall,
    UnaryCall,
)
from hlserve.serving.transports.stage import Stage
from hlserve.serving.transports.staged_stream import staged_stream
from hlserve.serving.turn import Turn

_LOG = logging.getLogger(__name__)


class Answering(Protocol):
    """What answers a row: this process's calls, or those of every process."""

    def unary(self, rpc: Rpc) -> UnaryCall:
        """The call for a row with one request and one answer."""

    def infer(self, encode: EncodeAnswer) -> InferCall:
        """The ModelInfer call for a transport that reads and writes plain requests by itself."""

    def stream(self, rpc: Rpc) -> StreamCall:
        """The call for a row that streams, on either side."""

    async def stream_answer(
        self, request: inference.ModelInferRequest, context: CallContext
    ) -> inference.ModelStreamInferResponse:
        """The answer to one message of a stream; what goes wrong is an answer too."""


class Entry:
    """The calls with the stages around them.

    Args:
        calls: what answers.
        stages: from the outside in.
        turn: of the event loop; None: one of its own.
    """

    def __init__(
        self, calls: Answering, stages: Sequence[Stage] = (), turn: Turn | None = None
    ) -> None:
        self._calls = calls
        self.turn = turn or Turn()
        self._stages = _Stages(stages)

    def unary(self, rpc: Rpc) -> UnaryCall:
        """The call for a row with one request and one answer."""
        call = self._calls.unary(rpc)

        async def staged(request: Any, context: CallContext) -> Message:
            with self._stages.around(context):
                return await call(request, context)

        return staged

    def infer(self, encode: EncodeAnswer) -> InferCall:
        """The ModelInfer call for a transport that reads and writes plain requests by itself."""
        call, stages = self._calls.infer(encode), self._stages

        def staged(
            request: InferRequest, context: CallContext, deliver: DeliverBytes
        ) -> Cancellable:
            begun = stages.begin(context)
            try:
                tell = partial(stages.end_and_tell, begun, context, deliver)
                return call(request, context, tell)
            except BaseException as error:
                stages.end(begun, context, error)
                raise

        return staged

    def stream(self, rpc: Rpc) -> StreamCall:
        """The call for a row that streams, on either side."""
        return staged_stream(self._calls.stream(rpc), self._stages.around)

    def open_stream(self, context: CallContext) -> Callable[[BaseException | None], None]:
        """Begins a stream whose messages the transport takes by itself; answers how to end it.

        Raises:
            HlserveError: a stage refuses it.
        """
        return partial(self._stages.end, self._stages.begin(context), context)

    def infer_in_stream(self, encode: EncodeAnswer) -> InferCall:
        """``infer`` for the messages of such a stream: the stages stand around it, not them."""
        return self._calls.infer(encode)

    async def stream_answer(
        self, request: inference.ModelInferRequest, context: CallContext
    ) -> inference.ModelStreamInferResponse:
        """The answer to a message of such a stream that is not plain."""
        return await self._calls.stream_answer(request, context)

    def refuse(self, context: CallContext, error: HlserveError) -> NoReturn:
        """For a transport that got bytes which are no request: the stages see the refusal.

        Raises:
            HlserveError: ``error``, or what a stage has against the call before that.
        """
        with self._stages.around(context):
            raise error


class _Stages:
    """All stages: they begin in order, and those that began end in reverse."""

    def __init__(self, stages: Sequence[Stage]) -> None:
        self._begins = tuple(
            None if type(stage).begin is Stage.begin else stage.begin for stage in stages
        )
        self._ends = tuple(
            (index, stage.end)
            for index, stage in reversed(list(enumerate(stages)))
            if type(stage).end is not Stage.end
        )

    def begin(self, context: CallContext) -> list[object]:
        """What each wants back; one that refuses ends those before it."""
        begun: list[object] = []
        try:
            for begin in self._begins:
                begun.append(None if begin is None else begin(context))
        except BaseException as error:
            self.end(begun, context, error)
            raise
        return begun

    def end(self, begun: list[object], context: CallContext, error: BaseException | None) -> None:
        """Ends those that began."""
        count = len(begun)
        for index, end in self._ends:
            if index < count:
                try:
                    end(context, begun[index], error)
                except Exception:  # the others count, and the caller waits for its answer
                    _LOG.exception("a stage could not end")

    def end_and_tell(
        self,
        begun: list[object],
        context: CallContext,
        deliver: DeliverBytes,
        outcome: bytes | Exception,
    ) -> None:
        """Ends them with what came of the call, and hands that on."""
        self.end(begun, context, None if isinstance(outcome, bytes) else outcome)
        deliver(outcome)

    @contextmanager
    def around(self, context: CallContext) -> Iterator[None]:
        """Begins, and ends however the call does."""
        begun = self.begin(context)
        error: BaseException | None = None
        try:
            yield
        except BaseException as raised:
            error = raised
            raise
        finally:
            self.end(begun, context, error)
