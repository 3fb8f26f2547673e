"""Metrics for Prometheus, scraped over HTTP on a port of their own.

Nothing is added to a request but one count: a scrape takes a snapshot of the statistics on the
event loop, where they change, and renders it in the scrape's own thread.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import Any

from hlserve.errors import UnavailableError
from hlserve.serving.host import CpuClock
from hlserve.serving.snapshot import Snapshot
from hlserve.serving.transports.context import CallContext
from hlserve.serving.transports.stage import Stage
from hlserve.serving.transports.status import outcome_of

PATH = "/metrics"

# A snapshot takes microseconds once the loop turns; a loop that has not turned for so long hangs.
_SNAPSHOT_TIMEOUT_S = 10.0
_IDLE_CONNECTION_S = 10.0
_CLOSE_WITHIN_S = 0.25  # how often the thread looks whether it shall end

_LOG = logging.getLogger(__name__)


class CallCounter(Stage):
    """A stage that counts calls by service, method and status; the outermost sees every refusal."""

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, str, str]] = Counter()

    def end(self, context: CallContext, begun: object, error: BaseException | None) -> None:
        """Counts one."""
        rpc = context.rpc
        self.counts[rpc.service, rpc.name, outcome_of(error)] += 1


def from_other_threads(
    snapshot: Callable[[], Snapshot] | Callable[[], Awaitable[Snapshot]],
    loop: asyncio.AbstractEventLoop,
) -> Callable[[], Snapshot]:
    """A way to have ``snapshot`` taken on the loop, where statistics change."""

    async def on_loop() -> Snapshot:
        taken = snapshot()
        return taken if isinstance(taken, Snapshot) else await taken

    def from_thread() -> Snapshot:
        future = asyncio.run_coroutine_threadsafe(on_loop(), loop)
        try:
            return future.result(_SNAPSHOT_TIMEOUT_S)
        finally:
            future.cancel()

    return from_thread


class MetricsServer:
    """Answers GET /metrics, in threads, from when it is made.

    Args:
        snapshot: called in a thread for every scrape.
        host: address to bind.
        port: 0 = a free one.

    Raises:
        UnavailableError: the address cannot be bound.
    """

    def __init__(self, snapshot: Callable[[], Snapshot], host: str, port: int) -> None:
        server = _Http6 if ":" in host else _Http4
        try:
            self._http = server((host, port), partial(_Scrape, snapshot, CpuClock()))
        except OSError as error:
            raise UnavailableError(
                f"cannot serve metrics on {host}:{port}: {error.strerror or error}; choose another "
                "--metrics-port, or --no-metrics"
            ) from error
        self.port: int = self._http.server_address[1]
        self._server_thread = threading.Thread(
            target=self._http.serve_forever,
            kwargs={"poll_interval": _CLOSE_WITHIN_S},
            name="hlserve-metrics",
            daemon=True,
        )
        self._server_thread.start()

    def close(self) -> None:
        """Closes the port."""
        self._http.shutdown()
        self._http.server_close()
        self._server_thread.join()


# ----- below: HTTP -----


class _Scrape(BaseHTTPRequestHandler):
    """One connection."""

    timeout = _IDLE_CONNECTION_S  # a peer that says nothing does not hold its thread for ever
    server_version = "hlserve"
    sys_version = ""

    def __init__(self, snapshot: Callable[[], Snapshot], clock: CpuClock, *connection: Any) -> None:
        self._snapshot = snapshot
        self._clock = clock
        super().__init__(*connection)

    def do_GET(self) -> None:
        """Answers a scrape."""
        if self.path.partition("?")[0] != PATH:
            return self._answer(HTTPStatus.NOT_FOUND, f"only {PATH} is here\n".encode())
        # 40 ms of imports, taken by the first scrape and not by the start.
        from hlserve.serving.exposition import render

        try:
            snapshot = self._snapshot()
        except Exception as error:  # the loop hangs or has ended: no reason to end anything else
            _LOG.warning("no metrics for a scrape: %s", str(error) or type(error).__name__)
            return self._answer(HTTPStatus.SERVICE_UNAVAILABLE, b"the server is busy\n")
        text, content_type = render(snapshot, self._clock, self.headers.get("Accept", ""))
        return self._answer(HTTPStatus.OK, text, content_type)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: a scrape every few seconds is no news."""

    def _answer(self, status: HTTPStatus, body: bytes, content_type: str = "text/plain") -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class _Http4(ThreadingHTTPServer):
    request_queue_size = 64

    def server_bind(self) -> None:
        """Binds, and asks no DNS for this machine's name, which may take seconds."""
        TCPServer.server_bind(self)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A scraper that hung up: no traceback on stderr."""
        _LOG.debug("a scrape from %s failed", client_address, exc_info=True)


class _Http6(_Http4):
    address_family = socket.AF_INET6
