"""The servers that the serving benchmark compares, and how each is started.

Each serves the one ONNX file over gRPC, through ONNX Runtime on one thread, but for the canned
server, which answers without looking.
"""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import trustme

from benchmarks import serving_model as model

ROOT = Path(__file__).resolve().parent.parent
PEERS = Path(__file__).resolve().parent / "serving_peers"
BINARIES = ROOT / "build" / "serving"

OURS, PLAIN, SECURE, TWO = "ours", "ours, no metrics", "ours, TLS", "ours, two processes"
INTERPRETED = "not compiled"
GRPCIO, MLSERVER, KSERVE, CANNED = "grpcio", "mlserver", "kserve", "canned-c++"


class CannotServeError(Exception):
    """A server is not there to be measured; the message says why."""


@dataclass(frozen=True, slots=True)
class World:
    """What the servers are started with.

    Attributes:
        folder: a temporary one; ``models`` in it is the repository.
        transport: of our server.
        exchanges: requests of one row, with their answers.
        code: where our server's code lies.
    """

    folder: Path
    transport: str
    exchanges: list[model.Exchange]
    code: Path = ROOT

    @property
    def file(self) -> Path:
        """The ONNX file."""
        return self.folder / "models" / model.NAME / "1" / "model.onnx"


@dataclass(frozen=True, slots=True)
class Command:
    """What to run; ``port`` 0: the first line that it prints ends with the address."""

    words: tuple[str, ...]
    port: int = 0
    environment: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Subject:
    """One server of the comparison.

    Attributes:
        name: its column.
        command: raises ``CannotServeError`` where something that it needs is missing.
        is_canned: answers are not computed.
        is_tls: answers over TLS only.
    """

    name: str
    command: Callable[[World], Command]
    is_canned: bool = False
    is_tls: bool = False


def subjects() -> tuple[Subject, ...]:
    """Every server there is to compare."""
    return (
        Subject(OURS, _ours()),
        Subject(PLAIN, _ours("--no-metrics")),
        Subject(SECURE, _ours_secure, is_tls=True),
        Subject(TWO, _ours("--processes", "2")),
        Subject(INTERPRETED, _interpreted),
        Subject(GRPCIO, _grpcio),
        Subject(MLSERVER, _mlserver),
        Subject(KSERVE, _kserve),
        Subject(CANNED, _canned, is_canned=True),
    )


# ----- below


def _ours(*options: str) -> Callable[[World], Command]:
    return lambda world: _serve(world, world.transport, options)


def _interpreted(world: World) -> Command:
    if world.code == ROOT:
        raise CannotServeError("our own is not compiled either")
    return _serve(replace(world, code=ROOT), world.transport, ())


def _grpcio(world: World) -> Command:
    return _serve(world, "grpcio", ())


def _ours_secure(world: World) -> Command:
    authority, folder = trustme.CA(), world.folder
    certificate = authority.issue_cert("127.0.0.1", "localhost")
    certificate.private_key_pem.write_to_path(folder / "key.pem")
    for index, blob in enumerate(certificate.cert_chain_pems):
        blob.write_to_path(folder / "certificate.pem", append=index > 0)
    files = ("--tls-cert", str(folder / "certificate.pem"), "--tls-key", str(folder / "key.pem"))
    return _serve(world, world.transport, files)


def _serve(world: World, transport: str, options: tuple[str, ...]) -> Command:
    words = (
        *(sys.executable, "-m", "hlserve", "serve", str(world.folder / "models")),
        *("--port", "0", "--transport", transport, "--log-level", "error", *options),
    )
    environment = {
        "HLSERVE_METRICS_PORT": "0",  # several of them run at once: each takes a free one
        "PYTHONPATH": str(world.code),
        "PYTHONSAFEPATH": "1",  # not the folder that the benchmark was started in
    }
    return Command(words, environment=environment)


def _mlserver(world: World) -> Command:
    python = _interpreter(".venv-mlserver")
    port, folder = _free_port(), world.folder / "mlserver"
    folder.mkdir(exist_ok=True)
    ports = {"grpc_port": port, "http_port": _free_port(), "metrics_port": _free_port()}
    # debug would log every request; with 0 workers the model runs in the server's own process.
    settings = {**ports, "host": "127.0.0.1", "debug": False, "parallel_workers": 0}
    (folder / "settings.json").write_text(json.dumps(settings))
    runtime = {
        "name": model.NAME,
        "implementation": "mlserver_runtime.OnnxRuntime",
        "parameters": {"uri": str(world.file), "version": "1"},
    }
    (folder / "model-settings.json").write_text(json.dumps(runtime))
    words = (str(python.parent / "mlserver"), "start", str(folder))
    return Command(words, port, {"PYTHONPATH": str(PEERS)})


def _kserve(world: World) -> Command:
    python, port = _interpreter(".venv-kserve"), _free_port()
    words = (
        *(str(python), str(PEERS / "kserve_server.py"), model.NAME, str(world.file)),
        *("--http_port", str(_free_port()), "--grpc_port", str(port)),
    )
    return Command(words, port)


def _canned(world: World) -> Command:
    program = BINARIES / "canned_server"
    if not program.exists():
        raise CannotServeError(f"no {program.relative_to(ROOT)}: make serving-peers")
    answers = model.write_canned(world.folder, world.exchanges[0])
    return Command((str(program), *(str(path) for path in answers)))


def _interpreter(environment: str) -> Path:
    python = ROOT / environment / "bin" / "python"
    if not python.exists():
        raise CannotServeError(f"no {environment}: make serving-peers")
    if not (python.parent.parent / ".ready").exists():
        raise CannotServeError(f"{environment} is not whole: make serving-peers")
    return python


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
