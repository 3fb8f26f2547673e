"""The HTTP/2 server: an address, its connections, start and stop; as ``grpcio.GrpcioServer``."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hlserve.errors import UnavailableError
from hlserve.serving.transports.entry import Entry
from hlserve.serving.transports.http2.limits import Http2Limits
from hlserve.serving.transports.http2.protocol import GrpcProtocol
from hlserve.serving.transports.http2.service import GrpcService

_BACKLOG = 1024
_WATCH_INTERVAL_S = 5.0  # the precision of every timeout in Http2Limits


@dataclass(frozen=True, slots=True)
class Listening:
    """How to listen beside address and port.

    Attributes:
        reuse_port: several processes share the port (SO_REUSEPORT).
        tls: from ``ssl``; it must offer ``h2`` by ALPN.
        unix_path: a socket file instead of address and port.
    """

    reuse_port: bool = False
    tls: ssl.SSLContext | None = None
    unix_path: Path | None = None


class Http2Server:
    """Listens on one address.

    Args:
        entry: what answers.
        host: address to bind.
        port: 0 = a free one.
        listening: the rest of how.
        limits: what clients may cost.

    Raises:
        UnavailableError: the address cannot be bound.
    """

    def __init__(
        self,
        entry: Entry,
        host: str,
        port: int,
        *,
        listening: Listening | None = None,
        limits: Http2Limits | None = None,
    ) -> None:
        self._listening = listening or Listening()
        self._limits = limits or Http2Limits()
        self._service = GrpcService(entry, self._limits)
        self._connections: set[GrpcProtocol] = set()
        self._all_closed = asyncio.Event()
        self._all_closed.set()
        self._server: asyncio.Server | None = None
        self._watching: asyncio.TimerHandle | None = None
        self._socket = _bound(host, port, self._listening)
        self.port: int = 0 if self._listening.unix_path else self._socket.getsockname()[1]

    async def start(self) -> None:
        """Begins to answer."""
        loop = asyncio.get_running_loop()
        make = loop.create_unix_server if self._listening.unix_path else loop.create_server
        self._server = await make(
            self._protocol, sock=self._socket, ssl=self._listening.tls, backlog=_BACKLOG
        )
        self._watch()

    async def stop(self, grace_s: float) -> None:
        """Closes the port; calls still in flight after ``grace_s`` are cancelled."""
        if self._server is None:
            self._socket.close()
            return
        self._server.close()
        if self._watching is not None:
            self._watching.cancel()
        for connection in list(self._connections):
            connection.drain()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._all_closed.wait(), max(grace_s, 0))
        for connection in list(self._connections):
            connection.abort()
        await self._all_closed.wait()
        await self._server.wait_closed()
        if self._listening.unix_path is not None:
            self._listening.unix_path.unlink(missing_ok=True)

    def _protocol(self) -> GrpcProtocol:
        return GrpcProtocol(self._service, self._made, self._lost)

    def _made(self, connection: GrpcProtocol) -> bool:
        self._connections.add(connection)
        self._all_closed.clear()
        return len(self._connections) <= self._limits.max_connections

    def _lost(self, connection: GrpcProtocol) -> None:
        self._connections.discard(connection)
        if not self._connections:
            self._all_closed.set()

    def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        for connection in list(self._connections):
            connection.watch(loop.time())
        self._watching = loop.call_later(_WATCH_INTERVAL_S, self._watch)


def _bound(host: str, port: int, listening: Listening) -> socket.socket:
    address = str(listening.unix_path or (f"[{host}]:{port}" if ":" in host else f"{host}:{port}"))
    try:
        family, where = _address(host, port, listening.unix_path)
        opened = socket.socket(family, socket.SOCK_STREAM)
        try:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if listening.reuse_port:
                opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            opened.bind(where)
            opened.listen(_BACKLOG)  # now, so that an address in use is found here
        except OSError:
            opened.close()
            raise
    except OSError as error:
        raise UnavailableError(
            f"cannot listen on {address}: the port is in use, or the address is not this machine's"
        ) from error
    return opened


def _address(host: str, port: int, unix_path: Path | None) -> tuple[int, Any]:
    if unix_path is not None:
        return socket.AF_UNIX, str(unix_path)
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return found[0][0], found[0][4]
