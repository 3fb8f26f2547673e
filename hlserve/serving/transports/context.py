"""What a transport knows of a call, and what it gets to call for a row of the table."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from google.protobuf.message import DecodeError, Message

from hlserve.errors import InvalidRequestError
from hlserve.pb.messages import message_class
from hlserve.rpcs import Rpc
from hlserve.serving.call_record import CallRecord
from hlserve.serving.request import InferRequest, InferResponse


@dataclass(slots=True)  # not frozen: one is made for every call, and that costs three times as much
class CallContext:
    """What a transport knows of a call beside its message.

    Attributes:
        rpc: the row.
        deadline_s: on the event loop's clock; None: no deadline.
        metadata: the client's headers, names in lower case; binary ones are left out.
        peer: where the call comes from, for the log.
        record: what becomes known of the call while it is answered.
        arrived_ns: when it came, by ``time.monotonic_ns``.
    """

    rpc: Rpc
    deadline_s: float | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    peer: str = ""
    record: CallRecord = field(default_factory=CallRecord)
    arrived_ns: int = field(default_factory=time.monotonic_ns)


UnaryCall = Callable[[Any, CallContext], Awaitable[Message]]
StreamCall = Callable[[AsyncIterator[Any], CallContext], AsyncIterator[Message]]
EncodeAnswer = Callable[[InferResponse], bytes]
DeliverBytes = Callable[[bytes | Exception], None]


class Cancellable(Protocol):
    """A call that was begun."""

    def cancel(self) -> None:
        """Its caller went away; without effect where it has its answer."""


InferCall = Callable[[InferRequest, CallContext, DeliverBytes], Cancellable]


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
