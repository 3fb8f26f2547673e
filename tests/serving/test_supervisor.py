"""When a supervisor gives up, and how long it waits before it tries again."""

import asyncio
import os
import signal
import socket
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from hlserve.client import AsyncInferenceClient
from hlserve.errors import UnavailableError
from hlserve.serving.config import ServerConfig
from hlserve.serving.supervisor import RestartPolicy, Supervisor
from tests.serving import models

TIMEOUT_S = 60


def servers() -> set[int]:
    """Our children that are servers."""
    own = Path(f"/proc/{os.getpid()}/task")
    found = {int(pid) for task in own.iterdir() for pid in (task / "children").read_text().split()}
    return {pid for pid in found if is_server(pid)}


def is_server(pid: int) -> bool:
    with suppress(FileNotFoundError):
        return b"--worker-fd" in Path(f"/proc/{pid}/cmdline").read_bytes()
    return False


def test_a_server_whose_processes_die_again_and_again_gives_up_and_ends_all(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    models.put(tmp_path, "mlp", models.mlp())
    config = ServerConfig(models=tmp_path, port=0, processes=2)
    command = (sys.executable, "-m", "hlserve", "serve", str(tmp_path), "--processes", "2")

    async def kill_on_sight() -> None:
        while True:
            for pid in servers():
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            await asyncio.sleep(0.01)

    async def law() -> None:
        policy = RestartPolicy(most_quick_deaths=3, first_delay_s=0.01)
        supervisor = Supervisor(config, command, policy)
        killing: list[asyncio.Task[None]] = []
        with pytest.raises(UnavailableError, match=r"signal SIGKILL soon after.*3 times in a row"):
            await supervisor.run(lambda: killing.append(asyncio.create_task(kill_on_sight())))
        killing[0].cancel()
        with socket.socket() as free:
            free.bind((config.host, supervisor.port))

    asyncio.run(asyncio.wait_for(law(), TIMEOUT_S))
    assert servers() == set()
    assert "another is started" in caplog.text


def test_restarts_wait_longer_after_each_quick_death_and_not_at_all_after_a_long_life() -> None:
    policy = RestartPolicy(first_delay_s=0.1, most_delay_s=1.0)
    assert [policy.delay_s(n) for n in range(7)] == [0, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0]


def test_an_address_of_another_machine_is_told(tmp_path: Path) -> None:
    async def law() -> None:
        config = ServerConfig(models=tmp_path, host="192.0.2.1", processes=2)
        with pytest.raises(
            UnavailableError, match=r"cannot listen on 192\.0\.2\.1:8001: Cannot as"
        ):
            Supervisor(config, ())

    asyncio.run(law())


def test_counts_of_a_process_that_died_stay_in_the_sum(tmp_path: Path) -> None:
    models.put(tmp_path, "mlp", models.mlp())
    config = ServerConfig(models=tmp_path, port=0, processes=2)
    command = (sys.executable, "-m", "hlserve", "serve", str(tmp_path), "--processes", "2")
    rows = {"input": np.zeros((1, 8), np.float32)}

    async def infer(port: int) -> None:
        """By connections of their own, so that both processes get some."""
        for _ in range(20):
            async with AsyncInferenceClient(f"127.0.0.1:{port}", timeout_s=20) as client:
                await client.infer("mlp", rows)

    async def snapshot(supervisor: Supervisor) -> tuple[set[int], int]:
        taken = await supervisor.snapshot()
        return set(taken.pids), taken.models[0].inference_count

    async def law() -> None:
        ready = asyncio.Event()
        supervisor = Supervisor(config, command)
        running = asyncio.create_task(supervisor.run(ready.set))
        await ready.wait()
        await infer(supervisor.port)
        before, count = await snapshot(supervisor)
        assert (before, count) == (servers(), 20)
        os.kill(min(before), signal.SIGKILL)
        now = before
        while len(now - before) < 1:
            now, count = await snapshot(supervisor)
            assert count == 20
        await infer(supervisor.port)
        assert await snapshot(supervisor) == (now, 40)
        os.kill(os.getpid(), signal.SIGTERM)
        assert await running

    asyncio.run(asyncio.wait_for(law(), TIMEOUT_S))
