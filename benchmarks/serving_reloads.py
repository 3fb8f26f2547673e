"""Reloads under load: failed requests, memory and latency while a model is swapped again and again.

``python -m benchmarks.serving_reloads [--reloads 1000] [--json FILE]``: a server with explicit
model control in this process, a second process whose threads ask it without a pause, and one load
of the model after the other. It prints a table, and exits with 1 where a request or a reload
failed, or memory grew by more than 1 % once warm.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import shutil
import statistics
import tempfile
import threading
import time
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from hlserve import datatypes
from hlserve.client import InferenceClient
from hlserve.errors import HlserveError
from hlserve.serving.config import ControlConfig, ServerConfig
from hlserve.serving.server import Server

MODEL = Path(__file__).resolve().parent.parent / "models" / "digits"
MAX_GROWTH = 0.01
STEADY_S = 10.0
# Allocators, caches and thread pools find their size within so many reloads.
WARM_UP_RELOADS = 100
_MEMORY_SAMPLES = 10  # the median of so many reloads' ends


@dataclass(frozen=True, slots=True)
class Phase:
    """What the clients saw in one phase; times in milliseconds."""

    requests: int
    failed: int
    first_failure: str
    p50_ms: float
    p99_ms: float
    max_ms: float


@dataclass(frozen=True, slots=True)
class Findings:
    """What came of it all; memory in bytes."""

    reloads: int
    failed_reloads: int
    reload_p50_ms: float
    reload_p99_ms: float
    memory_warm: int
    memory_end: int
    steady: Phase
    reloading: Phase

    @property
    def growth(self) -> float:
        """Of memory, from warm to the end; 0.01 = 1 %."""
        return self.memory_end / self.memory_warm - 1

    @property
    def holds(self) -> bool:
        """Whether nothing failed and memory is flat."""
        failed = self.failed_reloads + self.steady.failed + self.reloading.failed
        return not failed and self.growth <= MAX_GROWTH


def main() -> int:
    """Measures, prints, writes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reloads", type=int, default=1000)
    parser.add_argument("--warm-up", type=int, default=WARM_UP_RELOADS, help="reloads before")
    parser.add_argument("--threads", type=int, default=4, help="clients")
    parser.add_argument("--model", type=Path, default=MODEL, help="a model's folder")
    parser.add_argument("--json", type=Path, help="where the figures go")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        shutil.copytree(options.model, Path(root) / "m")
        findings = asyncio.run(
            measure(Path(root), options.reloads, options.warm_up, options.threads)
        )
    print(table(findings))
    if options.json is not None:
        figures = asdict(findings) | {"growth": findings.growth}
        options.json.write_text(json.dumps(figures, indent=2) + "\n")
    return 0 if findings.holds else 1


async def measure(root: Path, reloads: int, warm_up: int, threads: int) -> Findings:
    """Serves, asks from another process, and reloads."""
    control = ControlConfig(mode="explicit", load_models=("m",))
    server = Server(ServerConfig(models=root, port=0, control=control))
    await server.start()
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(
        target=ask_until_told, args=(f"127.0.0.1:{server.port}", threads, theirs)
    )
    process.start()
    try:
        await _phase(ours)  # the process is up, its first requests are answered
        await asyncio.sleep(STEADY_S)
        steady = await _phase(ours)
        await _reload(server, warm_up)
        await _phase(ours)
        memory_warm = await _memory(server)
        took_ms, failed = await _reload(server, reloads)
        reloading = await _phase(ours)
        memory_end = await _memory(server)
    finally:
        ours.send("end")
        await asyncio.to_thread(process.join)
        await server.drain()
    return Findings(
        reloads=reloads,
        failed_reloads=failed,
        reload_p50_ms=float(np.percentile(took_ms, 50)),
        reload_p99_ms=float(np.percentile(took_ms, 99)),
        memory_warm=memory_warm,
        memory_end=memory_end,
        steady=steady,
        reloading=reloading,
    )


def table(findings: Findings) -> str:
    """The figures, for people."""
    rows = [f"{'':<12}{'requests':>10}{'failed':>8}{'p50 ms':>9}{'p99 ms':>9}{'max ms':>9}"]
    for name, phase in (("steady", findings.steady), ("reloading", findings.reloading)):
        rows.append(
            f"{name:<12}{phase.requests:>10}{phase.failed:>8}{phase.p50_ms:>9.2f}"
            f"{phase.p99_ms:>9.2f}{phase.max_ms:>9.2f}"
        )
        if phase.failed:
            rows.append(f"  the first failure: {phase.first_failure}")
    mib = 2**20
    rows.append(
        f"{findings.reloads} reloads, {findings.failed_reloads} failed, p50 "
        f"{findings.reload_p50_ms:.1f} ms, p99 {findings.reload_p99_ms:.1f} ms; memory "
        f"{findings.memory_warm / mib:.1f} -> {findings.memory_end / mib:.1f} MiB "
        f"({findings.growth:+.2%}); p99 of requests x{_p99_ratio(findings):.2f}"
    )
    return "\n".join(rows)


def ask_until_told(address: str, threads: int, pipe: Connection) -> None:
    """The other process: threads that ask without a pause; answers every word with a Phase."""
    recorder = _Recorder()
    stopping = threading.Event()
    asking = [
        threading.Thread(target=_ask, args=(address, recorder, stopping)) for _ in range(threads)
    ]
    for thread in asking:
        thread.start()
    recorder.has_answers.wait(30)
    while pipe.recv() != "end":
        pipe.send(recorder.take())
    stopping.set()
    for thread in asking:
        thread.join()


# ----- below: the two sides


class _Recorder:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._times_s: list[float] = []
        self._failures: list[str] = []
        self.has_answers = threading.Event()

    def add(self, seconds: float, failure: str | None) -> None:
        with self._lock:
            self._times_s.append(seconds)
            if failure is not None:
                self._failures.append(failure)
        self.has_answers.set()

    def take(self) -> Phase:
        with self._lock:
            times_s, self._times_s = self._times_s, []
            failures, self._failures = self._failures, []
        p50_ms, p99_ms, max_ms = np.percentile(times_s or [0.0], [50, 99, 100]) * 1e3
        first = failures[0] if failures else ""
        return Phase(
            len(times_s), len(failures), first, float(p50_ms), float(p99_ms), float(max_ms)
        )


def _ask(address: str, recorder: _Recorder, stopping: threading.Event) -> None:
    with InferenceClient(address, timeout_s=10) as client:
        rng = np.random.default_rng(0)
        rows = {
            tensor.name: rng.random([1 if dim < 0 else dim for dim in tensor.shape]).astype(
                datatypes.by_name(tensor.datatype).dtype
            )
            for tensor in client.model_metadata("m").inputs
        }
        while not stopping.is_set():
            started_s = time.perf_counter()
            failure = None
            try:
                client.infer("m", rows)
            except HlserveError as error:
                failure = str(error)
            recorder.add(time.perf_counter() - started_s, failure)


async def _phase(pipe: Connection) -> Phase:
    pipe.send("phase")
    phase = await asyncio.to_thread(pipe.recv)
    assert isinstance(phase, Phase)
    return phase


async def _reload(server: Server, times: int) -> tuple[list[float], int]:
    took_ms, failed = [], 0
    for _ in range(times):
        started_s = time.perf_counter()
        try:
            await server.data_plane.load_model("m")
        except HlserveError:
            failed += 1
        took_ms.append((time.perf_counter() - started_s) * 1e3)
    return took_ms, failed


async def _memory(server: Server) -> int:
    samples = []
    for _ in range(_MEMORY_SAMPLES):
        await _reload(server, 1)
        resident_pages = int(Path("/proc/self/statm").read_text().split()[1])
        samples.append(resident_pages * os.sysconf("SC_PAGE_SIZE"))
    return round(statistics.median(samples))


def _p99_ratio(findings: Findings) -> float:
    return findings.reloading.p99_ms / findings.steady.p99_ms


if __name__ == "__main__":
    raise SystemExit(main())
