"""A load on a running server, and what it cost: ``benchmarks/cpp/load_client.cc`` from Python."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

from benchmarks.serving_servers import Running
from benchmarks.serving_subjects import BINARIES, CannotServeError


@dataclass(frozen=True, slots=True)
class Load:
    """What is asked of a server.

    Attributes:
        connections, in_flight: HTTP/2 connections, and requests (or streams) on each.
        rows: of a request.
        is_streamed: by ModelStreamInfer, the next message when the answer has come.
        differs: id, trace context and deadline are another at every request...
        indexes: ...and go into HPACK's table, as grpc-go does; gRPC's C-core does not.
        rate: requests a second of an open loop; 0: a closed one.
    """

    connections: int = 4
    in_flight: int = 8
    rows: int = 1
    is_streamed: bool = False
    differs: bool = False
    indexes: bool = False
    rate: float = 0.0


@dataclass(frozen=True, slots=True)
class Cost:
    """What one run came to; times in seconds.

    Attributes:
        answered: requests, or messages of streams, in the window.
        server_cpu_s, client_cpu_s: user and system time of all their threads in the window.
        p50_s, p99_s: from the moment a request was due to its answer.
    """

    answered: int
    seconds: float
    server_cpu_s: float
    client_cpu_s: float
    p50_s: float
    p99_s: float

    @property
    def cpu_us(self) -> float:
        """Of the server, microseconds a request."""
        return self.server_cpu_s / self.answered * 1e6

    @property
    def per_second(self) -> float:
        """Answers a second."""
        return self.answered / self.seconds


class WrongAnswerError(Exception):
    """The server answered wrongly or with an error under load; the message is the first."""


@dataclass(frozen=True, slots=True)
class Client:
    """The load client.

    Attributes:
        folder: where the files of requests are, ``requests-ROWS.bin``.
        cores: that it is pinned to.
        seconds: of the window.
    """

    folder: Path
    cores: str
    seconds: float

    def run(self, server: Running, load: Load, *, seed: int = 0, cores: str = "") -> Cost:
        """Loads the server for the window, after a warm-up of a quarter of it.

        Raises:
            WrongAnswerError: an answer was an error or wrong.
            CannotServeError: no answers at all.
        """
        words = (
            *("taskset", "--cpu-list", cores or self.cores, str(BINARIES / "load_client")),
            *("--port", str(server.port), "--requests", str(requests_file(self.folder, load.rows))),
            *("--connections", str(load.connections), "--in-flight", str(load.in_flight)),
            *("--seconds", str(self.seconds), "--warm-up", str(self.seconds / 4)),
            *("--pids", ",".join(map(str, server.pids())), "--seed", str(seed)),
            *_flags(server, load),
        )
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise CannotServeError(done.stderr.strip() or f"the client ended {done.returncode}")
        told = json.loads(done.stdout)
        wrong, complaint = told.pop("wrong"), told.pop("complaint")
        if wrong:
            raise WrongAnswerError(f"{wrong} of {told['answered']} wrong: {complaint}")
        if not told["answered"]:
            raise CannotServeError("nothing was answered")
        return Cost(**told)


def requests_file(folder: Path, rows: int) -> Path:
    """Where the requests of so many rows are."""
    return folder / f"requests-{rows}.bin"


# ----- below


def _flags(server: Running, load: Load) -> list[str]:
    flags = {
        "--streamed": load.is_streamed,
        "--differs": load.differs,
        "--indexes": load.indexes,
        "--unchecked": server.subject.is_canned,
        "--tls": server.subject.is_tls,
    }
    given = [flag for flag, is_set in flags.items() if is_set]
    return [*given, "--rate", str(load.rate)] if load.rate else given
