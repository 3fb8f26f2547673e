"""The table of the serving benchmark: what was asked, what came, and whether it is enough.

A figure is the median of its runs; a ratio is the median of the rounds' ratios, for the servers of
a round ran one after another.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

from tabulate import tabulate

from benchmarks.serving_floors import Floor
from benchmarks.serving_load import Cost
from benchmarks.serving_rows import Bound, Row
from benchmarks.serving_subjects import CANNED, GRPCIO, INTERPRETED, KSERVE, MLSERVER, OURS

PEERS = (INTERPRETED, GRPCIO, MLSERVER, KSERVE, CANNED)
FLOOR = "session.run"
CORES = 2


@dataclass(frozen=True, slots=True)
class Measured:
    """One row's runs.

    Attributes:
        runs: by server, a cost a round.
        failed: servers that have none, with the reason.
    """

    row: Row
    runs: Mapping[str, Sequence[Cost]]
    failed: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Line:
    """One figure; ``reached`` and ``stretched`` are None where nothing is asked."""

    figure: str
    ours: str
    must: str = ""
    reached: bool | None = None
    stretch: str = ""
    stretched: bool | None = None
    others: dict[str, str] = field(default_factory=dict)


def lines_of(measured: Measured, floors: Mapping[int, Floor]) -> list[Line]:
    """The row's part of the table; ``floors`` by rows of a request."""
    first = measured.row.servers[0]
    missing = [name for name in _needed(measured.row) if name in measured.failed]
    if missing:
        return [Line(measured.row.title, f"no {missing[0]}" if missing[0] != first else "none")]
    floor = floors[measured.row.load.rows]
    match measured.row.kind:
        case "cpu":
            return [_cpu_line(measured, floor), *_ratio_lines(measured)]
        case "latency":
            return _latency_lines(measured, floor)
        case "processes":
            return _process_lines(measured)
        case "share":
            return [_share_line(measured)]


def as_text(lines: Sequence[Line]) -> str:
    """The table; a peer a column, the floors last."""
    columns = [c for c in (*PEERS, FLOOR) if any(c in line.others for line in lines)]
    cells = [
        [
            *(line.figure, line.ours, line.must, _yes(line.reached)),
            *(line.stretch, _yes(line.stretched), *(line.others.get(c, "") for c in columns)),
        ]
        for line in lines
    ]
    headers = ["", OURS, "must", "", "stretch", "", *columns]
    return tabulate(cells, headers=headers, disable_numparse=True)


def floors_text(floors: Sequence[Floor]) -> str:
    """``session.run`` alone, in µs."""
    cells = []
    for floor in floors:
        seconds = (floor.cpu_s, floor.cpu_s / floor.rows, floor.p50_s, floor.p99_s)
        cells.append([floor.rows, *map(_us, seconds)])
    headers = ["session.run: rows", "CPU a run", "CPU a row", "p50", "p99"]
    return tabulate(cells, headers=headers, disable_numparse=True)


def score(lines: Sequence[Line]) -> str:
    """How many of the figures that are asked for are reached."""
    must = [line.reached for line in lines if line.reached is not None]
    stretch = [line.stretched for line in lines if line.stretched is not None]
    return f"must reached: {sum(must)} of {len(must)}; stretch: {sum(stretch)} of {len(stretch)}"


def quiet(measured: Sequence[Measured]) -> str:
    """How much of its core the server got where the load fills it: less than all is noise."""
    shares = [
        (cost.server_cpu_s / cost.seconds, one.row.name, server)
        for one in measured
        if one.row.kind in ("cpu", "share") and one.row.load.connections > 1
        for server, runs in one.runs.items()
        for cost in runs
    ]
    if not shares:
        return ""
    share, row, server = min(shares)
    return f"least share of its core that a loaded server had: {share:.0%} ({row}, {server})"


# ----- below


def _needed(row: Row) -> tuple[str, ...]:
    return row.servers[:1] if row.kind in ("cpu", "latency") else row.servers


def _cpu_line(measured: Measured, floor: Floor) -> Line:
    def told(name: str) -> str:
        return f"{_cpu_us(measured.runs[name]):.1f} µs"

    others = {name: told(name) for name in PEERS if name in measured.runs}
    others[FLOOR] = f"{_us(floor.cpu_s)} µs"
    cpu = _cpu_us(measured.runs[OURS])
    bound = measured.row.bounds[0]
    return _line(measured.row.title, cpu, "{:.1f} µs", bound, others=others)


def _ratio_lines(measured: Measured) -> list[Line]:
    lines = []
    for peer, bound in measured.row.ratios.items():
        if peer not in measured.runs:
            reason = measured.failed.get(peer, "left out")
            lines.append(Line(f"  against {peer}", "", others={peer: reason}))
            continue
        pairs = list(zip(measured.runs[OURS], measured.runs[peer], strict=True))
        if peer == CANNED:  # no more than so many times its cost
            ratio = median(ours.cpu_us / other.cpu_us for ours, other in pairs)
            lines.append(_line(f"  against {peer}", ratio, "{:.2f}x", bound))
        else:
            ratio = median(other.cpu_us / ours.cpu_us for ours, other in pairs)
            words = "{:.1f}x less"
            lines.append(_line(f"  against {peer}", ratio, words, bound, is_more_better=True))
    return lines


def _latency_lines(measured: Measured, floor: Floor) -> list[Line]:
    quantiles: tuple[tuple[str, Callable[[Cost], float], float], ...] = (
        ("p50", lambda cost: cost.p50_s, floor.p50_s),
        ("p99", lambda cost: cost.p99_s, floor.p99_s),
    )
    lines = []
    for (name, of, least), bound in zip(quantiles, measured.row.bounds, strict=True):
        added = {
            server: (median(map(of, runs)) - least) * 1e6 for server, runs in measured.runs.items()
        }
        others = {peer: f"{added[peer]:.0f} µs" for peer in PEERS if peer in added}
        others[FLOOR] = f"{_us(least)} µs"
        title = f"{measured.row.title}, {name}"
        lines.append(_line(title, added[OURS], "{:.0f} µs", bound, others=others))
    return lines


def _process_lines(measured: Measured) -> list[Line]:
    one, two = (measured.runs[name] for name in measured.row.servers)
    pairs = list(zip(one, two, strict=True))
    ratio = median(_without_client(b) / a.per_second for a, b in pairs)
    cpu = median(b.cpu_us / a.cpu_us for a, b in pairs)
    return [
        _line(
            *(f"{measured.row.title}, throughput", ratio, "{:.2f}x", measured.row.bounds[0]),
            is_more_better=True,
        ),
        Line("  CPU a request, of one's", f"{cpu:.2f}x"),
    ]


def _without_client(cost: Cost) -> float:
    """Answers a second, had the client not taken its share of the cores from the server."""
    client_cores = cost.client_cpu_s / cost.seconds
    return cost.per_second * CORES / (CORES - client_cores)


def _share_line(measured: Measured) -> Line:
    first, second = (measured.runs[name] for name in measured.row.servers)
    pairs = zip(first, second, strict=True)
    more = median((a.cpu_us / b.cpu_us - 1) * 100 for a, b in pairs)
    title = f"{measured.row.title}, CPU a request"
    if not measured.row.bounds:
        return Line(title, f"{more:+.1f} %")
    return _line(title, more, "{:+.1f} %", measured.row.bounds[0])


def _line(
    figure: str,
    value: float,
    words: str,
    bound: Bound,
    *,
    is_more_better: bool = False,
    others: dict[str, str] | None = None,
) -> Line:
    sign = "≥" if is_more_better else "≤"

    def reaches(asked: float) -> bool:
        return value >= asked if is_more_better else value <= asked

    return Line(
        figure,
        words.format(value),
        f"{sign} {bound.must:g}",
        reaches(bound.must),
        f"{sign} {bound.stretch:g}",
        reaches(bound.stretch),
        others or {},
    )


def _cpu_us(runs: Sequence[Cost]) -> float:
    return median(cost.cpu_us for cost in runs)


def _us(seconds: float) -> str:
    return f"{seconds * 1e6:.1f}"


def _yes(value: bool | None) -> str:
    return {None: "", True: "yes", False: "no"}[value]
