"""What a call knows of the connection that it came on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from hlserve.serving.transports.http2.connection import Connection
from hlserve.serving.transports.http2.grpc_request import RequestHead
from hlserve.serving.transports.http2.service import GrpcService


class Surroundings(Protocol):
    """A connection's, shared by its calls.

    Attributes:
        service: what answers.
        loop: where.
        connection: the HTTP/2 state.
        flush: asks that output is written at the end of this turn of the loop.
        max_message_bytes: of one request.
    """

    service: GrpcService
    loop: asyncio.AbstractEventLoop
    connection: Connection[RequestHead]
    flush: Callable[[], None]
    max_message_bytes: int
