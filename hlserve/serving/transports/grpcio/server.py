"""The grpc.aio server: addresses, options, start and stop."""

from __future__ import annotations

from pathlib import Path

import grpc

from hlserve.codec import MAX_MESSAGE_BYTES
from hlserve.serving.limits import LimitsConfig
from hlserve.serving.listening import (
    Listening,
    address_refused,
    private_files,
    remove_stale_socket,
    socket_refused,
)
from hlserve.serving.transports.entry import Entry
from hlserve.serving.transports.grpcio.credentials import server_credentials
from hlserve.serving.transports.grpcio.handlers import generic_handlers

# A client that went away without a word is found by a ping; the kernel alone takes two hours.
_KEEPALIVE_MS, _KEEPALIVE_TIMEOUT_MS = 60_000, 20_000
# Clients that ping every 10 s are welcome; grpcio's 5 minutes disconnects ordinary settings.
_LEAST_PING_INTERVAL_MS = 10_000
# Calls that the event loop has not taken yet. Core's own limits (it cancels calls at random from
# 1,000 on, all from 3,000 on) leave clients with a bare CANCELLED, which nobody tries again: what
# is too much is refused on the loop, with a status and a reason. This is the last resort.
_MAX_PENDING_CALLS = 16_384


class GrpcioServer:
    """Listens on the addresses that it is told; ``start`` begins to answer.

    Args:
        entry: what answers.
        listening: where, and how.

    Raises:
        ConfigError: the TLS files are wrong.
        UnavailableError: an address cannot be bound.
    """

    def __init__(self, entry: Entry, listening: Listening) -> None:
        self._server = grpc.aio.server(options=_options(listening))
        self._server.add_generic_rpc_handlers(tuple(generic_handlers(entry)))
        self._unix_socket = listening.unix_socket
        self.port: int = self._add_tcp(listening) if listening.host else 0
        if self._unix_socket is not None:
            self._add_unix_socket(self._unix_socket)

    async def start(self) -> None:
        """Begins to answer."""
        await self._server.start()

    async def stop(self, grace_s: float) -> None:
        """Closes the addresses; calls still in flight after ``grace_s`` are cancelled."""
        await self._server.stop(grace_s)
        if self._unix_socket is not None:
            self._unix_socket.unlink(missing_ok=True)

    def _add_tcp(self, listening: Listening) -> int:
        address = listening.address
        try:
            if listening.tls is None:
                return self._server.add_insecure_port(address)
            return self._server.add_secure_port(address, server_credentials(listening.tls))
        except RuntimeError as error:
            raise address_refused(address) from error

    def _add_unix_socket(self, path: Path) -> None:
        remove_stale_socket(path)
        try:
            with private_files():
                self._server.add_insecure_port(f"unix:{path}")
        except RuntimeError as error:
            raise socket_refused(path) from error


def _options(listening: Listening) -> tuple[tuple[str, int], ...]:
    limits: LimitsConfig = listening.limits
    options = (
        ("grpc.max_receive_message_length", limits.max_message_bytes),
        ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_concurrent_streams", limits.max_streams),
        ("grpc.server.max_pending_requests", _MAX_PENDING_CALLS),
        ("grpc.server.max_pending_requests_hard_limit", _MAX_PENDING_CALLS),
        ("grpc.max_allowed_incoming_connections", limits.max_connections),
        ("grpc.max_metadata_size", limits.max_metadata_bytes),
        ("grpc.absolute_max_metadata_size", limits.max_metadata_bytes),
        ("grpc.keepalive_time_ms", _KEEPALIVE_MS),
        ("grpc.keepalive_timeout_ms", _KEEPALIVE_TIMEOUT_MS),
        ("grpc.http2.min_ping_interval_without_data_ms", _LEAST_PING_INTERVAL_MS),
        ("grpc.keepalive_permit_without_calls", 1),
        # Otherwise a second server on the same port silently takes half of the connections.
        ("grpc.so_reuseport", int(listening.shares_port)),
    )
    if not limits.max_connection_age_s:
        return options
    return (*options, ("grpc.max_connection_age_ms", int(limits.max_connection_age_s * 1000)))
