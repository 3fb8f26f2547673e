"""The table of the compression benchmark: what was asked, what came, and whether it is enough."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tabulate import tabulate

from benchmarks.compression_measures import FLOAT, Measured, mean_and_deviation
from benchmarks.compression_runs import Made

OURS = "ours"
ROUNDING = 1e-9  # percentage points: what sums of shares leave behind


@dataclass(frozen=True, slots=True)
class Row:
    """What is asked of one model.

    Attributes:
        name: what ``--models`` calls it.
        base: the float network, of ``compression_bases``.
        max_drop: what the search is given.
        bound: what the test rows may lose, in percentage points, mean over the seeds.
        must, stretch: what has to be reached and what would be good: how many times faster by
            batch size, or how many times smaller under ``bytes``.
        budget: of the search, unless the command line gives another.
        over_ort: how many times faster than ONNX Runtime's static defaults at the same batch.
        seconds: within which the whole search must, and better should, be done.
    """

    name: str
    base: str
    minimize: str
    batches: tuple[int, ...]
    max_drop: str
    bound: float
    must: Mapping[int | str, float]
    stretch: Mapping[int | str, float]
    budget: str
    over_ort: Mapping[int, float] = field(default_factory=dict)
    seconds: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class Line:
    """One figure of the table; ``reached`` and ``stretched`` are None where nothing is asked."""

    model: str
    figure: str
    ours: str
    must: str = ""
    reached: bool | None = None
    stretch: str = ""
    stretched: bool | None = None
    peers: dict[str, str] = field(default_factory=dict)


def lines_of(
    row: Row, made: list[Made], measured: Mapping[str, Measured], failed: Mapping[str, str]
) -> list[Line]:
    """The row's part of the table.

    Args:
        row: what was asked.
        made: what the searches handed back, one a seed.
        measured: by name; ``ours N`` of the Nth seed.
        failed: peers that made no file, with their last words.
    """
    ours = [measured[f"{OURS} {one.seed}"] for one in made]
    peers = {name: m for name, m in measured.items() if not name.startswith((FLOAT, OURS))}
    lines = [_size_line(row, ours, peers, failed)]
    lines += [_speed_line(row, batch, ours, peers, failed) for batch in row.batches]
    lines += [_over_ort_line(row, batch, ours, peers) for batch in row.over_ort if "ort" in peers]
    lines += [_drop_line(row, ours, peers), _wrong_line(row, made, ours)]
    if row.seconds is not None:
        lines.append(_seconds_line(row, made))
    return lines


def as_text(lines: list[Line]) -> str:
    """The table; a peer a column."""
    peers = list(dict.fromkeys(name for line in lines for name in line.peers))
    headers = ["", "figure", "ours", "must", "", "stretch", "", *peers]
    cells = [
        [
            *(line.model, line.figure, line.ours, line.must, _yes(line.reached)),
            *(line.stretch, _yes(line.stretched), *(line.peers.get(name, "") for name in peers)),
        ]
        for line in lines
    ]
    return tabulate(cells, headers=headers, disable_numparse=True)


def how(made: list[Made]) -> str:
    """What the search found and how, in words."""
    first = made[0]
    if first.refusal:
        return f"the original is kept: {first.refusal}"
    told = f"{first.name}, found in {first.seconds / 60:.1f} min with seed {first.seed}"
    others = [one for one in made[1:] if not one.is_searched]
    again = ", ".join(str(one.seed) for one in others)
    return f"{told}; the same recipe again with seed {again}" if others else told


def score(table: list[Line]) -> str:
    """How many of the figures that are asked for are reached."""
    reached = [line.reached for line in table if line.reached is not None]
    return f"must reached: {sum(reached)} of {len(reached)}"


# ----- below


def _size_line(
    row: Row, ours: list[Measured], peers: Mapping[str, Measured], failed: Mapping[str, str]
) -> Line:
    mean, _ = mean_and_deviation([m.size_ratio for m in ours])
    told = {name: f"{m.size_ratio:.2f}x" for name, m in peers.items()}
    told |= {name: f"failed: {words[:60]}" for name, words in failed.items()}
    size = f"{mean:.2f}x ({ours[0].size_bytes:,} B)"
    must, stretch = row.must.get("bytes"), row.stretch.get("bytes")
    return _line(row, "bytes", size, mean, must=must, stretch=stretch, peers=told)


def _speed_line(
    row: Row,
    batch: int,
    ours: list[Measured],
    peers: Mapping[str, Measured],
    failed: Mapping[str, str],
) -> Line:
    mean, _ = mean_and_deviation([m.speed_up[batch] for m in ours])
    told = {name: f"{m.speed_up[batch]:.2f}x" for name, m in peers.items()}
    told |= dict.fromkeys(failed, "failed")
    name, text = f"latency, batch {batch}", f"{mean:.2f}x ({1e6 * ours[0].p50_s[batch]:.0f} us)"
    must, stretch = row.must.get(batch), row.stretch.get(batch)
    return _line(row, name, text, mean, must=must, stretch=stretch, peers=told)


def _over_ort_line(
    row: Row, batch: int, ours: list[Measured], peers: Mapping[str, Measured]
) -> Line:
    mean, _ = mean_and_deviation([m.speed_up[batch] / peers["ort"].speed_up[batch] for m in ours])
    figure = f"over ORT's defaults, batch {batch}"
    must = row.over_ort[batch]
    return _line(row, figure, f"{mean:.2f}x", mean, must=must, stretch=None, peers={})


def _drop_line(row: Row, ours: list[Measured], peers: Mapping[str, Measured]) -> Line:
    mean, deviation = mean_and_deviation([m.drop for m in ours])
    told = {name: f"{m.drop:+.2f} pp" for name, m in peers.items()}
    text = f"{mean:+.3f} pp, sd {deviation:.3f} of {len(ours)}"
    return Line(
        model=row.name,
        figure="drop on test rows",
        ours=text,
        must=f"<= {row.bound} pp",
        reached=mean <= row.bound + ROUNDING,
        peers=told,
    )


def _wrong_line(row: Row, made: list[Made], ours: list[Measured]) -> Line:
    """Models that a search returned, slower where speed was asked for or worse than allowed."""
    returned = [m for one, m in zip(made, ours, strict=True) if one.is_searched and not one.refusal]
    is_for_speed = row.minimize == "latency"
    slower = [m for m in returned if is_for_speed and min(m.speed_up.values()) < 1]
    worse = [m for m in returned if m.drop > row.bound + ROUNDING]
    return Line(
        model=row.name,
        figure=f"slower or worse, of {len(returned)} returned",
        ours=f"{len(slower)} slower, {len(worse)} worse",
        must="0",
        reached=not slower and not worse,
    )


def _seconds_line(row: Row, made: list[Made]) -> Line:
    assert row.seconds is not None
    seconds = max(one.seconds for one in made if one.is_searched)
    must, stretch = row.seconds
    return Line(
        model=row.name,
        figure="whole search",
        ours=f"{seconds / 60:.1f} min",
        must=f"{must / 60:g} min",
        reached=seconds <= must,
        stretch=f"{stretch / 60:g} min",
        stretched=seconds <= stretch,
    )


def _line(
    row: Row,
    figure: str,
    text: str,
    value: float,
    *,
    must: float | None,
    stretch: float | None,
    peers: dict[str, str],
) -> Line:
    return Line(
        model=row.name,
        figure=figure,
        ours=text,
        must="" if must is None else f"{must:g}x",
        reached=None if must is None else value >= must,
        stretch="" if stretch is None else f"{stretch:g}x",
        stretched=None if stretch is None else value >= stretch,
        peers=peers,
    )


def _yes(reached: bool | None) -> str:
    return "" if reached is None else "yes" if reached else "NO"
