"""When a supervisor gives up, and how long it waits before it tries again."""

import asyncio
import os
import signal
import socket
import sys
from contextlib import suppress
from pathlib import Path

import grpc
import numpy as np
import pytest

from hlserve.client import AsyncInferenceClient
from hlserve.errors import UnavailableError
from hlserve.pb.messages import inference
from hlserve.rpcs import find
from hlserve.serving.config import ServerConfig
from hlserve.serving.supervisor import RestartPolicy, Supervisor
from tests.serving import models

TIMEOUT_S = 60
LOG_SETTINGS = find("LogSettings")


def servers() -> set[int]:
    """Our children that are servers."""
    found: set[int] = set()
    for task in Path(f"/proc/{os.getpid()}/task").iterdir():
        with suppress(FileNotFoundError):  # a thread that has just ended
            found.update(map(int, (task / "children").read_text().split()))
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


def test_a_process_that_hangs_when_all_are_called_is_killed_and_replaced(tmp_path: Path) -> None:
    models.put(tmp_path, "mlp", models.mlp())
    config = ServerConfig(models=tmp_path, port=0, processes=2, drain_timeout_s=0)
    command = (sys.executable, "-m", "hlserve", "serve", str(tmp_path), "--processes", "2")
    request = inference.LogSettingsRequest()
    request.settings["log_info"].bool_param = False

    async def call(address: str) -> str:
        """By a connection of its own: some go to the process that hangs, until it is killed."""
        options = [("grpc.use_local_subchannel_pool", 1)]
        async with grpc.aio.insecure_channel(address, options) as channel:
            try:
                await channel.unary_unary(LOG_SETTINGS.path)(
                    request.SerializeToString(), timeout=TIMEOUT_S
                )
            except grpc.aio.AioRpcError as error:
                return error.details() or ""
        return "done"

    async def law() -> None:
        ready = asyncio.Event()
        supervisor = Supervisor(config, command, RestartPolicy(hung_s=1))
        running = asyncio.create_task(supervisor.run(ready.set))
        await ready.wait()
        before = servers()
        hanging = min(before)
        os.kill(hanging, signal.SIGSTOP)
        said = await asyncio.gather(*(call(f"127.0.0.1:{supervisor.port}") for _ in range(20)))
        (told,) = (words for words in said if "did not answer within 1 s" in words)
        assert told.startswith("it failed in 1 of 2 processes, which are being replaced")
        assert "done" in said, "the calls behind it were held up no longer"
        while len(servers() - before) < 1:
            await supervisor.snapshot()
        assert hanging not in servers()
        os.kill(os.getpid(), signal.SIGTERM)
        await running

    asyncio.run(asyncio.wait_for(law(), TIMEOUT_S))
