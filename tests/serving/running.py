"""A real server on a free port, in a thread with an event loop of its own."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hlserve.serving.config import ServerConfig
from hlserve.serving.server import Server, loop_factory


@dataclass(frozen=True)
class RunningServer:
    address: str
    server: Server
    loop: asyncio.AbstractEventLoop


@contextmanager
def running_server(models: Path, **options: Any) -> Iterator[RunningServer]:
    config = ServerConfig(models=models, port=0, **options)
    loop = (loop_factory(config.wire) or asyncio.new_event_loop)()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    def run(coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, loop).result(timeout=30)

    async def start() -> Server:
        server = Server(config)
        try:
            await server.start()
        except BaseException:
            await server.drain()
            raise
        return server

    try:
        server = run(start())
        try:
            yield RunningServer(f"127.0.0.1:{server.port}", server, loop)
        finally:
            run(server.drain())
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
