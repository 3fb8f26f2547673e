"""Training time against PyTorch (eager, Adam fused=True) and scikit-learn, as ratios in one run.

    .venv-parity/bin/python benchmarks/training.py --data ../shared/data/fashion-mnist

Every library trains in a process of its own, pinned to as many cores as it may use; pairs are
interleaved and the table shows the median of the pairs' ratios (median epoch of each run).
Beside it stands the floor: the network's GEMM FLOPs over the GEMM peak measured in this run.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from tabulate import tabulate

ROOT = Path(__file__).resolve().parent.parent
MODELS = ("mlp", "mlp1024", "lenet5", "lstm:128", "resnet8")
TRAIN_ROWS = 60_000


def main() -> None:
    """Runs the pairs and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--data",
        type=Path,
        default=Path(os.environ.get("HLSERVE_SHARED", ROOT / "../shared"))
        / "data"
        / "fashion-mnist",
    )
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--peers", default="torch,sklearn")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rows", type=int, default=TRAIN_ROWS, help="of an epoch")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    peak = _gemm_peak(args.threads)
    rows: list[dict[str, Any]] = []
    for model in args.models.split(","):
        for peer in args.peers.split(","):
            if peer == "sklearn" and not model.startswith("mlp"):
                continue
            rows.append(_compare(model, peer, args, peak))
            print(tabulate(rows[-1:], headers="keys", floatfmt=".2f"), flush=True)
    print(f"\nGEMM peak {peak / 1e9:.0f} GFLOP/s, {args.threads} thread(s)")
    print(tabulate(rows, headers="keys", floatfmt=".2f"))
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1))


def _compare(model: str, peer: str, args: argparse.Namespace, peak: float) -> dict[str, Any]:
    runs: dict[str, list[dict[str, Any]]] = {"hlserve": [], peer: []}
    for pair in range(args.pairs):
        for side in ("hlserve", peer) if pair % 2 == 0 else (peer, "hlserve"):
            runs[side].append(_child(side, model, args))
    ours = [statistics.median(r["seconds"]) for r in runs["hlserve"]]
    theirs = [statistics.median(r["seconds"]) for r in runs[peer]]
    # forward, dW and dX of every layer but the first, which needs no dX: 3 GEMMs a layer at most
    floor = 3 * 2 * runs["hlserve"][0]["macs"] * args.rows / peak
    return {
        "model": model,
        "peer": peer,
        "threads": args.threads,
        "rows": args.rows,
        "ours s/epoch": statistics.median(ours),
        "peer s/epoch": statistics.median(theirs),
        "ratio": statistics.median(a / b for a, b in zip(ours, theirs, strict=True)),
        "floor s": floor,
        "ours MB": max(r["peak_mb"] for r in runs["hlserve"]),
        "peer MB": max(r["peak_mb"] for r in runs[peer]),
        "ours acc %": 100 * statistics.median(r["accuracy"] for r in runs["hlserve"]),
        "peer acc %": 100 * statistics.median(r["accuracy"] for r in runs[peer]),
    }


def _child(side: str, model: str, args: argparse.Namespace) -> dict[str, Any]:
    threads = str(args.threads)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": threads}
    environment["OPENBLAS_NUM_THREADS"] = threads
    command = [sys.executable, str(ROOT / "benchmarks/training_child.py"), side, model]
    command += [str(args.data), "--epochs", str(args.epochs), "--threads", threads]
    command += ["--rows", str(args.rows)]
    cores = sorted(os.sched_getaffinity(0))[-args.threads :]
    done = subprocess.run(
        command,
        env=environment,
        capture_output=True,
        text=True,
        preexec_fn=lambda: os.sched_setaffinity(0, cores),
    )
    if done.returncode:
        raise SystemExit(f"{side} {model} failed:\n{done.stderr}")
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def _gemm_peak(threads: int) -> float:
    """FLOP/s of a large float32 product with this many BLAS threads."""
    from threadpoolctl import threadpool_limits

    n = 2048
    rng = np.random.default_rng(0)
    a, b = (rng.random((n, n), np.float32) for _ in range(2))
    out = np.empty((n, n), np.float32)
    times = []
    with threadpool_limits(threads):
        for _ in range(7):
            start = time.perf_counter()
            np.matmul(a, b, out=out)
            times.append(time.perf_counter() - start)
    return 2 * n**3 / min(times)


if __name__ == "__main__":
    main()
