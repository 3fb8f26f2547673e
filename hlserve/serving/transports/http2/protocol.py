"""One connection on the event loop: bytes of the socket to the HTTP/2 state and back.

One ``data_received`` handles every frame that came; the answers of a turn of the loop are written
once. Time is watched by one slow tick for all connections (``Connections``), not by timers.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Callable
from typing import Any, cast

from hlserve.serving.transports.http2 import frames
from hlserve.serving.transports.http2.connection import Connection
from hlserve.serving.transports.http2.exchange import Calls
from hlserve.serving.transports.http2.frames import ErrorCode
from hlserve.serving.transports.http2.grpc_request import RequestHead, RequestReader
from hlserve.serving.transports.http2.service import GrpcService

_HTTP1_REQUEST = re.compile(rb"[A-Z]{3,10} [^\r\n]")
_HTTP1_ANSWER = (
    b"HTTP/1.1 505 HTTP Version Not Supported\r\n"
    b"content-type: text/plain\r\ncontent-length: 35\r\nconnection: close\r\n\r\n"
    b"this port speaks gRPC over HTTP/2.\n"
)
_KEEPALIVE_PING = frames.ping(b"hlserve?")

_LOG = logging.getLogger(__name__)


class GrpcProtocol(asyncio.Protocol):
    """One connection.

    Args:
        service: what answers.
        on_made: called with a new connection; False: there are too many.
        on_lost: called when it is closed.
    """

    def __init__(
        self,
        service: GrpcService,
        on_made: Callable[[GrpcProtocol], bool],
        on_lost: Callable[[GrpcProtocol], None],
    ) -> None:
        self._service = service
        self._limits = service.limits
        self._max_unsent_bytes = service.limits.max_unsent_bytes
        self._turn = service.turn
        self._on_made = on_made
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._will_flush = False
        self._is_paused = False
        self._is_draining = False
        self._is_leaving = False
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begins a connection; over TLS only one that agreed on HTTP/2."""
        self._transport = cast(asyncio.Transport, transport)
        now_s = self._loop.time()
        self._made_s = self._received_s = self._progress_s = self._busy_s = now_s
        self._left_bytes = 0
        self._ping_s: float | None = None
        self._closing_s: float | None = None
        self._has_received = False
        self._calls = Calls(self._service, self._loop, _peer(self._transport), self._flush_soon)
        reader = RequestReader(self._limits.max_metadata_bytes)
        self._connection: Connection[RequestHead] = Connection(
            self._calls,
            reader,
            self._limits,
            time.monotonic,  # the loop's own clock, which uvloop rounds to milliseconds
            reader.extend,
        )
        self._calls.connection = self._connection
        tls = transport.get_extra_info("ssl_object")
        if tls is not None and tls.selected_alpn_protocol() != "h2":
            _LOG.info("%s: TLS without the protocol h2", self._calls.peer)
            self._transport.abort()
        elif not self._on_made(self):
            _LOG.warning("%s: too many connections, or the server ends", self._calls.peer)
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        """Handles what came, and writes what is to say at once."""
        if not self._has_received and self._is_http1(data):
            return
        self._received_s = self._loop.time()
        self._ping_s = None
        self._connection.receive(data)
        if self._connection.sender.has_output or self._is_draining:
            self._flush_soon()
        if self._service.open_connections == 1:
            self._turn.end_now()  # nobody else can have sent anything

    def _is_http1(self, data: bytes) -> bool:
        self._has_received = True
        if data[:3] == b"PRI" or _HTTP1_REQUEST.match(data) is None:
            return False
        assert self._transport is not None
        self._transport.write(_HTTP1_ANSWER)
        self._transport.close()
        self._connection.is_closed = True
        return True

    def connection_lost(self, _error: Exception | None) -> None:
        """Ends the calls of a connection that is gone."""
        self._connection.close(ErrorCode.NO_ERROR, "the connection is gone")
        self._transport = None
        self._on_lost(self)

    def pause_writing(self) -> None:
        """The client reads slower than we write: answers wait on their streams."""
        self._is_paused = True
        self._progress_s = self._loop.time()
        self._connection.sender.pause()

    def resume_writing(self) -> None:
        """The socket takes bytes again."""
        self._is_paused = False
        self._progress_s = self._loop.time()
        self._connection.sender.resume()
        self._flush_soon()

    def eof_received(self) -> None:
        """The client sends no more; as every gRPC server, we close."""

    def _flush_soon(self) -> None:
        if not self._will_flush:
            self._will_flush = True
            self._turn.flush_later(self._loop, self._flush)

    def _flush(self) -> None:
        self._will_flush = False
        transport, connection = self._transport, self._connection
        if transport is None:
            return
        sender = connection.sender
        if sender.has_output and not transport.is_closing():
            transport.write(sender.take_output())
            if self._is_paused and transport.get_write_buffer_size() > self._max_unsent_bytes:
                # Answers that are headers alone have no window, and end their streams.
                connection.close(ErrorCode.ENHANCE_YOUR_CALM, "answers were not read")
                transport.abort()
                return
        if connection.is_closed:
            if connection.fault is not None and connection.fault.code:
                _LOG.info("%s: closed, %s", self._calls.peer, connection.fault)
            transport.close()
        elif self._is_draining and not connection.streams:
            transport.close()
        elif sender.has_waiting and not self._is_paused:
            sender.send_waiting()
            if sender.has_output:
                self._flush_soon()

    # ----- its end, and time

    def drain(self) -> None:
        """Asks the client to go; the connection closes with its last answer."""
        self._connection.go_away(is_last=False)
        self._flush_soon()
        self._loop.call_later(_DRAIN_STEP_S, self._finish_drain)

    def _finish_drain(self) -> None:
        if self._transport is not None and not self._connection.is_closed:
            self._is_draining = True
            self._connection.go_away(is_last=True)
            self._flush_soon()

    def abort(self) -> None:
        """Closes at once; calls in flight are cancelled."""
        if self._transport is not None:
            self._transport.abort()

    def watch(self, now_s: float) -> None:
        """Looks at what only time shows; called every few seconds."""
        if self._transport is not None and self._transport.is_closing():
            self._watch_closing(now_s)
            return
        if self._connection.streams:
            self._busy_s = now_s
        self._watch_stalls(now_s)
        self._watch_idleness(now_s)
        if self._connection.sender.has_output:
            self._flush_soon()

    def _watch_closing(self, now_s: float) -> None:
        """What was said last goes out before the end, unless nobody reads it."""
        if self._closing_s is None:
            self._closing_s = now_s
        elif now_s - self._closing_s > self._limits.stall_timeout_s:
            self.abort()

    def _watch_stalls(self, now_s: float) -> None:
        limits, connection = self._limits, self._connection
        oldest_s = now_s - limits.stall_timeout_s
        if connection.is_waiting_for_rest and self._received_s < oldest_s:
            connection.close(ErrorCode.ENHANCE_YOUR_CALM, "the rest of a frame did not come")
        elif self._is_paused and self._reads_nothing(now_s, oldest_s):
            self.abort()  # nothing that we say would be read
        else:
            connection.reset_stalled(now_s)

    def _reads_nothing(self, now_s: float, oldest_s: float) -> bool:
        assert self._transport is not None
        left_bytes = self._transport.get_write_buffer_size()
        if left_bytes < self._left_bytes:
            self._progress_s = now_s
        self._left_bytes = left_bytes
        return self._progress_s < oldest_s

    def _watch_idleness(self, now_s: float) -> None:
        limits = self._limits
        if now_s - self._busy_s > limits.idle_timeout_s:
            self._finish_drain()
        elif self._is_old(now_s):
            self._is_leaving = True
            self.drain()
        elif self._ping_s is not None:
            if now_s - self._ping_s > limits.keepalive_timeout_s:
                self.abort()
        elif self._connection.streams and now_s - self._received_s > limits.keepalive_s:
            self._ping_s = now_s
            self._connection.sender.control(_KEEPALIVE_PING)

    def _is_old(self, now_s: float) -> bool:
        most_s = self._limits.max_connection_age_s
        return 0 < most_s < now_s - self._made_s and not self._is_leaving


_DRAIN_STEP_S = 0.05  # for streams already on their way when GOAWAY leaves


def _peer(transport: asyncio.Transport) -> str:
    """As grpcio names it: ``ipv4:127.0.0.1:4711``."""
    address: Any = transport.get_extra_info("peername")
    if isinstance(address, tuple) and len(address) >= 2:
        host, port = address[:2]
        return f"ipv6:[{host}]:{port}" if ":" in host else f"ipv4:{host}:{port}"
    return "unix:"
