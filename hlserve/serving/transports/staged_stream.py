"""A call that streams, with the stages around it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager
from typing import Any

from google.protobuf.message import Message

from hlserve.serving.transports.context import CallContext, StreamCall


def staged_stream(
    call: StreamCall, around: Callable[[CallContext], AbstractContextManager[None]]
) -> StreamCall:
    """``call`` within ``around`` of its context."""

    async def staged(requests: AsyncIterator[Any], context: CallContext) -> AsyncIterator[Message]:
        with around(context):
            async for response in call(requests, context):
                yield response

    return staged
