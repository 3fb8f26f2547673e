"""What ``session.run`` alone costs, in a process of its own: ``serving_floors MODEL ROWS SECONDS``.

Prints CPU and time of a run as JSON. No protocol, no queue, no copies: the floor of every server
that runs the network.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks import serving_model as model

WARM_UP_RUNS = 50


@dataclass(frozen=True, slots=True)
class Floor:
    """Seconds of one run of so many rows; CPU time is user and system time."""

    rows: int
    cpu_s: float
    p50_s: float
    p99_s: float


def floor(file: Path, rows: int, *, seconds: float, core: str) -> Floor:
    """Measures it on ``core``."""
    words = (
        *("taskset", "--cpu-list", core, sys.executable, "-m", "benchmarks.serving_floors"),
        *(str(file), str(rows), str(seconds)),
    )
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    return Floor(**json.loads(done.stdout))


# ----- below


def _main() -> None:
    file, rows, seconds = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    session = model.session_of(file)
    values = [exchange.rows for exchange in model.exchanges(file, rows)]
    for index in range(WARM_UP_RUNS):
        session.run(None, {model.INPUT: values[index % len(values)]})
    took: list[float] = []
    cpu, end = time.process_time(), time.perf_counter() + seconds
    while (start := time.perf_counter()) < end:
        session.run(None, {model.INPUT: values[len(took) % len(values)]})
        took.append(time.perf_counter() - start)
    cpu = (time.process_time() - cpu) / len(took)
    p50, p99 = np.quantile(took, (0.5, 0.99))
    print(json.dumps({"rows": rows, "cpu_s": cpu, "p50_s": float(p50), "p99_s": float(p99)}))


if __name__ == "__main__":
    _main()
