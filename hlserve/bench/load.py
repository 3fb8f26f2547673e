"""A closed loop of callers: each sends its next request when it has the last answer."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hlserve.client import NO_RETRY, InferenceClient
from hlserve.errors import ConfigError, HlserveError

Array = NDArray[Any]

WARM_UP_S = 0.3


@dataclass(frozen=True, slots=True)
class Load:
    """What the callers saw.

    Attributes:
        requests: answered while it was measured.
        seconds: how long that was.
        latencies_s: of each answer.
        server_cpu_s: processor time that the server's process took meanwhile; None where it
            cannot be known.
    """

    requests: int
    seconds: float
    latencies_s: Array
    server_cpu_s: float | None

    @property
    def per_second(self) -> float:
        """Requests answered a second."""
        return self.requests / self.seconds

    @property
    def server_cpu_per_request_s(self) -> float | None:
        """Processor time of the server for one request, seconds."""
        return None if self.server_cpu_s is None else self.server_cpu_s / max(1, self.requests)

    def percentile_s(self, percent: float) -> float:
        """The latency that so many % of the answers kept, seconds."""
        return float(np.percentile(self.latencies_s, percent))


def together(parts: Sequence[Load]) -> Load:
    """Several measurements of one server as one."""
    known = [part.server_cpu_s for part in parts if part.server_cpu_s is not None]
    return Load(
        sum(part.requests for part in parts),
        sum(part.seconds for part in parts),
        np.concatenate([part.latencies_s for part in parts]),
        sum(known) if len(known) == len(parts) else None,
    )


def closed_loop(
    address: str,
    model: str,
    inputs: Mapping[str, Array],
    *,
    callers: int = 2,
    seconds: float = 2.0,
    rows: int = 1,
    server_pid: int | None = None,
) -> Load:
    """Lets ``callers`` threads ask for ``seconds``, each over a connection of its own.

    Args:
        address: ``host:port``.
        model: its name.
        inputs: rows; caller and request choose which of them are sent.
        callers: how many requests are in flight at most.
        seconds: how long it is measured, after a short warm-up.
        rows: of each request.
        server_pid: the server's process on this machine, for its processor time.

    Raises:
        ConfigError: ``inputs`` holds fewer rows than a request.
        HlserveError: what the first failing request said.
    """
    starts = len(next(iter(inputs.values()))) - rows + 1
    if starts < 1:
        raise ConfigError(f"a request is of {rows} rows, and only {starts + rows - 1} are given")
    times: list[list[float]] = [[] for _ in range(callers)]
    failures: list[HlserveError] = []
    measuring, stopping = threading.Event(), threading.Event()

    def call(number: int) -> None:
        turn = number
        with InferenceClient(address, retry=NO_RETRY) as client:  # a retry would hide a failure
            while not stopping.is_set():
                part = slice(turn % starts, turn % starts + rows)
                sent = {name: array[part] for name, array in inputs.items()}
                turn += callers
                started = time.perf_counter()
                try:
                    client.infer(model, sent)
                except HlserveError as error:
                    failures.append(error)
                    stopping.set()
                    return
                if measuring.is_set():
                    times[number].append(time.perf_counter() - started)

    threads = [threading.Thread(target=call, args=(n,), daemon=True) for n in range(callers)]
    for thread in threads:
        thread.start()
    stopping.wait(WARM_UP_S)
    cpu = process_cpu_s(server_pid)
    started = time.perf_counter()
    measuring.set()
    stopping.wait(seconds)
    measuring.clear()
    elapsed = time.perf_counter() - started
    spent = process_cpu_s(server_pid)
    stopping.set()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    latencies = np.array([one for part in times for one in part])
    used = None if cpu is None or spent is None else spent - cpu
    return Load(len(latencies), elapsed, latencies, used)


def process_cpu_s(pid: int | None) -> float | None:
    """User and system time of a process so far, from /proc; None where there is no such file."""
    if pid is None:
        return None
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()  # the name may hold anything, so count behind it
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
