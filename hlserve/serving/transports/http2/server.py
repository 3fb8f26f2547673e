"""The HTTP/2 server: addresses, their connections, start and stop; as ``grpcio.GrpcioServer``."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from pathlib import Path

from hlserve.serving.listening import (
    Listening,
    address_refused,
    private_files,
    remove_stale_socket,
    socket_refused,
)
from hlserve.serving.transports.entry import Entry
from hlserve.serving.transports.http2.limits import Http2Limits
from hlserve.serving.transports.http2.protocol import GrpcProtocol
from hlserve.serving.transports.http2.service import GrpcService
from hlserve.serving.transports.http2.tls import server_context

_BACKLOG = 1024
_WATCH_INTERVAL_S = 5.0  # the precision of every timeout in Http2Limits
_HANDSHAKE_TIMEOUT_S = 10.0


class Http2Server:
    """Listens on the addresses that it is told; ``start`` begins to answer.

    Args:
        entry: what answers.
        listening: where, and how.
        limits: what clients may cost; None: the defaults, and what ``listening`` says.

    Raises:
        ConfigError: the TLS files are wrong.
        UnavailableError: an address cannot be bound.
    """

    def __init__(
        self, entry: Entry, listening: Listening, limits: Http2Limits | None = None
    ) -> None:
        self._limits = limits or Http2Limits.of(listening.limits)
        self._service = GrpcService(entry, self._limits, listening.limits.max_tensor_elements)
        self._connections: set[GrpcProtocol] = set()
        self._is_stopping = False  # a connection that is still being made comes too late
        self._all_closed = asyncio.Event()
        self._all_closed.set()
        self._servers: list[asyncio.Server] = []
        self._watching: asyncio.TimerHandle | None = None
        self._tls = None if listening.tls is None else server_context(listening.tls)
        self._unix_path = listening.unix_socket
        self._tcp = _bound(listening) if listening.host else None
        self.port: int = 0 if self._tcp is None else self._tcp.getsockname()[1]
        self._unix: socket.socket | None = None
        if self._unix_path is not None:
            try:
                self._unix = _bound_unix(self._unix_path)
            except BaseException:
                if self._tcp is not None:
                    self._tcp.close()
                raise

    async def start(self) -> None:
        """Begins to answer."""
        loop = asyncio.get_running_loop()
        if self._tcp is not None:
            timeout_s = None if self._tls is None else _HANDSHAKE_TIMEOUT_S
            self._servers.append(
                await loop.create_server(
                    self._protocol,
                    sock=self._tcp,
                    ssl=self._tls,
                    ssl_handshake_timeout=timeout_s,
                    backlog=_BACKLOG,
                )
            )
        if self._unix is not None:
            self._servers.append(
                await loop.create_unix_server(self._protocol, sock=self._unix, backlog=_BACKLOG)
            )
        self._watch()

    async def stop(self, grace_s: float) -> None:
        """Closes the addresses; calls still in flight after ``grace_s`` are cancelled."""
        self._is_stopping = True
        for server in self._servers:
            server.close()
        if not self._servers:  # never started: nobody else closes them
            for opened in (self._tcp, self._unix):
                if opened is not None:
                    opened.close()
        if self._watching is not None:
            self._watching.cancel()
        for connection in list(self._connections):
            connection.drain()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._all_closed.wait(), max(grace_s, 0))
        for connection in list(self._connections):
            connection.abort()
        await self._all_closed.wait()
        for server in self._servers:
            await server.wait_closed()
        if self._unix_path is not None:
            self._unix_path.unlink(missing_ok=True)

    def _protocol(self) -> GrpcProtocol:
        return GrpcProtocol(self._service, self._made, self._lost)

    def _made(self, connection: GrpcProtocol) -> bool:
        self._connections.add(connection)
        self._service.open_connections = len(self._connections)
        self._all_closed.clear()
        return not self._is_stopping and len(self._connections) <= self._limits.max_connections

    def _lost(self, connection: GrpcProtocol) -> None:
        self._connections.discard(connection)
        self._service.open_connections = len(self._connections)
        if not self._connections:
            self._all_closed.set()

    def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        for connection in list(self._connections):
            connection.watch(loop.time())
        self._watching = loop.call_later(_WATCH_INTERVAL_S, self._watch)


def _bound(listening: Listening) -> socket.socket:
    try:
        found = socket.getaddrinfo(
            listening.host, listening.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        opened = socket.socket(found[0][0], socket.SOCK_STREAM)
        try:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if listening.shares_port:
                opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            opened.bind(found[0][4])
            opened.listen(_BACKLOG)  # now, so that an address in use is found here
        except OSError:
            opened.close()
            raise
    except OSError as error:
        raise address_refused(listening.address) from error
    return opened


def _bound_unix(path: Path) -> socket.socket:
    remove_stale_socket(path)
    opened = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with private_files():
            opened.bind(os.fspath(path))
        opened.listen(_BACKLOG)
    except OSError as error:
        opened.close()
        raise socket_refused(path) from error
    return opened
