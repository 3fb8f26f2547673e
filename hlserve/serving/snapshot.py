"""One moment of all statistics as plain data, which travels between processes and adds up.

``msgspec`` encodes and decodes a ``Snapshot`` as it is. Where several processes serve one port,
each takes its own and one of them answers with ``merge`` of all.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from hlserve.serving.statistics import Duration, ModelStatistics


@dataclass(frozen=True, slots=True)
class Spread:
    """A ``Duration``: count, sum in nanoseconds, and counts between ``HISTOGRAM_BOUNDS_S``."""

    count: int
    ns: int
    buckets: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ModelSnapshot:
    """One version's record.

    Attributes:
        inference_count: rows answered.
        execution_count: runs.
        pending: requests taken and not answered yet.
        success: requests answered, from the data plane's door to the answer.
        failures: requests not answered, by reason.
        phases: by name: queue, compute_input, compute_infer, compute_output, encode.
        executed_rows: rows of all runs.
        batch_rows: runs by their number of rows, above 1024 by the next power of two.
    """

    name: str
    version: int
    inference_count: int
    execution_count: int
    pending: int
    success: Spread
    failures: dict[str, int]
    phases: dict[str, Spread]
    executed_rows: int
    batch_rows: dict[int, int]


@dataclass(frozen=True, slots=True)
class CallCount:
    """How many calls of one RPC ended with one status."""

    service: str
    method: str
    status: str
    count: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One process, or several added up.

    Attributes:
        pids: the processes.
        models: one a served version; a version that was unloaded is not there.
        calls: every call on any transport, refused ones too.
    """

    pids: tuple[int, ...]
    models: tuple[ModelSnapshot, ...]
    calls: tuple[CallCount, ...]


class Served(Protocol):
    """What of a served version is looked at."""

    @property
    def name(self) -> str:
        """The model."""

    @property
    def version(self) -> int:
        """Its number."""

    @property
    def statistics(self) -> ModelStatistics:
        """Its record."""


def take(models: Iterable[Served], calls: Mapping[tuple[str, str, str], int]) -> Snapshot:
    """This process now; call it on the event loop, where statistics change.

    Args:
        models: what answers.
        calls: counts by service, method and status.
    """
    return Snapshot(
        pids=(os.getpid(),),
        models=tuple(_model(model.name, model.version, model.statistics) for model in models),
        calls=tuple(CallCount(*key, count) for key, count in calls.items()),
    )


def merge(snapshots: Sequence[Snapshot]) -> Snapshot:
    """All of them added up; a version counts once, however many processes serve it."""
    models: dict[tuple[str, int], ModelSnapshot] = {}
    calls: Counter[tuple[str, str, str]] = Counter()
    for snapshot in snapshots:
        for model in snapshot.models:
            key = (model.name, model.version)
            models[key] = _add(models[key], model) if key in models else model
        for call in snapshot.calls:
            calls[call.service, call.method, call.status] += call.count
    return Snapshot(
        pids=tuple(pid for snapshot in snapshots for pid in snapshot.pids),
        models=tuple(models.values()),
        calls=tuple(CallCount(*key, count) for key, count in calls.items()),
    )


# ----- below: one version -----


def _model(name: str, version: int, statistics: ModelStatistics) -> ModelSnapshot:
    phases = {
        "queue": statistics.queue,
        "compute_input": statistics.compute_input,
        "compute_infer": statistics.compute_infer,
        "compute_output": statistics.compute_output,
        "encode": statistics.encode,
    }
    return ModelSnapshot(
        name=name,
        version=version,
        inference_count=statistics.inference_count,
        execution_count=statistics.execution_count,
        pending=statistics.pending,
        success=_spread(statistics.success),
        failures={str(reason): count for reason, count in statistics.failures.items()},
        phases={phase: _spread(duration) for phase, duration in phases.items()},
        executed_rows=statistics.executed_rows,
        batch_rows={rows: batch.count for rows, batch in statistics.batches.items()},
    )


def _spread(duration: Duration) -> Spread:
    return Spread(duration.count, duration.ns, tuple(duration.buckets))


def _add(one: ModelSnapshot, other: ModelSnapshot) -> ModelSnapshot:
    return ModelSnapshot(
        name=one.name,
        version=one.version,
        inference_count=one.inference_count + other.inference_count,
        execution_count=one.execution_count + other.execution_count,
        pending=one.pending + other.pending,
        success=_add_spreads(one.success, other.success),
        failures={reason: count + other.failures[reason] for reason, count in one.failures.items()},
        phases={
            phase: _add_spreads(spread, other.phases[phase]) for phase, spread in one.phases.items()
        },
        executed_rows=one.executed_rows + other.executed_rows,
        batch_rows={
            rows: one.batch_rows.get(rows, 0) + other.batch_rows.get(rows, 0)
            for rows in one.batch_rows | other.batch_rows
        },
    )


def _add_spreads(one: Spread, other: Spread) -> Spread:
    buckets = tuple(a + b for a, b in zip(one.buckets, other.buckets, strict=True))
    return Spread(one.count + other.count, one.ns + other.ns, buckets)
