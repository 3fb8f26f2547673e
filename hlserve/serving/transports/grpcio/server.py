"""The grpc.aio server: a port, options, start and stop."""

from __future__ import annotations

import grpc

from hlserve.codec import MAX_MESSAGE_BYTES
from hlserve.errors import UnavailableError
from hlserve.serving.transports.entry import Entry
from hlserve.serving.transports.grpcio.handlers import generic_handlers

_OPTIONS = (
    # grpcio's 4 MB default refuses a batch of ordinary images.
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    # Otherwise a second server on the same port silently takes half of the connections.
    ("grpc.so_reuseport", 0),
)


class GrpcioServer:
    """Listens on one address.

    Args:
        entry: what answers.
        host: address to bind.
        port: 0 = a free one.

    Raises:
        UnavailableError: the address cannot be bound.
    """

    def __init__(self, entry: Entry, host: str, port: int) -> None:
        self._server = grpc.aio.server(options=_OPTIONS)
        self._server.add_generic_rpc_handlers(tuple(generic_handlers(entry)))
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            self.port: int = self._server.add_insecure_port(address)
        except RuntimeError as error:
            raise UnavailableError(
                f"cannot listen on {address}: the port is in use, or the address is not this "
                "machine's"
            ) from error

    async def start(self) -> None:
        """Begins to answer."""
        await self._server.start()

    async def stop(self, grace_s: float) -> None:
        """Closes the port; calls still in flight after ``grace_s`` are cancelled."""
        await self._server.stop(grace_s)
