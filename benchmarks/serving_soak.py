"""Does a server stay right and stay the same size under everything that happens to a server?

    make soak
    PYTHONPATH=. .venv/bin/python -m benchmarks.serving_soak --minutes 30 --json soak.json

One server a transport, all at once, each under explicit model control. Against each: clients that
check every answer (unary and streamed, six models), a client that is killed in mid-request again
and again, one that sends bad requests, one that sends garbage instead of HTTP/2, and one that
reloads models, unloads one and loads it again, and sends loads that must fail. The server's
memory, threads and descriptors are sampled twice a second.

Must be: no wrong answer, no lost request, memory flat after the warm-up (the first third), no more
threads and descriptors at the end than after it. Requests in flight hold memory and give it back;
what stays is what was held when least was, so the lowest samples are compared; the medians stand
beside them.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tabulate import tabulate
from tqdm import tqdm

from benchmarks import serving_soak_models as models

SAMPLE_EVERY_S = 0.5
WARM_UP_SHARE = 1 / 3
MAX_GROWTH = 0.02  # of the memory that stays, between the parts after the warm-up
# What a client connection in flight may add at the moment of the last sample.
SPARE_DESCRIPTORS, SPARE_THREADS = 8, 2
STEADY_CLIENTS = 2


@dataclass(frozen=True, slots=True)
class Sample:
    """The server's process at one moment."""

    seconds: float
    resident_mb: float
    threads: int
    descriptors: int


@dataclass(slots=True)
class Report:
    """One transport's half hour."""

    transport: str
    counts: dict[str, int] = field(default_factory=dict)
    complaints: list[str] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    after: Sample | None = None
    exit_code: int | None = None

    def add(self, counts: dict[str, int], complaints: Sequence[str]) -> None:
        """Adds what one client counted."""
        for name, count in counts.items():
            self.counts[name] = self.counts.get(name, 0) + count
        self.complaints += complaints

    def growth(self, of: Callable[[Iterable[float]], float]) -> float:
        """Resident memory of the last sixth over that of the sixth after the warm-up, less one.

        Args:
            of: what stands for a sixth: its least sample, or the median.
        """
        steady = self.samples[int(len(self.samples) * WARM_UP_SHARE) :]
        part = max(1, len(steady) // 4)
        first, last = (
            of(sample.resident_mb for sample in some) for some in (steady[:part], steady[-part:])
        )
        return last / first - 1

    def failures(self) -> list[str]:
        """What must not be."""
        found = [f"{name}: {self.counts[name]}" for name in ("wrong", "lost") if self.counts[name]]
        if self.growth(min) > MAX_GROWTH:
            found.append(f"the memory that stays grew by {self.growth(min):.1%}")
        start = self.samples[int(len(self.samples) * WARM_UP_SHARE)]
        assert self.after is not None
        if self.after.threads > start.threads + SPARE_THREADS:
            found.append(f"threads: {start.threads} became {self.after.threads}")
        if self.after.descriptors > start.descriptors + SPARE_DESCRIPTORS:
            found.append(f"descriptors: {start.descriptors} became {self.after.descriptors}")
        if self.exit_code != 0:
            found.append(f"the server ended with {self.exit_code}")
        return found


def main() -> int:
    """Soaks, prints the table, and answers 1 where something must not be."""
    args = _arguments()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        models.write(root)
        reports = _soak(root, args)
    rows = [_row(report) for report in reports]
    print(tabulate(rows, headers="keys", floatfmt=".1f"))
    if args.json:
        Path(args.json).write_text(json.dumps([asdict(report) for report in reports]))
    failures = [f"{r.transport}: {what}" for r in reports for what in r.failures()]
    for line in (*failures, *(c for r in reports for c in r.complaints[:5])):
        print(line, file=sys.stderr)
    return 1 if failures else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--transports", default="grpcio,http2")
    parser.add_argument("--json", default="", help="where samples and counts go")
    return parser.parse_args()


def _soak(root: Path, args: argparse.Namespace) -> list[Report]:
    reports = [Report(transport) for transport in args.transports.split(",")]
    end = time.monotonic() + args.minutes * 60
    with ExitStack() as stack:
        running = [(r, *stack.enter_context(_server(root, r))) for r in reports]
        clients = [
            (report, role, _client(role, root, address, end, number))
            for report, _, address in running
            for number, role in enumerate(_roles())
        ]
        _watch(running, clients, root, end)
        for report, process, _ in running:
            time.sleep(1)  # the last connections close
            report.after = _sample(process.pid, time.monotonic())
    return reports


def _roles() -> list[str]:
    return ["steady"] * STEADY_CLIENTS + ["bad", "control", "garbage", "killed"]


@contextmanager
def _server(root: Path, report: Report) -> Iterator[tuple[subprocess.Popen[str], str]]:
    command = [
        *(sys.executable, "-m", "hlserve", "serve", str(root / "models"), "--port", "0"),
        *("--model-control", "explicit", "--load-model", "*"),
        *("--metrics-port", "0", "--log-level", "error"),
        # One killed client's requests alone fill the default queue, and a refusal counts as lost.
        *("--max-queue-rows", "262144"),
    ]
    if report.transport != "grpcio":
        command += ["--transport", report.transport]
    with (root / f"{report.transport}.log").open("w") as log:  # every failing load has its line
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
    assert process.stdout is not None
    line = process.stdout.readline()
    if "serving" not in line:
        raise SystemExit(f"the server did not start: {' '.join(command)}")
    try:
        yield process, line.split()[-1]
    finally:
        process.send_signal(signal.SIGTERM)
        report.exit_code = process.wait(timeout=60)


def _client(role: str, root: Path, address: str, end: float, seed: int) -> subprocess.Popen[str]:
    seconds = max(1.0, end - time.monotonic())
    command = [
        *(sys.executable, "-m", "benchmarks.serving_soak_clients", role),
        *(address, str(root / "models"), str(seconds), str(seed)),
    ]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def _watch(running: list[Any], clients: list[Any], root: Path, end: float) -> None:
    """Samples until the end, starts the killed client again and again, gathers the counts."""
    addresses = {id(report): address for report, _, address in running}
    started = time.monotonic()
    with tqdm(total=round(end - started), unit="s", disable=None) as bar:
        while (now := time.monotonic()) < end:
            for report, process, _ in running:
                report.samples.append(_sample(process.pid, now - started))
            for index, (report, role, process) in enumerate(clients):
                if role == "killed" and process.poll() is not None:
                    report.add({"killed": 1}, [])
                    again = _client(role, root, addresses[id(report)], end, int(now * 1000))
                    clients[index] = (report, role, again)
            bar.update(round(now - started) - bar.n)
            time.sleep(SAMPLE_EVERY_S)
    for report, role, process in clients:
        output, _ = process.communicate(timeout=120)
        if role == "killed":
            continue
        if process.returncode != 0:
            report.add({"lost": 1}, [f"the {role} client ended with {process.returncode}"])
            continue
        counted = json.loads(output)
        report.add(counted["counts"], counted["complaints"])


def _sample(pid: int, seconds: float) -> Sample:
    status = Path(f"/proc/{pid}/status").read_text()
    facts = dict(line.split(":", 1) for line in status.splitlines())
    return Sample(
        seconds,
        int(facts["VmRSS"].split()[0]) / 1024,
        int(facts["Threads"]),
        len(os.listdir(f"/proc/{pid}/fd")),
    )


def _row(report: Report) -> dict[str, object]:
    steady = report.samples[int(len(report.samples) * WARM_UP_SHARE) :]
    assert report.after is not None
    return {
        "transport": report.transport,
        **report.counts,
        "MB after warm-up": steady[0].resident_mb,
        "MB at the end": steady[-1].resident_mb,
        "growth of what stays %": report.growth(min) * 100,
        "of the median %": report.growth(statistics.median) * 100,
        "threads": f"{steady[0].threads} -> {report.after.threads}",
        "descriptors": f"{steady[0].descriptors} -> {report.after.descriptors}",
        "exit": report.exit_code,
    }


if __name__ == "__main__":
    raise SystemExit(main())
