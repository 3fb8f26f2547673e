"""Compresses an MLP and LeNet-5 on the whole of Fashion-MNIST: the table in the README.

    .venv/bin/python benchmarks/compression.py

Original and compressed model are timed against each other in ONNX Runtime in the same run, in
turns, by ``hlserve compress`` itself; the bound is half a point, proven on 10,000 test rows.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tabulate import tabulate

ROOT = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("HLSERVE_SHARED", ROOT / "../shared"))
MODELS = ("mlp:300,100", "lenet5")
BATCHES = (1, 32)


def main() -> None:
    """Trains, compresses and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default=str(SHARED / "data" / "fashion-mnist"))
    parser.add_argument("--max-drop", default="0.5pp")
    parser.add_argument("--models", default=" ".join(MODELS), help="specs, a blank between them")
    args = parser.parse_args()
    rows: list[list[str]] = []
    with tempfile.TemporaryDirectory(prefix="hlserve-bench-") as folder:
        for number, spec in enumerate(args.models.split()):
            run = Path(folder) / f"{number}.safetensors"
            _hlserve("train", "--data", args.data, "--arch", spec, "--out", run)
            report = json.loads(
                _hlserve(
                    *("compress", run, "--data", args.data, "--max-drop", args.max_drop),
                    *("--out", Path(folder) / f"model{number}", "--json"),
                )
            )
            rows += _rows(spec, report)
    headers = ["", "accuracy", "parameters", "bytes", *(f"batch {b}" for b in BATCHES), "drop"]
    print(tabulate(rows, headers=headers, disable_numparse=True))


def _hlserve(*words: object) -> str:
    command = [sys.executable, "-m", "hlserve", *map(str, words)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT).stdout


def _rows(spec: str, report: dict[str, Any]) -> list[list[str]]:
    before, after = report["original"], report["best"]
    smaller = before["size_bytes"] / after["size_bytes"]
    proof = "proven" if report["is_proven"] else "estimated"
    upper = 100 * after["drop_upper"]
    return [
        [
            spec,
            f"{100 * before['value']:.2f} %",
            f"{before['parameters']:,}",
            f"{before['size_bytes']:,}",
            *(f"{1e6 * before['latency_s'][str(b)]:.0f} us" for b in BATCHES),
            "",
        ],
        [
            after["name"],
            f"{100 * after['value']:.2f} %",
            f"{after['parameters']:,}",
            f"{after['size_bytes']:,} ({smaller:.2f}x)",
            *(
                f"{1e6 * after['latency_s'][str(b)]:.0f} us ({after['speed_up'][str(b)]:.2f}x)"
                for b in BATCHES
            ),
            f"{100 * after['drop']:.2f} pp, at most {upper:.2f} ({proof})",
        ],
    ]


main()
