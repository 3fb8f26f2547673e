"""What the serving benchmark measures: loads, the servers under each, and what must be reached."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from benchmarks.serving_load import Load
from benchmarks.serving_subjects import (
    CANNED,
    GRPCIO,
    INTERPRETED,
    KSERVE,
    MLSERVER,
    OURS,
    PLAIN,
    SECURE,
    TWO,
)

# What a row's figures are made of: CPU a request, the throughput of two processes over that of
# one, the latency added to session.run, or the CPU a request of one of our servers over another's.
Kind = Literal["cpu", "processes", "latency", "share"]


@dataclass(frozen=True, slots=True)
class Bound:
    """What a figure must reach, and what would be good."""

    must: float
    stretch: float


@dataclass(frozen=True, slots=True)
class Row:
    """One load on several servers.

    Attributes:
        name: what ``--rows`` calls it.
        title: what the table calls it.
        servers: under the load in turn; the figures are those of the first.
        bounds: of the row's figures, in order; µs for "cpu" and "latency" (p50, p99).
        ratios: of a peer's CPU to ours ("cpu" only).
    """

    name: str
    title: str
    kind: Kind
    load: Load
    servers: tuple[str, ...]
    bounds: tuple[Bound, ...] = ()
    ratios: dict[str, Bound] = field(default_factory=dict)


_ALL = (OURS, INTERPRETED, GRPCIO, MLSERVER, KSERVE, CANNED)
_DIFFERING = Bound(45, 25)

ROWS = (
    Row(
        *("batch-1", "batch 1, 4 x 8", "cpu", Load(), _ALL, (Bound(35, 20),)),
        ratios={
            MLSERVER: Bound(25, 50),
            KSERVE: Bound(20, 35),
            GRPCIO: Bound(8, 20),
            # The other way round: ours over the canned server's.
            CANNED: Bound(1.2, 0.7),
        },
    ),
    Row(
        *("differs", "id, metadata, deadline differ (as C-core sends)", "cpu"),
        *(Load(differs=True), _ALL, (_DIFFERING,)),
    ),
    Row(
        *("differs-indexed", "id, metadata, deadline differ (as grpc-go sends)", "cpu"),
        *(Load(differs=True, indexes=True), _ALL, (_DIFFERING,)),
    ),
    Row("one", "one in flight", "cpu", Load(1, 1), _ALL, (Bound(110, 80),)),
    Row("many", "32 connections, one each", "cpu", Load(32, 1), _ALL, (Bound(45, 30),)),
    Row("batch-32", "batch 32, 4 x 8", "cpu", Load(rows=32), _ALL, (Bound(270, 220),)),
    Row(
        *("stream", "ModelStreamInfer, 32 streams, a message", "cpu"),
        *(Load(is_streamed=True), (OURS, GRPCIO, CANNED), (Bound(30, 18),)),
    ),
    Row(
        *("processes", "two processes against one", "processes"),
        *(Load(16, 4), (OURS, TWO), (Bound(1.6, 1.9),)),
    ),
    Row(
        *("latency", "added, open loop at 50 %", "latency"),
        *(Load(), (OURS, GRPCIO, CANNED), (Bound(300, 150), Bound(1000, 500))),
    ),
    Row(
        *("metrics", "metrics and histograms against none", "share"),
        *(Load(), (OURS, PLAIN), (Bound(5, 2),)),
    ),
    Row("tls", "TLS against none", "share", Load(), (SECURE, OURS)),
)
