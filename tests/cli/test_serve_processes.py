"""``hlserve serve --processes``: one port, and processes that come, die, drain and end together."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest

from hlserve.client import InferenceClient
from hlserve.pb.messages import inference
from hlserve.serving.server import TRANSPORTS
from tests.serving import models

TIMEOUT_S = 60
COMMAND = (sys.executable, "-m", "hlserve", "serve")
READY = "/inference.GRPCInferenceService/ServerReady"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    models.put(folder, "mlp", models.mlp())
    models.put(folder, "slow", models.slow())
    return folder


@pytest.fixture(autouse=True, params=TRANSPORTS)
def transport(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each transport, for every process that a test starts."""
    monkeypatch.setenv("HLSERVE_TRANSPORT", request.param)


@contextmanager
def served(*arguments: object) -> Iterator[tuple[subprocess.Popen[str], str]]:
    process = subprocess.Popen(
        [*COMMAND, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        yield process, process.stdout.readline().rsplit(" ", 1)[-1].strip()
    finally:
        process.kill()
        process.communicate(timeout=TIMEOUT_S)


def children(process: subprocess.Popen[str]) -> set[int]:
    return {
        int(pid)
        for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    }


def wait_until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + TIMEOUT_S
    while not holds():
        assert time.monotonic() < end, "it did not happen in time"
        threading.Event().wait(0.02)


def wait_for_line(process: subprocess.Popen[str], words: str) -> None:
    """Reads the log up to a line that holds the words."""
    assert process.stderr is not None
    assert any(words in line for line in process.stderr), f"the log ended without {words!r}"


def is_gone(pid: int) -> bool:
    """No process any more, or one that has ended and is not waited for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except FileNotFoundError:
        return True


def answers(address: str) -> bool:
    """By a connection of its own: the kernel gives each to one of the processes."""
    with grpc.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
        return bool(channel.unary_unary(READY)(b"", timeout=TIMEOUT_S))


def inode(link: Path) -> str:
    try:
        return os.readlink(link).removeprefix("socket:[").removesuffix("]")
    except FileNotFoundError:  # closed meanwhile
        return ""


def connections(pids: set[int], port: int) -> dict[int, int]:
    """How many sockets of the port each process holds, listening or connected."""
    tables = [Path(f"/proc/net/{name}").read_text() for name in ("tcp", "tcp6")]
    rows = [row.split() for table in tables for row in table.splitlines()[1:]]
    found = {}
    for pid in pids:
        inodes = set(map(inode, Path(f"/proc/{pid}/fd").iterdir()))
        found[pid] = sum(row[9] in inodes and row[1].endswith(f":{port:04X}") for row in rows)
    return found


def test_processes_share_a_port_and_a_killed_one_is_replaced(root: Path) -> None:
    with served(root, "--port", "0", "--processes", "2") as (process, address):
        before = children(process)
        assert len(before) == 2
        port = int(address.rsplit(":", 1)[1])
        held = connections(before, port)
        assert all(held.values()), "each process listens"
        assert all(answers(address) for _ in range(20))

        killed = min(before)
        os.kill(killed, signal.SIGKILL)
        wait_until(lambda: len(children(process) - before) == 1)
        assert answers(address)
        (fresh,) = children(process) - before
        wait_until(lambda: connections({fresh}, port)[fresh] > 0)
        assert all(answers(address) for _ in range(20))

        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=TIMEOUT_S)
        assert process.returncode == 0
        assert "ended with signal SIGKILL: another is started" in log
        assert all(is_gone(pid) for pid in before | {fresh})


def test_sigterm_drains_every_process_and_a_second_one_ends_at_once(root: Path) -> None:
    arguments = ("--port", "0", "--processes", "2")
    with served(root, *arguments) as (process, address), InferenceClient(address) as client:
        got: list[object] = []
        inputs = models.slow_inputs(30_000)
        thread = threading.Thread(target=lambda: got.append(client.infer("slow", inputs)))
        workers = children(process)
        thread.start()
        wait_until(lambda: max(map(cpu_ticks, workers)) > 0 and busy(workers))
        process.send_signal(signal.SIGTERM)
        thread.join(TIMEOUT_S)
        assert len(got) == 1
        assert process.wait(TIMEOUT_S) == 0
    with served(root, *arguments) as (process, address), InferenceClient(address) as client:
        workers = children(process)
        caught: list[BaseException] = []

        def infer() -> None:
            try:
                client.infer("slow", models.slow_inputs(2**40))
            except Exception as error:
                caught.append(error)

        thread = threading.Thread(target=infer)
        thread.start()
        wait_until(lambda: busy(workers))
        process.send_signal(signal.SIGTERM)
        # Of two signals that wait, the kernel delivers the lower number first: SIGINT would be
        # the first that is seen where a loaded machine has not run the process in between.
        wait_for_line(process, "draining 2 processes")
        process.send_signal(signal.SIGINT)
        assert process.wait(TIMEOUT_S) == 128 + signal.SIGINT
        thread.join(TIMEOUT_S)
        assert len(caught) == 1
        wait_until(lambda: all(is_gone(pid) for pid in workers))


def cpu_ticks(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().split()[13])


def busy(pids: set[int]) -> bool:
    """Whether a run goes on: a process used 50 ms of CPU within 100 ms."""
    before = {pid: cpu_ticks(pid) for pid in pids}
    threading.Event().wait(0.1)
    return any(cpu_ticks(pid) >= ticks + 4 for pid, ticks in before.items())


def test_processes_end_with_their_supervisor(root: Path) -> None:
    with served("--port", "0", "--processes", "2", "--", root) as (process, address):
        assert answers(address)
        workers = children(process)
        process.kill()
        wait_until(lambda: all(is_gone(pid) for pid in workers))


def test_the_port_of_another_server_is_not_shared(root: Path) -> None:
    with served(root, "--port", "0", "--processes", "2") as (_, address):
        port = address.rsplit(":", 1)[1]
        ran = subprocess.run(
            [*COMMAND, str(root), "--port", port, "--processes", "2"],
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
        )
    assert ran.returncode == 1
    assert f"error: cannot listen on {address}: Address already in use" in ran.stderr


def test_a_process_that_cannot_start_ends_all_with_its_reason(tmp_path: Path) -> None:
    models.put(tmp_path, "bad", b"junk")
    ran = subprocess.run(
        [*COMMAND, str(tmp_path), "--port", "0", "--processes", "2"],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    assert ran.returncode == 1
    assert "error: no model in" in ran.stderr
    assert "before it could serve: its reason is above" in ran.stderr
    assert "Traceback" not in ran.stderr
    assert "never retrieved" not in ran.stderr


def test_a_setting_holds_in_every_process_and_in_one_started_later(root: Path) -> None:
    service = "/inference.GRPCInferenceService/SystemSharedMemory"
    region = Path("/dev/shm") / f"hlserve-test-{os.getpid()}"
    region.write_bytes(bytes(16))
    register = inference.SystemSharedMemoryRegisterRequest(
        name="r", key=region.name, byte_size=16
    ).SerializeToString()

    def call(address: str, name: str, request: bytes = b"") -> bytes:
        with grpc.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
            answer: bytes = channel.unary_unary(service + name)(request, timeout=TIMEOUT_S)
            return answer

    try:
        with served(root, "--port", "0", "--processes", "2", "--system-shared-memory") as (
            process,
            address,
        ):
            workers = children(process)
            port = int(address.rsplit(":", 1)[1])
            call(address, "Register", register)
            # By as many connections, one process alone would answer all once in 2^29.
            assert all(call(address, "Status") for _ in range(30))
            os.kill(min(workers), signal.SIGKILL)
            wait_until(lambda: len(children(process) - workers) == 1)
            (fresh,) = children(process) - workers
            wait_until(lambda: connections({fresh}, port)[fresh] > 0)
            assert all(call(address, "Status") for _ in range(30))
            with pytest.raises(grpc.RpcError) as caught:
                call(address, "Register", register)
            assert caught.value.code() == grpc.StatusCode.ALREADY_EXISTS
            assert "registered already" in caught.value.details()
    finally:
        region.unlink()
