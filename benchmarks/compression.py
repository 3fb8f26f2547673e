"""Compression beside ONNX Runtime's own quantizer and NNCF: what is reached of what was wanted.

    make peers
    PYTHONPATH=. .venv/bin/python -m benchmarks.compression --json table.json
    PYTHONPATH=. .venv/bin/python -m benchmarks.compression --models lstm128 --peers none

Each row searches with ``compress.compress`` on 50,000 training and 10,000 validation rows. The
table then compares what came of it, the float model and the peers' files on the 10,000 official
test rows that no search has seen, their latencies measured in turns in one run.

Seed 0 is the whole automatic search. Further seeds make the recipe that it found again, unless
``--search-every-seed``; drops and speed-ups are means over the seeds. Finished parts are kept in
``runs/bench``: the same command goes on where it was cut off, and searches anew where the code,
the data or the wishes have changed (``--any-code`` lets changed code be).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.compression_bases import (
    BASES,
    CACHE,
    SHARED,
    Base,
    base_file,
    base_network,
    rows_of,
)
from benchmarks.compression_measures import FLOAT, Measured, side_by_side
from benchmarks.compression_runs import PEERS, Made, Store, Task, made_again, peer_file, searched
from benchmarks.compression_table import OURS, Line, Row, as_text, how, lines_of, score
from compress.export import to_onnx

MINUTES = (600.0, 240.0)
# What a search may lose is more than what is wanted on the test rows: it demands proof, and a
# proof on 10,000 rows takes a fifth of a point for itself.
ROWS = (
    Row(
        name="mlp300-bytes",
        base="mlp300-mnist",
        minimize="bytes",
        batches=(1, 32),
        max_drop="0.25pp",
        bound=0.1,
        must={"bytes": 15},
        stretch={"bytes": 30},
        budget="3m",
        seconds=MINUTES,
    ),
    Row(
        name="mlp300",
        base="mlp300-mnist",
        minimize="latency",
        batches=(1, 32, 256),
        max_drop="0.4pp",
        bound=0.2,
        must={1: 1.6, 32: 5.5, 256: 7},
        stretch={1: 2.3, 32: 9, 256: 12},
        budget="230s",
        seconds=MINUTES,
    ),
    Row(
        name="mlp1024",
        base="mlp1024-mnist",
        minimize="latency",
        batches=(1, 32),
        max_drop="0.35pp",
        bound=0.2,
        must={1: 7, 32: 10},
        stretch={1: 15, 32: 25},
        budget="5m",
    ),
    Row(
        name="lenet5",
        base="lenet5-fashion",
        minimize="latency",
        batches=(1, 32, 256),
        max_drop="0.65pp",
        bound=0.5,
        must={1: 3.3, 32: 3.3, 256: 3.3},
        stretch={1: 5, 32: 5, 256: 5},
        budget="6m",
    ),
    Row(
        name="resnet8",
        base="resnet8-fashion",
        minimize="latency",
        batches=(32,),
        max_drop="0.7pp",
        bound=0.5,
        must={32: 1.8},
        stretch={32: 3},
        budget="8m",
        over_ort={32: 3},
    ),
    Row(
        name="lstm128",
        base="lstm128-mnist",
        minimize="bytes",
        batches=(1, 32),
        max_drop="0.35pp",
        bound=0.2,
        must={"bytes": 3.9},
        stretch={"bytes": 12},
        budget="6m",
    ),
)


def main() -> None:
    """Searches, measures and prints the table."""
    args = _arguments()
    store = Store(args.cache, with_code=not args.any_code)
    asked = [row for row in ROWS if row.name in args.models.split(",")]
    table: list[Line] = []
    facts: dict[str, Any] = {}
    for row in asked:
        made, measured, failed = _measured(row, args, store)
        lines = lines_of(row, made, measured, failed)
        table += lines
        facts[row.name] = _facts(made, measured, failed)
        print(f"\n{row.name}: {how(made)}")
        print(as_text(lines), flush=True)
        if args.json:
            content = {"table": [asdict(line) for line in table], "models": facts}
            args.json.write_text(json.dumps(content, indent=1))
    print(f"\n{as_text(table)}\n{score(table)}")


# ----- below


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", default=",".join(row.name for row in ROWS))
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--search-every-seed", action="store_true")
    parser.add_argument("--budget", help="of each search, such as 10m, in place of the row's own")
    parser.add_argument("--jobs", type=int, help="processes that train at a time")
    parser.add_argument("--cache", type=Path, default=CACHE)
    parser.add_argument("--any-code", action="store_true", help="keep what changed code made")
    parser.add_argument("--shared", type=Path, default=SHARED, help="holds data/mnist, ...")
    parser.add_argument("--peers", default="ort,nncf", help="ort, nncf, or none")
    parser.add_argument("--timing", type=float, default=60.0, help="seconds of timing a model")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    known = {row.name for row in ROWS}
    for given, names in ((args.models, known), (args.peers, PEERS.keys())):
        wrong = [name for name in given.split(",") if name not in names]
        if wrong:
            parser.error(f"no {wrong[0]!r}; there are {', '.join(names)}")
    return args


def _measured(
    row: Row, args: argparse.Namespace, store: Store
) -> tuple[list[Made], dict[str, Measured], dict[str, str]]:
    task = _task(row, args)
    made = _made(task, [int(seed) for seed in args.seeds.split(",")], args, store)
    models = {FLOAT: task.original} | {f"{OURS} {one.seed}": one.model for one in made}
    failed: dict[str, str] = {}
    for peer in (peer for family in args.peers.split(",") for peer in PEERS[family]):
        found = peer_file(task, peer, row.bound / 100, store)
        if isinstance(found, Path):
            models[peer] = found.read_bytes()
        else:
            failed[peer] = found
    test = rows_of(_base(row).data, "test", args.cache, args.shared)
    return made, side_by_side(models, test, row.batches, budget_s=args.timing), failed


def _task(row: Row, args: argparse.Namespace) -> Task:
    base = _base(row)
    network = base_network(base, args.cache, args.shared)
    wishes: dict[str, Any] = {
        "max_drop": row.max_drop,
        "budget": args.budget or row.budget,
        "minimize": row.minimize,
        "batches": row.batches,
    }
    if args.jobs is not None:
        wishes["jobs"] = args.jobs
    train, validation = (
        rows_of(base.data, part, args.cache, args.shared) for part in ("train", "validation")
    )
    original = to_onnx(network).SerializeToString()
    return Task(row.name, original, base_file(base, args.cache), train, validation, wishes)


def _base(row: Row) -> Base:
    return next(base for base in BASES if base.name == row.base)


def _made(task: Task, seeds: list[int], args: argparse.Namespace, store: Store) -> list[Made]:
    first, *others = seeds
    found = searched(task, first, store)
    made = [found]
    for seed in others:
        is_searched = args.search_every_seed or found.refusal
        again = None if is_searched else found.recipe
        made.append(
            searched(task, seed, store) if again is None else made_again(task, again, seed, store)
        )
    return made


def _facts(
    made: list[Made], measured: Mapping[str, Measured], failed: Mapping[str, str]
) -> dict[str, Any]:
    told = [{k: v for k, v in asdict(one).items() if k != "model"} for one in made]
    return {
        "made": told,
        "measured": {name: asdict(m) for name, m in measured.items()},
        "failed": dict(failed),
    }


if __name__ == "__main__":
    main()
