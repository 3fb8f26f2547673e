"""Calls where several processes serve one port: the scope of a row says where it runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from google.protobuf.message import Message

from hlserve import errors
from hlserve.errors import HlserveError, UnavailableError
from hlserve.pb.messages import inference, message_class
from hlserve.rpcs import Rpc, by_path
from hlserve.serving.control import SNAPSHOT_PATH, Answered, Failed, Outcome
from hlserve.serving.summing import add_up
from hlserve.serving.transports.admin_messages import model_asked
from hlserve.serving.transports.calls import Calls
from hlserve.serving.transports.context import (
    CallContext,
    EncodeAnswer,
    InferCall,
    StreamCall,
    UnaryCall,
    parse,
)
from hlserve.serving.worker import Worker


class EverywhereCalls:
    """The calls of one process, those of a wider scope through the supervisor.

    Args:
        calls: this process's own.
        worker: the way to all processes.
        snapshot: this process's statistics, encoded, for the supervisor.
    """

    def __init__(self, calls: Calls, worker: Worker, snapshot: Callable[[], bytes]) -> None:
        self._calls = calls
        self._snapshot = snapshot
        self._worker = worker

    def unary(self, rpc: Rpc) -> UnaryCall:
        """The call for a row with one request and one answer."""
        if rpc.scope == "process":
            return self._calls.unary(rpc)

        async def everywhere(request: Any, context: CallContext) -> Message:
            context.record.asks(*model_asked(request))
            outcomes = await self._worker.ask_all(rpc.path, request.SerializeToString())
            return joined(rpc, outcomes)

        return everywhere

    def infer(self, encode: EncodeAnswer) -> InferCall:
        """ModelInfer for a transport that reads and writes by itself: always in this process."""
        return self._calls.infer(encode)

    def stream(self, rpc: Rpc) -> StreamCall:
        """The call for a row that streams: always in this process."""
        return self._calls.stream(rpc)

    async def stream_answer(
        self, request: inference.ModelInferRequest, context: CallContext
    ) -> inference.ModelStreamInferResponse:
        """One message of a stream: always in this process."""
        return await self._calls.stream_answer(request, context)

    async def run_here(self, path: str, request: bytes) -> bytes:
        """Runs a call in this process for whoever asked the supervisor."""
        if path == SNAPSHOT_PATH:
            return self._snapshot()
        rpc = by_path(path)
        response = await self._calls.unary(rpc)(parse(rpc, request), CallContext(rpc))
        return response.SerializeToString()


def joined(rpc: Rpc, outcomes: list[Outcome]) -> Message:
    """One answer made of those of all processes; a sum leaves out those that could not answer.

    Raises:
        HlserveError: what a process answered; where others did as they were told, it says so.
        UnavailableError: no process answered.
    """
    answers = [outcome for outcome in outcomes if isinstance(outcome, Answered)]
    failures = [outcome for outcome in outcomes if isinstance(outcome, Failed)]
    if failures and not (answers and rpc.scope == "sum"):
        raise _error(failures[0], len(failures), len(outcomes))
    if not answers:
        raise UnavailableError(
            f"{rpc.path}: every process ended meanwhile, or is late: try again later"
        )
    messages = [message_class(rpc.response).FromString(answer.response) for answer in answers]
    return add_up(messages) if rpc.scope == "sum" else messages[0]


def _error(failure: Failed, failed: int, asked: int) -> HlserveError:
    """The process's error in its own class, and so with its own status."""
    cls = getattr(errors, failure.error, HlserveError)
    if not (isinstance(cls, type) and issubclass(cls, HlserveError)) or cls is errors.ServerError:
        cls = HlserveError
    if failed == asked:
        return cls(failure.details)
    return cls(
        f"it failed in {failed} of {asked} processes, which are being replaced: {failure.details}"
    )
