"""Several processes behind one port: started, restarted, drained and ended together."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import msgspec

from hlserve.errors import UnavailableError
from hlserve.serving.config import ServerConfig
from hlserve.serving.control import SNAPSHOT_PATH, Answered, Control
from hlserve.serving.metrics import MetricsServer, from_other_threads
from hlserve.serving.snapshot import Snapshot
from hlserve.serving.switchboard import HUNG_S, Switchboard
from hlserve.serving.totals import Totals

# On top of the drain timeout: a process that is then still there is killed.
_END_GRACE_S = 5.0

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """When a process that died is started again.

    Attributes:
        quick_s: one that took traffic for less time died quickly.
        most_quick_deaths: in a row, of one process; then the server gives up.
        first_delay_s: before a restart after a quick death; doubles with each.
        most_delay_s: the longest delay.
        hung_s: one that does not answer a call that is for all, for so long, is replaced.
    """

    quick_s: float = 10.0
    most_quick_deaths: int = 6
    first_delay_s: float = 0.1
    most_delay_s: float = 5.0
    hung_s: float = HUNG_S

    def delay_s(self, quick_deaths: int) -> float:
        """How long to wait before the next start."""
        if quick_deaths == 0:
            return 0.0
        return min(self.most_delay_s, self.first_delay_s * 2.0 ** (quick_deaths - 1))


class Supervisor:
    """Keeps ``config.processes`` processes on one port. Make it inside a running event loop.

    Args:
        config: what they serve, and where.
        command: starts a process; after its word ``serve``, ``--worker-port`` and ``--worker-fd``
            are put in, since at its end they could be taken for arguments.
        policy: of restarts.

    Raises:
        UnavailableError: the address cannot be bound.
    """

    def __init__(
        self,
        config: ServerConfig,
        command: Sequence[str],
        policy: RestartPolicy = RestartPolicy(),
    ) -> None:
        self._config = config
        self._command = tuple(command)
        self._policy = policy
        self._reserved = _reserve(config.host, config.port)
        self.port: int = self._reserved.getsockname()[1]
        self._switchboard = Switchboard(policy.hung_s)
        self._stopping = asyncio.Event()
        self._processes: dict[int, asyncio.subprocess.Process] = {}
        self._is_clean = True
        self._metrics: MetricsServer | None = None
        self._totals = Totals()
        self._one_snapshot_at_a_time = asyncio.Lock()

    async def run(self, on_ready: Callable[[], None]) -> bool:
        """Serves until SIGTERM or SIGINT, then drains; a second signal ends all at once.

        Args:
            on_ready: called once, when every process takes traffic.

        Returns:
            Whether every process answered everything that was in flight.

        Raises:
            UnavailableError: the port for metrics cannot be bound, or a process could not start
                or died again and again.
        """
        self._on_signals()
        self._start_metrics()
        started = [asyncio.Event() for _ in range(self._config.processes)]
        kept = [asyncio.create_task(self._keep(n, event)) for n, event in enumerate(started)]
        telling = asyncio.create_task(_tell(started, on_ready))
        try:
            await asyncio.gather(*kept)
        finally:
            telling.cancel()
            self._stopping.set()
            self._signal_all(signal.SIGTERM)
            await asyncio.wait(kept)
            if self._metrics is not None:
                await asyncio.to_thread(self._metrics.close)
            self._reserved.close()
        return self._is_clean

    async def snapshot(self) -> Snapshot:
        """What all processes have done so far, those that died or are late as they last told."""
        async with self._one_snapshot_at_a_time:
            outcomes = await self._switchboard.gather(SNAPSHOT_PATH, b"")
            answers = [outcome.response for outcome in outcomes if isinstance(outcome, Answered)]
            taken = [msgspec.msgpack.decode(answer, type=Snapshot) for answer in answers]
            alive = {p.pid for p in self._processes.values() if p.returncode is None}
            return self._totals.update(taken, alive)

    def _start_metrics(self) -> None:
        wanted = self._config.metrics
        if wanted is None or wanted.port is None:
            return
        snapshot = from_other_threads(self.snapshot, asyncio.get_running_loop())
        self._metrics = MetricsServer(snapshot, wanted.address(self._config.host), wanted.port)
        _LOG.info("metrics on port %d", self._metrics.port)

    async def _keep(self, number: int, started: asyncio.Event) -> None:
        """One process after another in one place."""
        quick_deaths = 0
        while not self._stopping.is_set():
            process, lived_s = await self._live(number, started)
            if self._stopping.is_set():
                # Ended by the signal before it took traffic: nothing was in flight.
                self._is_clean &= process.returncode == 0 or lived_s is None
                return
            self._check_start(number, process, started)
            is_quick = lived_s is None or lived_s < self._policy.quick_s
            quick_deaths = quick_deaths + 1 if is_quick and process.returncode else 0
            ended = _ending(process.returncode)
            if quick_deaths >= self._policy.most_quick_deaths:
                raise UnavailableError(
                    f"process {number} ended with {ended} soon after its start, {quick_deaths} "
                    "times in a row: the server gives up, the log says what each one said"
                )
            _LOG.error("process %d ended with %s: another is started", number, ended)
            await self._wait_s(self._policy.delay_s(quick_deaths))

    async def _live(
        self, number: int, started: asyncio.Event
    ) -> tuple[asyncio.subprocess.Process, float | None]:
        """A process from its start to its end, and how long it took traffic."""
        ours, theirs = socket.socketpair()
        with theirs:
            process = await asyncio.create_subprocess_exec(
                *self._worker_command(theirs.fileno()),
                pass_fds=(theirs.fileno(),),
                start_new_session=True,  # a Ctrl-C is ours alone to pass on
            )
        self._processes[number] = process
        if self._stopping.is_set():
            process.terminate()
        since: list[float] = []
        is_replaced = asyncio.Event()

        def on_listening() -> None:
            since.append(time.monotonic())
            started.set()

        def on_out_of_step() -> None:
            _terminate(process)
            is_replaced.set()

        line = asyncio.create_task(
            self._switchboard.connect(
                Control(*await asyncio.open_unix_connection(sock=ours)),
                on_listening=on_listening,
                on_out_of_step=on_out_of_step,
            )
        )
        await self._ended(process, is_replaced)
        await line
        return process, time.monotonic() - since[0] if since else None

    def _worker_command(self, descriptor: int) -> tuple[str, ...]:
        after = self._command.index("serve") + 1
        told = ("--worker-port", str(self.port), "--worker-fd", str(descriptor))
        return (*self._command[:after], *told, *self._command[after:])

    async def _ended(self, process: asyncio.subprocess.Process, is_replaced: asyncio.Event) -> None:
        """Waits for a process to end; kills one that was told to and outlasts the drain."""
        waiting = asyncio.ensure_future(process.wait())
        told = [asyncio.ensure_future(event.wait()) for event in (self._stopping, is_replaced)]
        await asyncio.wait((waiting, *told), return_when=asyncio.FIRST_COMPLETED)
        for each in told:
            each.cancel()
        timeout_s = self._config.drain_timeout_s + _END_GRACE_S
        done, _ = await asyncio.wait((waiting,), timeout=timeout_s)
        if not done:
            _LOG.error("process id %d does not end after %g s: killed", process.pid, timeout_s)
            process.kill()
            await waiting

    def _check_start(
        self, number: int, process: asyncio.subprocess.Process, started: asyncio.Event
    ) -> None:
        """One that cannot start the first time will not the second: a wrong setting, mostly."""
        if not started.is_set():
            raise UnavailableError(
                f"process {number} ended with {_ending(process.returncode)} before it could "
                "serve: its reason is above"
            )

    async def _wait_s(self, delay_s: float) -> None:
        """Waits, or until the server stops."""
        if delay_s:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), delay_s)

    def _signal_all(self, number: int) -> None:
        for process in self._processes.values():
            if process.returncode is None:
                with suppress(ProcessLookupError):
                    process.send_signal(number)

    def _on_signals(self) -> None:
        loop = asyncio.get_running_loop()

        def stop(number: int) -> None:
            if self._stopping.is_set():
                self._signal_all(signal.SIGKILL)
                os._exit(128 + number)  # asked twice: what is in flight is given up
            _LOG.info("draining %d processes", len(self._processes))
            self._stopping.set()
            self._signal_all(signal.SIGTERM)

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop, number)


# ----- below


async def _tell(started: Sequence[asyncio.Event], on_ready: Callable[[], None]) -> None:
    for event in started:
        await event.wait()
    on_ready()


def _terminate(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        with suppress(ProcessLookupError):
            process.terminate()


def _ending(code: int | None) -> str:
    if code is not None and code < 0:
        return f"signal {signal.Signals(-code).name}"
    return f"exit code {code}"


def _reserve(host: str, port: int) -> socket.socket:
    """A bound socket that never listens: it keeps the port while processes come and go.

    Raises:
        UnavailableError: the address cannot be bound, or somebody else listens there.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        # Sharing would succeed beside another server of ours, and take half of its connections.
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
        reserved = socket.socket(family, kind, protocol)
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        reserved.bind(address)
    except OSError as error:
        raise UnavailableError(f"cannot listen on {host}:{port}: {error.strerror}") from error
    return reserved
