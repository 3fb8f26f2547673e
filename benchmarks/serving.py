"""What a request costs: server CPU of hlserve beside its peers and its floors.

    make bench-serving
    PYTHONPATH=. .venv/bin/python -m benchmarks.serving --rows batch-1,stream --json serving.json

Servers and client are pinned to a core each. A row's servers take turns, three rounds; a figure is
the median. docs/benchmarking-serving.md tells how it is measured.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tqdm import tqdm

from benchmarks import serving_model as model
from benchmarks import serving_table as table
from benchmarks.serving_floors import Floor, floor
from benchmarks.serving_load import Client, Cost, WrongAnswerError, requests_file
from benchmarks.serving_rows import ROWS, Row
from benchmarks.serving_servers import Running
from benchmarks.serving_subjects import (
    BINARIES,
    ROOT,
    TWO,
    CannotServeError,
    World,
    subjects,
)

SERVER_CORE, CLIENT_CORE = "0", "1"
BOTH_CORES = f"{SERVER_CORE},{CLIENT_CORE}"
LOAD_OF_OPEN_LOOP = 0.5  # of what a closed loop gets
BATCHES = (1, 8, 32)  # of the floors


def main() -> int:
    """Measures and prints the table."""
    args = _arguments()
    reason = _why_not()
    if reason:
        print(reason, file=sys.stderr)
        return 2
    rows = [row for row in ROWS if not args.rows or row.name in args.rows]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        world = _world(folder, args.transport, rows, args.code)
        floors = [floor(world.file, n, seconds=args.seconds, core=SERVER_CORE) for n in BATCHES]
        client = Client(folder, CLIENT_CORE, args.seconds)
        with _servers(world, rows, args.peers) as (servers, skipped):
            measured = _measure(rows, servers, skipped, client, args.rounds)
    by_rows = {one.rows: one for one in floors}
    lines = [line for one in measured for line in table.lines_of(one, by_rows)]
    print(table.as_text(lines), table.floors_text(floors), table.quiet(measured), sep="\n\n")
    print(table.score(lines), f"our server's code: {args.code}", sep="\n")
    _print_failures(measured)
    if args.json:
        _write(Path(args.json), measured, floors, lines)
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = [row.name for row in ROWS]
    parser.add_argument("--rows", type=_names(names), default=(), help=f"of {', '.join(names)}")
    parser.add_argument(
        "--peers",
        type=_names(table.PEERS),
        default=table.PEERS,
        help=f"of {', '.join(table.PEERS)}; or none",
    )
    parser.add_argument("--transport", default="http2", help="of our server")
    parser.add_argument(
        "--code",
        type=Path,
        default=ROOT,
        help="where our server's code lies; build/compiled: what `make compiled` made",
    )
    parser.add_argument("--seconds", type=float, default=3.0, help="of one run")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", default="", help="where every run goes")
    return parser.parse_args()


def _names(known: Sequence[str]) -> Callable[[str], tuple[str, ...]]:
    def parse(text: str) -> tuple[str, ...]:
        given = tuple(word.strip() for word in text.split(",")) if text != "none" else ()
        unknown = [word for word in given if word not in known]
        if unknown:
            raise argparse.ArgumentTypeError(f"{unknown[0]!r} is not one of {', '.join(known)}")
        return given

    return parse


def _why_not() -> str:
    if not (BINARIES / "load_client").exists():
        return "the load client is not built: make serving-peers"
    allowed = os.sched_getaffinity(0)
    if not {int(SERVER_CORE), int(CLIENT_CORE)} <= allowed:
        return f"cores {BOTH_CORES} are needed, this process may use {sorted(allowed)}"
    return ""


def _world(folder: Path, transport: str, rows: Sequence[Row], code: Path) -> World:
    file = model.write_model(folder / "models")
    made = {size: model.exchanges(file, size) for size in {1, *(row.load.rows for row in rows)}}
    for size, exchanges in made.items():
        model.write_requests(requests_file(folder, size), exchanges)
    return World(folder, transport, made[1], code)


@contextmanager
def _servers(
    world: World, rows: Sequence[Row], peers: Sequence[str]
) -> Iterator[tuple[dict[str, Running], dict[str, str]]]:
    """All that the rows need, and why those that are not there are not."""
    needed = {name for row in rows for name in row.servers}
    started: dict[str, Running] = {}
    skipped = {name: "left out" for name in table.PEERS if name not in peers}
    with ExitStack() as stack:
        for subject in tqdm(subjects(), desc="starting", disable=None):
            if subject.name not in needed or subject.name in skipped:
                continue
            cores = BOTH_CORES if subject.name == TWO else SERVER_CORE
            try:
                started[subject.name] = Running(subject, world, cores)
            except CannotServeError as error:
                skipped[subject.name] = str(error)
            else:
                stack.callback(started[subject.name].stop)
        yield started, skipped


def _measure(
    rows: Sequence[Row],
    servers: Mapping[str, Running],
    skipped: Mapping[str, str],
    client: Client,
    rounds: int,
) -> list[table.Measured]:
    measured = []
    total = rounds * sum(name in servers for row in rows for name in row.servers)
    with tqdm(total=total, unit="run", disable=None) as bar:
        for row in rows:
            runs: dict[str, list[Cost]] = {name: [] for name in row.servers if name in servers}
            failed = {name: skipped[name] for name in row.servers if name in skipped}
            for turn in range(rounds):
                for name in [name for name in runs if name not in failed]:
                    bar.set_description(f"{row.name}: {name}")
                    try:
                        runs[name].append(_run(row, servers[name], client, turn))
                    except (CannotServeError, WrongAnswerError) as error:
                        failed[name] = str(error)
                    bar.update()
            whole = {name: costs for name, costs in runs.items() if name not in failed}
            measured.append(table.Measured(row, whole, failed))
    return measured


def _run(row: Row, server: Running, client: Client, seed: int) -> Cost:
    cores = BOTH_CORES if server.subject.name == TWO else CLIENT_CORE
    cost = client.run(server, row.load, seed=seed, cores=cores)
    if row.kind != "latency":
        return cost
    load = dataclasses.replace(row.load, rate=cost.per_second * LOAD_OF_OPEN_LOOP)
    return client.run(server, load, seed=seed, cores=cores)


def _print_failures(measured: Sequence[table.Measured]) -> None:
    told = {(name, why) for one in measured for name, why in one.failed.items()}
    for name, why in sorted(told):
        print(f"{name}: {why}", file=sys.stderr)


def _write(
    path: Path,
    measured: Sequence[table.Measured],
    floors: Sequence[Floor],
    lines: Sequence[table.Line],
) -> None:
    rows = {
        one.row.name: {
            "runs": {n: [dataclasses.asdict(c) for c in costs] for n, costs in one.runs.items()},
            "failed": dict(one.failed),
        }
        for one in measured
    }
    content = {
        "machine": {"processor": _processor(), "cores": os.cpu_count()},
        "python": platform.python_version(),
        "floors": [dataclasses.asdict(one) for one in floors],
        "rows": rows,
        "lines": [dataclasses.asdict(line) for line in lines],
    }
    path.write_text(json.dumps(content, indent=1))


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


if __name__ == "__main__":
    raise SystemExit(main())
