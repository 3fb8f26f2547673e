"""What metrics and histograms cost the server: its CPU time a request, on against off.

    PYTHONPATH=. .venv/bin/python -m benchmarks.serving_metrics

Two servers run side by side, one with ``--no-metrics``; short rounds of load alternate between
them, and the table shows the median of the pairs' ratios. Processes differ by some percent by
where their memory lies, so several pairs of servers are started. One caller: joined requests would
share a run, and the share would be measured instead. A server with metrics is scraped every second
while it is under load. CPU time is the server process' own, from /proc.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tabulate import tabulate

from benchmarks.serving_networks import put, two_layers
from hlserve.bench.load import closed_loop

MODEL = "mlp"
INPUTS, HIDDEN, CLASSES = 784, 128, 10
BOUND = 1.05


@dataclass(frozen=True)
class Serving:
    """A server process that answers."""

    pid: int
    address: str
    metrics: str | None


def main() -> None:
    """Runs the pairs and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--starts", type=int, default=5, help="pairs of servers")
    parser.add_argument("--rounds", type=int, default=6, help="with each pair of servers")
    parser.add_argument("--seconds", type=float, default=1.5, help="of each round")
    parser.add_argument("--callers", type=int, default=1)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    pairs: list[tuple[float, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        # A small network, where what surrounds the run weighs most.
        put(root, MODEL, two_layers(INPUTS, HIDDEN, CLASSES, input_name="input"))
        for _ in range(args.starts):
            with _serve(root, "--metrics-port", "0") as on, _serve(root, "--no-metrics") as off:
                pairs += [_pair(on, off, index, args) for index in range(args.rounds)]
    ratios = [with_it / without for with_it, without in pairs]
    low, _, high = statistics.quantiles(ratios, n=4)
    row = {
        "on, us a request": statistics.median(on for on, _ in pairs) * 1e6,
        "off": statistics.median(off for _, off in pairs) * 1e6,
        "ratio": statistics.median(ratios),
        "quartiles": f"{low:.3f} to {high:.3f}",
        "pairs": len(pairs),
    }
    print(tabulate([row], headers="keys", floatfmt=".3f"))
    print(f"at most {BOUND}: {'yes' if statistics.median(ratios) <= BOUND else 'NO'}")
    if args.json:
        args.json.write_text(json.dumps(row, indent=1))


def _pair(on: Serving, off: Serving, index: int, args: argparse.Namespace) -> tuple[float, float]:
    """Server CPU seconds a request with metrics and without, measured one after the other."""
    order = (on, off) if index % 2 == 0 else (off, on)
    costs = {server.pid: _cost_s(server, args.callers, args.seconds) for server in order}
    return costs[on.pid], costs[off.pid]


def _cost_s(server: Serving, callers: int, seconds: float) -> float:
    rows = np.random.default_rng(0).standard_normal((64, INPUTS)).astype(np.float32)
    with _scraped(server):
        load = closed_loop(
            server.address,
            MODEL,
            {"input": rows},
            callers=callers,
            seconds=seconds,
            server_pid=server.pid,
        )
    cost_s = load.server_cpu_per_request_s
    assert cost_s is not None, "the server's CPU time is read from /proc"
    return cost_s


@contextmanager
def _scraped(server: Serving) -> Iterator[None]:
    """Scrapes once a second in the block."""
    ended = threading.Event()

    def scrape() -> None:
        while server.metrics is not None and not ended.wait(1.0):
            with urllib.request.urlopen(server.metrics, timeout=10) as answer:
                answer.read()

    thread = threading.Thread(target=scrape)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@contextmanager
def _serve(models: Path, *options: str) -> Iterator[Serving]:
    process = subprocess.Popen(
        [sys.executable, "-m", "hlserve", "serve", str(models), "--port", "0", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},
    )
    try:
        assert process.stdout is not None
        assert process.stderr is not None
        address = process.stdout.readline().rsplit(" ", 1)[-1].strip()
        metrics = None
        if "--no-metrics" not in options:
            port = next(
                found[1] for line in process.stderr if (found := re.search(r"on port (\d+)", line))
            )
            metrics = f"http://127.0.0.1:{port}/metrics"
        yield Serving(process.pid, address, metrics)
    finally:
        process.terminate()
        process.communicate(timeout=30)


if __name__ == "__main__":
    main()
