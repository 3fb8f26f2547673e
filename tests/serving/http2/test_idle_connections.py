"""As many idle connections as there may be: what they cost, and who is refused."""

import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from hlserve.client import InferenceClient
from hlserve.serving.transports.http2 import Http2Limits
from tests.cli.test_serve import served
from tests.serving import models

MOST = Http2Limits().max_connections
SPARE_FILES = 500  # what a process has open besides
# Measured: 4.7 KB; the kernel counts its buffers elsewhere.
MOST_BYTES_EACH = 12_000
TIMEOUT_S = 60


@pytest.fixture
def files() -> Iterator[None]:
    """As many open files as the system allows, for the processes that the test starts."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < MOST + SPARE_FILES:
        pytest.skip(f"a process may open {hard} files here, expected {MOST + SPARE_FILES}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@contextmanager
def idle(port: str, count: int) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.serving.http2.idle_connections", port, str(count)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == f"{count}\n"
        yield process
    finally:
        process.kill()
        process.communicate(timeout=TIMEOUT_S)


def ask(process: subprocess.Popen[str], question: str) -> str:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(question + "\n")
    process.stdin.flush()
    return process.stdout.readline().strip()


def test_ten_thousand_idle_connections_cost_little_and_one_more_is_refused(
    tmp_path: Path, files: None
) -> None:
    models.put(tmp_path, "mlp", models.mlp())
    rows = np.zeros((1, 8), np.float32)
    with (
        served(tmp_path, "--port", "0", "--transport", "http2") as (server, address),
        InferenceClient(address, timeout_s=TIMEOUT_S) as client,
    ):
        client.infer("mlp", rows)
        before = resident_bytes(server.pid)
        with idle(address.rpartition(":")[2], MOST - 1) as others:  # the client has one too
            each = (resident_bytes(server.pid) - before) / (MOST - 1)
            assert each < MOST_BYTES_EACH, f"{each:.0f} bytes a connection"
            client.infer("mlp", rows)
            assert ask(others, "more") == repr(b"")
            assert ask(others, "ping") == str(MOST - 1)
            client.infer("mlp", rows)
        with InferenceClient(address, timeout_s=TIMEOUT_S) as another:  # there is room again
            another.infer("mlp", rows)


def resident_bytes(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * resource.getpagesize()
