"""Build, run, drain: the only place where the server's objects are wired together."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from hlserve.repository import Repository
from hlserve.serving.batching import RunThreads
from hlserve.serving.config import ServerConfig, Wire
from hlserve.serving.dataplane import DataPlane
from hlserve.serving.keys import ApiKeys
from hlserve.serving.listening import Listening
from hlserve.serving.loading import share_heaps
from hlserve.serving.logs import CallLog
from hlserve.serving.metrics import CallCounter, MetricsServer, from_other_threads
from hlserve.serving.model import ServedModel
from hlserve.serving.providers import execution_providers
from hlserve.serving.shared_memory import SharedMemory
from hlserve.serving.snapshot import Snapshot, take
from hlserve.serving.store import ModelStore
from hlserve.serving.transports.admission import Admission
from hlserve.serving.transports.authorization import Authorization
from hlserve.serving.transports.calls import Calls
from hlserve.serving.transports.entry import Answering, Entry
from hlserve.serving.transports.everywhere import EverywhereCalls
from hlserve.serving.transports.stage import Stage
from hlserve.serving.worker import Worker

if TYPE_CHECKING:
    from hlserve.serving.tracing import Tracing
    from hlserve.serving.transports.grpcio import GrpcioServer
    from hlserve.serving.transports.http2 import Http2Server


def _grpcio() -> type[GrpcioServer]:
    from hlserve.serving.transports.grpcio import GrpcioServer

    return GrpcioServer


def _http2() -> type[Http2Server]:
    from hlserve.serving.transports.http2 import Http2Server

    return Http2Server


# Functions, so that a server imports the one that it serves by: each takes some 40 ms.
TRANSPORTS: dict[Wire, Callable[[], type[GrpcioServer] | type[Http2Server]]] = {
    "grpcio": _grpcio,
    "http2": _http2,
}

# After the last answer was made, its bytes still have to leave: a slow reader gets what is left of
# the drain timeout within these bounds, and a stream that its client keeps open holds up no longer.
_LAST_BYTES_GRACE_S = (1.0, 5.0)

# New objects between two searches for cycles; Python's 700 are made by a dozen requests.
_GARBAGE_THRESHOLD = 50_000

_LOG = logging.getLogger(__name__)


class Server:
    """A model repository behind a port. Make it inside a running event loop.

    Args:
        config: everything it can be told.
        worker: the way to the other processes that serve the same port; None: there are none.

    Raises:
        ConfigError: there is no such provider.
        MissingDependencyError: traces are asked for without the extra otel.
        ProviderError: this installation does not have the provider.
        RepositoryError: the repository is no folder, or holds no model.
        UnavailableError: the address cannot be bound.
    """

    def __init__(self, config: ServerConfig, worker: Worker | None = None) -> None:
        execution_providers(config.provider)  # one clear error, not one a model
        self._config = config
        self._threads = RunThreads(config.threads or os.cpu_count() or 1)
        self._store = ModelStore(Repository(config.models), config, self._threads)
        self._tracing = self._make_tracing()
        self._data_plane = DataPlane(
            self._store,
            control=config.control.mode,
            shared_memory=SharedMemory(is_on=config.shared_memory),
            settings=self._tracing.settings if self._tracing else None,
            max_tensor_elements=config.limits.max_tensor_elements,
        )
        self._watching: asyncio.Task[None] | None = None
        self._calls = Calls(
            self._data_plane, config.limits.max_tensor_elements, config.limits.max_message_bytes
        )
        self._call_counter = CallCounter()
        self._metrics: MetricsServer | None = None
        self._worker = worker
        # One process of several takes no connection before it can answer: others do.
        self._transport = None if worker else self._make_transport(self._calls)

    @property
    def port(self) -> int:
        """The port that was bound."""
        return 0 if self._transport is None else self._transport.port

    @property
    def address(self) -> str:
        """Where it listens, for people."""
        unix_socket = self._config.unix_socket
        addresses = [f"{self._config.host}:{self.port}"] if self._config.host else []
        addresses += [f"unix:{unix_socket}"] if unix_socket is not None else []
        return " and ".join(addresses)

    @property
    def metrics_port(self) -> int | None:
        """The port where metrics are; None: they are not served."""
        return None if self._metrics is None else self._metrics.port

    def snapshot(self) -> Snapshot:
        """What the models have done so far; call it on the event loop."""
        return take(self._store.ready_models(), self._call_counter.counts)

    @property
    def models(self) -> list[ServedModel]:
        """What answers."""
        return self._store.ready_models()

    @property
    def data_plane(self) -> DataPlane:
        """What every transport calls."""
        return self._data_plane

    async def start(self) -> None:
        """Listens at once, so that liveness can be asked, then loads; ready when it returns.

        Raises:
            RepositoryError: no model could be loaded.
            UnavailableError: the port for metrics cannot be bound.
        """
        self._start_metrics()
        if self._transport is not None:
            await self._transport.start()
        await asyncio.to_thread(self._store.load_all)
        if self._worker is not None:
            calls = EverywhereCalls(self._calls, self._worker, self._encoded_snapshot)
            await self._worker.catch_up(calls.run_here)
            self._transport = self._make_transport(calls)
            await self._transport.start()
            self._worker.listening()
        self._data_plane.readiness.changed()
        self._watching = asyncio.get_running_loop().create_task(self._store.watch())

    async def drain(self) -> bool:
        """Not ready first; requests in flight finish; then the port closes.

        Returns:
            Whether everything in flight was answered within the drain timeout.
        """
        ends = time.monotonic() + self._config.drain_timeout_s
        self._data_plane.begin_drain()
        if self._watching is not None:
            self._watching.cancel()
        self._store.close()
        is_clean = await self._data_plane.drained(self._config.drain_timeout_s)
        if not is_clean:
            _LOG.warning(
                "requests were still running after %g s: ended", self._config.drain_timeout_s
            )
        self._data_plane.readiness.close()
        if self._transport is not None:
            least_s, most_s = _LAST_BYTES_GRACE_S
            left_s = min(max(least_s, ends - time.monotonic()), most_s)
            await self._transport.stop(left_s if is_clean else 0)
        self._threads.shutdown(wait=is_clean)
        if self._metrics is not None:
            await asyncio.to_thread(self._metrics.close)
        if self._tracing is not None:
            await asyncio.to_thread(self._tracing.close)
        return is_clean

    def _encoded_snapshot(self) -> bytes:
        return msgspec.msgpack.encode(self.snapshot())

    def _make_transport(self, calls: Answering) -> GrpcioServer | Http2Server:
        make = TRANSPORTS[self._config.wire]()
        return make(Entry(calls, self._stages(), self._threads.turn), _listening(self._config))

    def _stages(self) -> list[Stage]:
        """What stands around every call, from the outside in."""
        stages: list[Stage] = []
        if self._config.metrics is not None:
            stages.append(self._call_counter)  # outermost: it counts what the others refuse
        stages.append(CallLog(access=self._config.log.access))
        if self._tracing is not None:
            stages.append(self._tracing)
        if self._config.api_key_file is not None:
            stages.append(Authorization(ApiKeys(self._config.api_key_file)))
        stages.append(Admission(self._config.limits))
        return stages

    def _make_tracing(self) -> Tracing | None:
        if self._config.tracing is None:
            return None
        from hlserve.serving.tracing import Tracing  # the extra otel

        return Tracing(self._config.tracing)

    def _start_metrics(self) -> None:
        wanted = self._config.metrics
        if wanted is None or wanted.port is None or self._worker is not None:
            return
        snapshot = from_other_threads(self.snapshot, asyncio.get_running_loop())
        self._metrics = MetricsServer(snapshot, wanted.address(self._config.host), wanted.port)
        _LOG.info("metrics on port %d", self._metrics.port)


def _listening(config: ServerConfig) -> Listening:
    return Listening(
        host=config.host,
        port=config.port,
        unix_socket=config.unix_socket,
        tls=config.tls,
        limits=config.limits,
        shares_port=config.processes > 1,
    )


def loop_factory(wire: Wire) -> Callable[[], asyncio.AbstractEventLoop] | None:
    """For our own transport uvloop's where it is installed; grpcio brings a loop of its own."""
    if wire != "http2":
        return None
    try:
        import uvloop
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


async def serve(
    config: ServerConfig,
    *,
    on_ready: Callable[[Server], None],
    worker_descriptor: int | None = None,
) -> bool:
    """Serves until SIGTERM or SIGINT, then drains; a second signal ends the process at once.

    Args:
        config: everything the server can be told.
        on_ready: called once, when requests are taken.
        worker_descriptor: the inherited channel to the supervisor; None: there is none.

    Returns:
        Whether everything in flight at the end was answered.

    Raises:
        RepositoryError: no model could be loaded.
        UnavailableError: the address cannot be bound.
    """
    share_heaps()
    stopping = asyncio.Event()
    _on_signals(stopping)
    worker = None if worker_descriptor is None else await Worker.connect(worker_descriptor)
    server = Server(config, worker)
    orphaned = asyncio.ensure_future(_end_with_supervisor(worker, stopping))
    loading = asyncio.ensure_future(server.start())
    stopped = asyncio.ensure_future(stopping.wait())
    await asyncio.wait((loading, stopped), return_when=asyncio.FIRST_COMPLETED)
    try:
        await loading  # a signal while loading: the load cannot be interrupted, only waited for
        if config.wire == "http2":
            _settle_garbage()
        if not stopping.is_set():
            on_ready(server)
        await stopped
        _LOG.info("draining")
    finally:
        stopped.cancel()
        orphaned.cancel()
        is_clean = await server.drain()
    return is_clean


async def _end_with_supervisor(worker: Worker | None, stopping: asyncio.Event) -> None:
    if worker is not None:
        await worker.supervisor_gone()
        stopping.set()


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
