"""What ``hlserve bench`` does: makes the requests, runs the load, and puts it in a table."""

from __future__ import annotations

import asyncio
import json
import math
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hlserve.bench.arrivals import Arrivals
from hlserve.bench.asking import Asker, Target, client_of, made_up, requests_of
from hlserve.bench.load import process_cpu_s
from hlserve.bench.measuring import Plan, Progress, measure
from hlserve.bench.outcome import PERCENTILES, Outcome
from hlserve.bench.picture import draw, require_drawable
from hlserve.cli.connecting import Connecting
from hlserve.cli.prediction import input_values
from hlserve.cli.prediction_input import fit_inputs, read_input
from hlserve.client import ModelMetadata, frontend_of
from hlserve.errors import ConfigError, DataError, ServerError

Array = NDArray[Any]

JSON_SCHEMA_VERSION = 1
_MADE_UP_REQUESTS = 64
_MADE_UP_BYTES = 1 << 26  # of all of them, where one alone is not larger


@dataclass(frozen=True, slots=True)
class _Data:
    """Where the rows come from; neither: made up."""

    file: Path | None
    source: str | None


@dataclass(frozen=True, slots=True)
class _Measured:
    """The model, what was measured, and the first message that came with each error status."""

    facts: ModelMetadata
    outcomes: Sequence[Outcome]
    messages: Mapping[str, str]


def bench(
    address: str,
    model: str,
    version: str,
    *,
    callers: int,
    rate: float | None,
    rates: str | None,
    arrivals: Arrivals,
    seconds: float,
    rows: int,
    data: Path | None,
    source: str | None,
    connections: int,
    timeout_s: float,
    seed: int,
    server_pid: int | None,
    connecting: Connecting,
    json_file: Path | None,
    plot: Path | None,
) -> list[str]:
    """The table's lines; arguments as the command's options.

    Raises:
        ConfigError: options that exclude each other, a rate that is none, or a file that cannot
            be written.
        DataError: the rows cannot be read, or do not fit the model.
        ServerError: the first request fails.
        MissingDependencyError: a plot, without matplotlib.
    """
    if data is not None and source is not None:
        raise ConfigError("give --data or --input, not both")
    has_proc = process_cpu_s(os.getpid()) is not None
    if server_pid is not None and has_proc and process_cpu_s(server_pid) is None:
        raise ConfigError(f"--server-pid is {server_pid}, which is no process on this machine")
    if plot is not None:
        require_drawable(plot)
    target = Target(address, model, version, **connecting, timeout_s=timeout_s)
    plan = Plan(seconds, rows, callers, _rates(rate, rates), arrivals, seed, server_pid)
    measured = asyncio.run(_measure(target, plan, _Data(data, source), connections))
    facts, outcomes = measured.facts, measured.outcomes
    label = f"{model} version {version or facts.versions[-1]}"
    if json_file is not None:
        _write_json(json_file, address, label, plan, outcomes)
    if plot is not None and outcomes:
        draw(outcomes, plot, title=f"{label}, {_rows(rows)} a request")
    return [
        *_table(label, plan, outcomes),
        *(f"first {message}" for message in measured.messages.values()),
    ]


def _rows(count: int) -> str:
    return "1 row" if count == 1 else f"{count} rows"


# ----- measuring


async def _measure(target: Target, plan: Plan, data: _Data, connections: int) -> _Measured:
    async with client_of(target) as client:
        facts = await client.model_metadata(target.model, target.version)
    requests = _requests(facts, data, plan)
    async with Asker(target, requests, connections) as asker:
        try:
            with _progress(plan) as on_progress:
                outcomes = await measure(asker, plan, on_progress=on_progress)
            return _Measured(facts, outcomes, asker.messages)
        except ServerError as error:
            if error.status != "INVALID_ARGUMENT" or data != _Data(None, None):
                raise
            raise ServerError(
                error.status, f"made-up rows do not fit: {error}; give real ones by --data"
            ) from error


def _requests(facts: ModelMetadata, data: _Data, plan: Plan) -> Sequence[Mapping[str, Array]]:
    if data.source is not None:
        values = input_values(data.source, frontend_of(facts))
        return requests_of(fit_inputs(values, facts.inputs), plan.rows)
    if data.file is None:
        rng = np.random.default_rng(plan.seed)
        requests = [made_up(facts, plan.rows, rng)]
        size = max(1, sum(array.nbytes for array in requests[0].values()))
        more = min(_MADE_UP_REQUESTS, _MADE_UP_BYTES // size) - 1
        return requests + [made_up(facts, plan.rows, rng) for _ in range(more)]
    if data.file.suffix not in (".npy", ".npz"):
        raise DataError(f"--data {data.file}: expected a .npy or .npz file")
    values = read_input(str(data.file), sys.stdin)
    return requests_of(fit_inputs(values, facts.inputs), plan.rows)


def _rates(rate: float | None, rates: str | None) -> tuple[float, ...]:
    if rate is not None and rates is not None:
        raise ConfigError("give --rate or --rates, not both")
    texts = rates.split(",") if rates is not None else [] if rate is None else [str(rate)]
    try:
        values = tuple(float(text) for text in texts)
    except ValueError as error:
        raise ConfigError(f"--rates {rates}: expected numbers with commas, as 100,200") from error
    for value in values:
        if not (value > 0 and math.isfinite(value)):
            raise ConfigError(f"a rate is {value:g}, expected more than 0 requests a second")
    return values


@contextmanager
def _progress(plan: Plan) -> Iterator[Progress | None]:
    """A bar over the seconds of all runs; none where stderr is no terminal."""
    try:
        from tqdm import tqdm
    except ModuleNotFoundError:  # the light client goes without
        yield None
        return
    total_s = plan.seconds * max(1, len(plan.rates))
    layout = "{l_bar}{bar}| {n:.0f}/{total:.0f} s"
    with tqdm(total=total_s, bar_format=layout, disable=None, leave=False) as bar:
        before_s = 0.0

        def show(passed_s: float, _seconds: float) -> None:
            nonlocal before_s
            if passed_s < before_s:  # the next run has begun
                before_s = 0.0
            bar.update(passed_s - before_s)
            before_s = passed_s

        yield show


# ----- telling


def _table(label: str, plan: Plan, outcomes: Sequence[Outcome]) -> list[str]:
    how = f"{plan.arrivals} arrivals" if plan.rates else f"{plan.callers} callers, closed loop"
    lines = [f"{label}: {_rows(plan.rows)} a request, {how}"]
    names = [f"p{percent:g} ms" for percent in PERCENTILES]
    header = ["offered/s", "answered/s", "rows/s", *names, "max ms", "errors", "server CPU"]
    table = [header, *(_cells(outcome) for outcome in outcomes)]
    used = [n for n, name in enumerate(header) if any(row[n] for row in table[1:])]
    widths = {n: max(len(row[n]) for row in table) for n in used}
    lines += ["  ".join(row[n].rjust(widths[n]) for n in used) for row in table]
    for outcome in outcomes:
        told = ", ".join(f"{count} {status}" for status, count in outcome.errors.items())
        if told:
            lines.append(f"errors{_at(outcome)}: {told}")
    return lines


def _cells(outcome: Outcome) -> list[str]:
    """One row; an empty cell where there is nothing to tell."""
    offered, cpu_s = outcome.offered_rate, outcome.server_cpu_s
    errors = sum(outcome.errors.values())
    latencies = [outcome.percentile_s(percent) for percent in (*PERCENTILES, 100.0)]
    return [
        "" if offered is None else f"{offered:.4g}",
        f"{outcome.per_second:.1f}",
        f"{outcome.per_second * outcome.rows:.1f}" if outcome.rows > 1 else "",
        *("-" if math.isnan(each) else f"{1e3 * each:.2f}" for each in latencies),
        str(errors) if errors else "",
        "" if cpu_s is None or not outcome.seconds else f"{100 * cpu_s / outcome.seconds:.0f} %",
    ]


def _at(outcome: Outcome) -> str:
    return "" if outcome.offered_rate is None else f" at {outcome.offered_rate:g}/s"


def _write_json(
    path: Path, address: str, label: str, plan: Plan, outcomes: Sequence[Outcome]
) -> None:
    content = {
        "schema_version": JSON_SCHEMA_VERSION,
        "address": address,
        "model": label,
        "rows_per_request": plan.rows,
        "callers": None if plan.rates else plan.callers,
        "arrivals": plan.arrivals if plan.rates else None,
        "seed": plan.seed,
        "runs": [outcome.as_json() for outcome in outcomes],
    }
    try:
        path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from error
