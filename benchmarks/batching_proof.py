"""The proof of batching at length: a million random requests, each answer compared.

    PYTHONPATH=. .venv/bin/python benchmarks/batching_proof.py

What ``tests/serving/test_batching_proof.py`` does with ten thousand: random models, shapes, rows,
outputs, priorities, deadlines, timeouts and cancellations at once through the data plane; every
answer is compared with what ONNX Runtime gives for each row alone. Ends with 1 if one is wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tabulate import tabulate
from tqdm import tqdm

from hlserve.repository import Repository
from hlserve.serving.batching import RunThreads
from hlserve.serving.batching_config import BatchingConfig
from hlserve.serving.config import ServerConfig
from hlserve.serving.dataplane import DataPlane
from hlserve.serving.store import ModelStore
from tests.serving.batching_proof import (
    PRIORITIES,
    Tally,
    make_reference,
    prove,
    put_models,
)
from tests.serving.proof_models import proof_models

# Each part has settings of its own; the requests are shared out evenly.
SETTINGS: dict[str, dict[str, Any]] = {
    "joined by load": {},
    "waits for company": {"max_queue_delay_s": 0.0005, "preferred_rows": (4, 12)},
    "answers in order": {"preserve_ordering": True},
    "small runs": {"max_rows": 6},
}


def main() -> int:
    """Runs every part and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        put_models(Path(folder), proof_models())
        rows = [
            _part(Path(folder), name, args.requests // len(SETTINGS), args.seed + number)
            for number, name in enumerate(SETTINGS)
        ]
    total: dict[str, Any] = {"settings": "all"}
    total |= {key: sum(row[key] for row in rows) for key in rows[0] if key != "settings"}
    total["rows a run"] = total["rows"] / max(1, total["runs"])
    table = [*rows, total]
    print(tabulate(table, headers="keys", floatfmt=".2f", intfmt=","))
    if args.json:
        args.json.write_text(json.dumps(table, indent=1))
    return 1 if total["wrong"] else 0


def _part(root: Path, name: str, requests: int, seed: int) -> dict[str, Any]:
    """One setting: its counts, and the first wrong answers on stderr."""
    config = BatchingConfig(
        **{"max_rows": 16, "priority_levels": PRIORITIES, "default_priority_level": 2}
        | SETTINGS[name]
    )
    threads = RunThreads(2)
    store = ModelStore(Repository(root), ServerConfig(models=root, batching=config), threads)
    store.load_all()
    references = [make_reference(model, seed) for seed, model in enumerate(proof_models())]

    async def main() -> Tally:
        infer = DataPlane(store).model_infer
        with tqdm(total=requests, desc=name, mininterval=1) as bar:
            return await prove(
                infer, references, seed=seed, requests=requests, progress=lambda: bar.update()
            )

    begun_s = time.perf_counter()
    tally = asyncio.run(main())
    seconds = time.perf_counter() - begun_s
    threads.shutdown(wait=True)
    for line in tally.wrong[:10]:
        print(f"wrong: {line}", file=sys.stderr)
    return {"settings": name, **_counts(store, tally), "seconds": seconds}


def _counts(store: ModelStore, tally: Tally) -> dict[str, Any]:
    statistics = [model.statistics for model in store.ready_models()]
    runs = sum(each.execution_count for each in statistics)
    rows = sum(each.executed_rows for each in statistics)
    return {
        "requests": tally.outcomes.total(),
        "answered": tally.outcomes["answered"],
        "failed alone": tally.outcomes["InferenceError"],
        "cancelled": tally.outcomes["CancelledError"],
        "expired": tally.outcomes["DeadlineExceededError"],
        "timed out": tally.outcomes["QueueTimeoutError"],
        "runs": runs,
        "rows": rows,
        "rows a run": rows / max(1, runs),
        "late": sum(each.late for each in statistics),
        "wrong": len(tally.wrong),
    }


if __name__ == "__main__":
    sys.exit(main())
