"""What ``hlserve demo`` does: the commands a user would type, then the measurements."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tabulate import tabulate

from compress.evaluate import bind_rows, make_judge
from compress.export import to_onnx
from compress.latency import Latency, measure
from compress.model_file import parameter_count, read_onnx
from compress.session import Session
from hlserve.bench.load import Load, closed_loop, together
from hlserve.datasets import Rows, load
from hlserve.errors import HlserveError, RepositoryError
from hlserve.nn import checkpoint
from hlserve.nn.metrics import wilson_interval
from hlserve.repository import MODEL_FILE

Array = NDArray[Any]
Say = Callable[[str], None]

DATA = "fashion-mini"
MODELS = {"fashion-mlp": "mlp:300,100", "fashion-lenet5": "lenet5"}
MAX_DROP = "0.5pp"
BATCHES = (1, 32)
CALLERS = 2
LOAD_S, LOAD_ROUNDS = 0.7, 3
START_TIMEOUT_S = 30.0
EXIT_BOUND_NOT_MET = 3


@dataclass(frozen=True, slots=True)
class _Row:
    """One model of the closing table."""

    value: float
    rows: int
    parameters: int
    size_bytes: int
    latency: Mapping[int, Latency]
    load: Load


def show(out: Path, *, say: Say) -> None:
    """Runs the chain in ``out``; older runs there get newer versions beside them.

    Raises:
        HlserveError: a step failed; what it said has been printed.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RepositoryError(f"--out {out}: cannot be made: {error.strerror}") from error
    started = time.perf_counter()
    compressed, originals = out / "models", out / "originals"
    kept = []
    for name, spec in MODELS.items():
        run = out / "runs" / f"{name}.safetensors"
        _run(say, "train", "--data", DATA, "--arch", spec, "--out", run)
        graph = run.with_suffix(".onnx")
        graph.write_bytes(to_onnx(checkpoint.load(run)).SerializeToString())
        _run(say, "publish", graph, "--out", originals / name)
        code = _run(
            say, "compress", run, "--data", DATA, "--max-drop", MAX_DROP,
            "--out", compressed / name, allowed=(0, EXIT_BOUND_NOT_MET),
        )  # fmt: skip
        if code == 0:
            kept.append(name)
    test = load(DATA).test
    assert test is not None  # the embedded set has test rows
    tables = _measured(compressed, originals, kept, test, say)
    for name, rows in tables.items():
        say(f"\n{name} ({MODELS[name]}), original against compressed\n")
        say(_table(rows))
    say(f"\nlatency of one ONNX Runtime call on one core; {CALLERS} callers through gRPC, one row")
    say(f"a request, client and server on this machine. {time.perf_counter() - started:.0f} s.")
    say(_what_next(compressed, kept or list(MODELS)))


# ----- below


def _run(say: Say, verb: str, *arguments: object, allowed: tuple[int, ...] = (0,)) -> int:
    """Runs a verb as a user would, after saying it; its output goes where ours goes."""
    words = [verb, *map(str, arguments)]
    say(f"\n$ hlserve {shlex.join(words)}")
    sys.stdout.flush()
    code = subprocess.run([sys.executable, "-m", "hlserve", *words], check=False).returncode
    if code not in allowed:
        raise HlserveError(f"`hlserve {shlex.join(words)}` ended with exit code {code}")
    return code


def _measured(
    compressed: Path, originals: Path, kept: list[str], test: Rows, say: Say
) -> dict[str, dict[str, _Row]]:
    """Name -> "original" and, where one was published, "compressed" -> what was measured."""
    repositories = {"original": originals} | ({"compressed": compressed} if kept else {})
    found: dict[str, dict[str, _Row]] = {}
    with ExitStack() as stack:
        servers = {}
        for kind, root in repositories.items():
            servers[kind] = stack.enter_context(_server(say, root))
        for name in MODELS:
            kinds = ["original", "compressed"] if name in kept else ["original"]
            loads = _loads(name, {kind: servers[kind] for kind in kinds}, test)
            files = {kind: _latest(repositories[kind] / name) for kind in kinds}
            found[name] = _rows(files, loads, test)
    return found


@contextmanager
def _server(say: Say, root: Path) -> Iterator[tuple[str, int]]:
    """A server of its own process on a free port: its address and process id."""
    words = ["serve", str(root), "--port", "0", "--no-metrics", "--log-level", "warning"]
    say(f"\n$ hlserve {shlex.join(words)}")
    command = [sys.executable, "-m", "hlserve", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None  # asked for above
            line = process.stdout.readline().strip()
            if " on " not in line:
                raise HlserveError(f"the server for {root} did not start; see what it said above")
            say(line)
            yield line.rpartition(" on ")[2], process.pid
        finally:
            process.terminate()
            try:
                process.wait(START_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()


def _loads(name: str, servers: Mapping[str, tuple[str, int]], test: Rows) -> dict[str, Load]:
    rows = {"input": np.ascontiguousarray(_flat(name, test.x)[:64].astype(np.float32))}
    parts: dict[str, list[Load]] = {kind: [] for kind in servers}
    for _ in range(LOAD_ROUNDS):  # in turns: other work on the machine then slows both
        for kind, (address, pid) in servers.items():
            parts[kind].append(
                closed_loop(address, name, rows, callers=CALLERS, seconds=LOAD_S, server_pid=pid)
            )
    return {kind: together(measured) for kind, measured in parts.items()}


def _flat(name: str, x: Array) -> Array:
    return x.reshape(len(x), -1) if MODELS[name].startswith("mlp") else x


def _latest(folder: Path) -> Path:
    versions = [int(entry.name) for entry in folder.iterdir() if entry.name.isdigit()]
    return folder / str(max(versions)) / MODEL_FILE


def _rows(files: Mapping[str, Path], loads: Mapping[str, Load], test: Rows) -> dict[str, _Row]:
    models = {kind: read_onnx(path) for kind, path in files.items()}
    sessions = {kind: Session(model.SerializeToString()) for kind, model in models.items()}
    feeds = bind_rows(sessions["original"], test)
    latencies = measure(sessions, feeds, BATCHES, budget_s=2.0)
    assert test.y is not None
    found = {}
    for kind, model in models.items():
        judge = make_judge(model, sessions[kind], test.y)
        values = judge.per_row(judge.answers(sessions[kind], feeds), test.y)
        found[kind] = _Row(
            value=float(values.mean()),
            rows=len(values),
            parameters=parameter_count(model),
            size_bytes=os.path.getsize(files[kind]),
            latency=latencies[kind],
            load=loads[kind],
        )
    return found


def _table(rows: Mapping[str, _Row]) -> str:
    columns = [_column(row) for row in rows.values()]
    names = ["accuracy", "95 % interval", "parameters", "file, bytes"]
    names += [f"latency, batch {b}" for b in BATCHES]
    names += ["requests a second", "latency, p95", "server CPU a request"]
    before, *_, after = rows.values() if len(rows) > 1 else [*rows.values()] * 2
    changes = [
        f"{100 * (after.value - before.value):+.1f} pp",
        "",
        _ratio(before.parameters, after.parameters),
        _ratio(before.size_bytes, after.size_bytes),
        *(_ratio(before.latency[b].p50_s, after.latency[b].p50_s) for b in BATCHES),
        _ratio(after.load.per_second, before.load.per_second),
        _ratio(before.load.percentile_s(95), after.load.percentile_s(95)),
        _ratio(before.load.server_cpu_per_request_s, after.load.server_cpu_per_request_s),
    ]
    if len(rows) == 1:
        changes = ["nothing passed: kept"] + [""] * (len(names) - 1)
    return tabulate(
        list(zip(names, *columns, changes, strict=True)),
        headers=["", *rows, "gain"],
        disable_numparse=True,
        colalign=("left", *["right"] * (len(columns) + 1)),
    )


def _column(row: _Row) -> list[str]:
    low, high = wilson_interval(round(row.value * row.rows), row.rows)
    cpu = row.load.server_cpu_per_request_s
    return [
        f"{100 * row.value:.1f} %",
        f"{100 * low:.1f} to {100 * high:.1f}",
        f"{row.parameters:,}",
        f"{row.size_bytes:,}",
        *(f"{1e6 * row.latency[b].p50_s:,.0f} us" for b in BATCHES),
        f"{row.load.per_second:,.0f}",
        f"{1e6 * row.load.percentile_s(95):,.0f} us",
        "unknown" if cpu is None else f"{1e6 * cpu:,.0f} us",
    ]


def _ratio(before: float | None, after: float | None) -> str:
    return f"{before / after:.2f}x" if before and after else ""


def _what_next(models: Path, names: list[str]) -> str:
    return (
        "\nServe the result, and ask it from another terminal:\n\n"
        f"  hlserve serve {shlex.quote(str(models))} --port 8001\n"
        f"  hlserve predict localhost:8001 {names[0]} --data {DATA} --row 0"
    )
