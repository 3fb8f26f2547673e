"""Build, run, drain: the only place where the server's objects are wired together."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from hlserve.repository import Repository
from hlserve.serving.config import ServerConfig, Transport
from hlserve.serving.dataplane import DataPlane
from hlserve.serving.model import ServedModel
from hlserve.serving.providers import execution_providers
from hlserve.serving.store import ModelStore
from hlserve.serving.transports.calls import Calls
from hlserve.serving.transports.entry import Entry
from hlserve.serving.transports.grpcio import GrpcioServer
from hlserve.serving.transports.http2 import Http2Server

TRANSPORTS: dict[Transport, type[GrpcioServer] | type[Http2Server]] = {
    "grpcio": GrpcioServer,
    "http2": Http2Server,
}

# After the last answer was made, its bytes still have to leave.
_LAST_BYTES_GRACE_S = 1.0

# New objects between two searches for cycles; Python's 700 are made by a dozen requests.
_GARBAGE_THRESHOLD = 50_000

_LOG = logging.getLogger(__name__)


class Server:
    """A model repository behind a port. Make it inside a running event loop.

    Args:
        config: everything it can be told.

    Raises:
        ConfigError: there is no such provider.
        ProviderError: this installation does not have the provider.
        RepositoryError: the repository is no folder, or holds no model.
        UnavailableError: the address cannot be bound.
    """

    def __init__(self, config: ServerConfig) -> None:
        execution_providers(config.provider)  # one clear error, not one a model
        self._config = config
        self._executor = ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="hlserve-run")
        self._store = ModelStore(Repository(config.models), config, self._executor)
        self._data_plane = DataPlane(self._store)
        entry = Entry(Calls(self._data_plane))
        make = TRANSPORTS[config.transport]
        self._transport = make(entry, config.host, config.port)

    @property
    def port(self) -> int:
        """The port that was bound."""
        return self._transport.port

    @property
    def models(self) -> list[ServedModel]:
        """What answers."""
        return self._store.ready_models()

    async def start(self) -> None:
        """Listens at once, so that liveness can be asked, then loads; ready when it returns.

        Raises:
            RepositoryError: no model could be loaded.
        """
        await self._transport.start()
        await asyncio.to_thread(self._store.load_all)

    async def drain(self) -> bool:
        """Not ready first; requests in flight finish; then the port closes.

        Returns:
            Whether everything in flight was answered within the drain timeout.
        """
        self._data_plane.begin_drain()
        is_clean = await self._data_plane.drained(self._config.drain_timeout_s)
        if not is_clean:
            _LOG.warning(
                "requests were still running after %g s: ended", self._config.drain_timeout_s
            )
        await self._transport.stop(_LAST_BYTES_GRACE_S if is_clean else 0)
        self._executor.shutdown(wait=is_clean, cancel_futures=True)
        return is_clean


async def serve(config: ServerConfig, *, on_ready: Callable[[Server], None]) -> bool:
    """Serves until SIGTERM or SIGINT, then drains; a second signal ends the process at once.

    Args:
        config: everything the server can be told.
        on_ready: called once, when requests are taken.

    Returns:
        Whether everything in flight at the end was answered.

    Raises:
        RepositoryError: no model could be loaded.
        UnavailableError: the address cannot be bound.
    """
    stopping = asyncio.Event()
    _on_signals(stopping)
    server = Server(config)
    loading = asyncio.ensure_future(server.start())
    stopped = asyncio.ensure_future(stopping.wait())
    await asyncio.wait((loading, stopped), return_when=asyncio.FIRST_COMPLETED)
    try:
        await loading  # a signal while loading: the load cannot be interrupted, only waited for
        _settle_garbage()
        if not stopping.is_set():
            on_ready(server)
        await stopped
        _LOG.info("draining")
    finally:
        stopped.cancel()
        is_clean = await server.drain()
    return is_clean


def _settle_garbage() -> None:
    """What was loaded stays, and requests make few cycles: to look for them often costs time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_GARBAGE_THRESHOLD)


def _on_signals(stopping: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()

    def stop(number: int) -> None:
        if stopping.is_set():
            os._exit(128 + number)  # asked twice: what is in flight is given up
        stopping.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop, number)
