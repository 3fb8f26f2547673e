"""``hlserve serve`` and ``hlserve health`` as processes: start, signals, exit codes."""

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hlserve.cli import cli, run
from hlserve.client import InferenceClient
from hlserve.errors import ServerError
from hlserve.serving.server import TRANSPORTS
from tests.serving import models

TIMEOUT_S = 30


@contextmanager
def served(*arguments: object, **environment: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "hlserve", "serve", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | environment,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        yield process, line.rsplit(" ", 1)[-1].strip()
    finally:
        process.kill()
        process.communicate(timeout=TIMEOUT_S)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    models.put(folder, "mlp", models.mlp())
    models.put(folder, "slow", models.slow())
    return folder


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_request_in_flight_is_answered_before_the_server_ends(root: Path, transport: str) -> None:
    with (
        served(root, "--port", "0", "--transport", transport) as (process, address),
        InferenceClient(address) as client,
    ):
        assert client.is_healthy()
        answers: list[object] = []
        thread = threading.Thread(
            target=lambda: answers.append(client.infer("slow", models.slow_inputs(100_000)))
        )
        idle = cpu_ticks(process)
        thread.start()
        wait_until_busy(process, idle)
        process.send_signal(signal.SIGTERM)
        thread.join(TIMEOUT_S)
        assert process.wait(TIMEOUT_S) == 0
        assert len(answers) == 1


def test_a_run_that_outlasts_the_drain_does_not_outlast_the_server(root: Path) -> None:
    arguments = (root, "--port", "0", "--drain-timeout-s", "0.1")
    with served(*arguments) as (process, address), InferenceClient(address) as client:
        failures: list[ServerError] = []

        def ask() -> None:
            try:
                client.infer("slow", models.slow_inputs(2**40), timeout_s=TIMEOUT_S)
            except ServerError as error:
                failures.append(error)

        thread = threading.Thread(target=ask)
        idle = cpu_ticks(process)
        thread.start()
        wait_until_busy(process, idle)
        process.send_signal(signal.SIGTERM)
        assert process.wait(TIMEOUT_S) == 1
        thread.join(TIMEOUT_S)
        assert len(failures) == 1
        assert process.stderr is not None
        assert "requests were still running after 0.1 s: ended" in process.stderr.read()


def cpu_ticks(process: subprocess.Popen[str]) -> int:
    return int(Path(f"/proc/{process.pid}/stat").read_text().split()[13])


def wait_until_busy(process: subprocess.Popen[str], idle: int) -> None:
    """Until the model runs: the server has used 50 ms of CPU more than when it was idle."""
    while cpu_ticks(process) < idle + 5:
        assert process.poll() is None


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_everything_can_be_said_in_the_environment(root: Path, transport: str) -> None:
    environment = {
        "HLSERVE_MODELS": str(root),
        "HLSERVE_PORT": "0",
        "HLSERVE_LOG_LEVEL": "error",
        "HLSERVE_SYSTEM_SHARED_MEMORY": "true",
        "HLSERVE_TRANSPORT": transport,
    }
    with served(**environment) as (process, address), InferenceClient(address) as client:
        assert run(cli, ["health", address]) == 0
        assert "system_shared_memory" in client.server_metadata().extensions
        process.send_signal(signal.SIGINT)
        assert process.wait(TIMEOUT_S) == 0
        assert run(cli, ["health", address, "--timeout-s", "2"]) == 1


def test_health_of_an_unknown_service_fails(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with served(root, "--port", "0") as (_, address):
        assert run(cli, ["health", address, "--service", "no.such"]) == 1
        assert "service 'no.such' is unknown" in capsys.readouterr().err


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_port_in_use_is_told(root: Path, transport: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        options = ("--port", str(port), "--transport", transport)
        ran = subprocess.run(
            [*(sys.executable, "-m", "hlserve", "serve", root), *options],
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
        )
    assert ran.returncode == 1
    assert f"error: cannot listen on 127.0.0.1:{port}" in ran.stderr
    assert "Traceback" not in ran.stderr


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda root: None, "no models in"),
        (lambda root: models.put(root, "bad", b"junk"), "'bad': version 1: ONNX Runtime cannot"),
        (lambda root: (root / "empty").mkdir(), "'empty': its folder holds no version"),
    ],
)
def test_a_repository_with_nothing_to_serve_fails_with_the_reason(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], prepare: object, message: str
) -> None:
    prepare(tmp_path)  # type: ignore[operator]
    assert run(cli, ["serve", str(tmp_path), "--port", "0"]) == 1
    assert message in capfd.readouterr().err


def test_a_missing_folder_and_a_missing_provider_are_told(
    root: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(cli, ["serve", str(tmp_path / "absent")]) == 1
    assert "is no folder" in capfd.readouterr().err
    assert run(cli, ["serve", str(root), "--port", "0", "--provider", "tpu"]) == 2
    assert "unknown provider 'tpu', expected one of cpu, cuda, tensorrt" in capfd.readouterr().err


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_second_signal_ends_at_once(root: Path, transport: str) -> None:
    with (
        served(root, "--port", "0", "--transport", transport) as (process, address),
        InferenceClient(address) as client,
    ):
        failures: list[ServerError] = []

        def ask() -> None:
            try:
                client.infer("slow", models.slow_inputs(10_000_000), timeout_s=TIMEOUT_S)
            except ServerError as error:
                failures.append(error)

        thread = threading.Thread(target=ask)
        idle = cpu_ticks(process)
        thread.start()
        wait_until_busy(process, idle)
        process.send_signal(signal.SIGTERM)
        while client.is_server_ready():
            pass
        process.send_signal(signal.SIGTERM)
        assert process.wait(TIMEOUT_S) == 128 + signal.SIGTERM
        thread.join(TIMEOUT_S)
        assert failures
        assert failures[0].status == "UNAVAILABLE"


def test_explicit_control_loads_what_is_named(root: Path) -> None:
    options = ("--model-control", "explicit", "--load-model", "mlp")
    with served(root, "--port", "0", *options) as (_, address), InferenceClient(address) as client:
        assert client.is_healthy()
        with pytest.raises(ServerError, match="UNAVAILABLE: model 'slow' is not ready: it is not"):
            client.model_metadata("slow")
        assert client.model_metadata("mlp").name == "mlp"


def test_metrics_are_on_unless_told_otherwise(
    root: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert run(cli, ["serve", str(root), "--port", "0", "--metrics-port", port]) == 1
        message = capfd.readouterr().err
        assert f"cannot serve metrics on 127.0.0.1:{port}" in message
        assert "--no-metrics" in message
        with served(root, "--port", "0", "--metrics-port", port, "--no-metrics") as (_, address):
            assert run(cli, ["health", address]) == 0
