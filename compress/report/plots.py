"""The plots of a compression, each as inline SVG."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from compress.report import wording
from compress.report.compression import (
    ClassChange,
    CompressionReport,
    GroupSensitivity,
    Histogram,
    LayerSensitivity,
    Row,
)
from hlserve.report.drawing import BLUE, FAINT, GREEN, INK, ORANGE, PINK, Drawing, drawing

A_ROW = 3  # histograms side by side
_BAR_INCHES = 0.27
_NAME_LENGTH = 24
_FAR = 6.0  # allowed drops below the original: what is worse stands on the plot's floor


@dataclass(frozen=True, slots=True)
class Against:
    """What the metric is plotted against: ``batch`` of the latency, or bytes where it is None."""

    batch: str | None = None

    @property
    def title(self) -> str:
        """Of the plot."""
        return "Against bytes" if self.batch is None else f"Against latency, batch {self.batch}"

    @property
    def label(self) -> str:
        """Of the axis."""
        return "file, kB (log scale)" if self.batch is None else "median of a run, ms (log scale)"

    def of(self, row: Row) -> float | None:
        """Where a model stands, in kB or ms."""
        if self.batch is None:
            return row.size_bytes / 1e3 if row.size_bytes else None
        latency = row.latency_s.get(self.batch)
        return 1e3 * latency.p50 if latency and latency.p50 else None


def pareto_plot(report: CompressionReport, against: Against) -> str:
    """The metric over bytes or latency; refused candidates say why under the pointer."""
    name = f"pareto-{against.batch or 'bytes'}"
    with drawing(name, f"{report.metric.name}: {against.title}", height=3.6) as made:
        (axes,) = made.axes
        floor = _floor(report)
        for i, row in enumerate(_others(report)):
            _mark(made, row, against, report, floor=floor, gid=f"candidate-{i}")
        on_front = [r for r in (*report.tried, report.original) if r.name in report.pareto]
        line = sorted((x, _scaled(r, report)) for r in on_front if (x := against.of(r)))
        if line:
            axes.plot(*zip(*line, strict=True), color=BLUE, linewidth=1.2, zorder=2)
        _mark(made, report.original, against, report, floor=None, gid="original")
        if not report.is_kept:
            _mark(made, report.chosen, against, report, floor=None, gid="chosen")
        level = _allowed(report)
        if level is not None:
            axes.axhline(level, color=PINK, linestyle=":", linewidth=1.4, zorder=1)
        axes.set_xscale("log")
        _plain_ticks(made)
        axes.set_title(against.title)
        axes.set_xlabel(against.label)
        axes.set_ylabel(report.metric.name + (", %" if report.metric.is_share else ""))
        axes.margins(x=0.12, y=0.1)
    return made.svg


def step_plot(report: CompressionReport) -> str:
    """The file's size after every step of the chosen model's recipe."""
    steps = [s for s in report.chosen.steps if s.size_bytes]
    sizes = [report.original.size_bytes or 0, *(s.size_bytes or 0 for s in steps)]
    names = ["original", *(_short(s.technique) for s in steps)]
    with drawing("steps", "File size after each step", height=1.1 + 0.35 * len(sizes)) as made:
        (axes,) = made.axes
        where = np.arange(len(sizes))
        axes.barh(where, [s / 1e3 for s in sizes], color=[FAINT, *[BLUE] * len(steps)], height=0.6)
        for y, s in zip(where, sizes, strict=True):
            axes.text(
                s / 1e3, float(y), f"\N{NO-BREAK SPACE}{wording.size(s)}", va="center", fontsize=9
            )
        axes.set_yticks(where, names)
        axes.invert_yaxis()
        axes.grid(axis="y", visible=False)
        axes.margins(x=0.2)
        axes.set_xlabel("file, kB")
        axes.set_title("What each step leaves")
    return made.svg


def pruning_plot(groups: Sequence[GroupSensitivity]) -> str:
    """Loss over the share of channels kept, a line a group."""
    styles = [(c, d) for d in ("o-", "s--", "^:") for c in (BLUE, ORANGE, GREEN, PINK)]
    with drawing("pruning", "Loss by the share of channels kept", height=3.6) as made:
        (axes,) = made.axes
        for group, (color, style) in zip(groups, styles, strict=False):
            points = [(100 * kept_share(group, k), v) for k, v in group.losses if v is not None]
            if points:
                x, y = zip(*sorted(points), strict=True)
                axes.plot(x, y, style, color=color, label=_short(group.group), linewidth=1.5)
        axes.set_xlabel("channels kept, %")
        axes.set_ylabel("loss without fine-tuning")
        axes.set_title("Pruning, one group at a time")
        if axes.lines:
            axes.legend(fontsize=8, ncols=1 + len(axes.lines) // 7)
    return made.svg


def quantization_plot(layers: Sequence[LayerSensitivity]) -> str:
    """What integers cost in each layer alone; those kept in floats in another colour."""
    height = 1.3 + _BAR_INCHES * max(2, len(layers))
    with drawing("quantization", "Damage by integers, layer by layer", height=height) as made:
        (axes,) = made.axes
        where = np.arange(len(layers))
        colors = [ORANGE if layer.kept_float else BLUE for layer in layers]
        axes.barh(where, [layer.damage or 0.0 for layer in layers], color=colors, height=0.6)
        axes.set_yticks(where, [_short(layer.layer) for layer in layers])
        axes.invert_yaxis()
        axes.grid(axis="y", visible=False)
        axes.set_xlabel("damage alone (orange: kept in floats)")
        axes.set_title("Integers, one layer at a time")
    return made.svg


def calibration_plot(histograms: Sequence[Histogram], number: int) -> str:
    """Values seen in calibration, and the cuts; up to three side by side."""
    alt = "Calibration histograms of " + ", ".join(h.name for h in histograms)
    with drawing(f"calibration-{number}", alt, n_axes=A_ROW, height=2.6) as made:
        for axes in made.axes[len(histograms) :]:
            axes.set_axis_off()
        for axes, histogram in zip(made.axes, histograms, strict=False):
            low, high = histogram.low or 0.0, histogram.high or 0.0
            edges = np.linspace(low, high if high > low else low + 1, len(histogram.counts) + 1)
            axes.stairs(histogram.counts, edges, fill=True, color=BLUE, alpha=0.8)
            for cut in (histogram.cut_low, histogram.cut_high):
                if cut is not None:
                    axes.axvline(cut, color=ORANGE, linestyle="--", linewidth=1.5)
            # A peak at 0 hides the tails, which are what is cut.
            axes.set_yscale("symlog", linthresh=1)
            axes.minorticks_off()
            axes.set_title(_short(histogram.name))
            axes.set_xlabel("value")
            axes.set_ylabel("how often (log)")
    return made.svg


def class_plot(changes: Sequence[ClassChange]) -> str:
    """Every class before and after."""
    height = 1.3 + _BAR_INCHES * max(2, len(changes))
    with drawing("class-changes", "Accuracy by class, before and after", height=height) as made:
        (axes,) = made.axes
        where = np.arange(len(changes))
        before = [100 * (c.original or 0.0) for c in changes]
        after = [100 * (c.best or 0.0) for c in changes]
        axes.hlines(where, before, after, color=FAINT, linewidth=2)
        axes.plot(before, where, "D", color=INK, markersize=5, label="original", linestyle="")
        axes.plot(after, where, "o", color=GREEN, markersize=6, label="chosen", linestyle="")
        axes.set_yticks(where, [_short(c.label) for c in changes])
        axes.set_ylim(len(changes) - 0.4, -0.6)
        axes.set_xlabel("% of the class's rows that are right")
        axes.set_title("Accuracy by class")
        axes.legend(loc="best", fontsize=8)
    return made.svg


def kept_share(group: GroupSensitivity, kept: float) -> float:
    """The share of a group that is kept: as it is told, or of its width where counts are."""
    is_count = any(k > 1 for k, _ in group.losses)
    return kept / group.width if is_count and group.width else kept


# ----- below


def _others(report: CompressionReport) -> list[Row]:
    marked = {report.original.name, report.chosen.name}
    return [row for row in report.tried if row.name not in marked and row.value is not None]


def _mark(
    made: Drawing,
    row: Row,
    against: Against,
    report: CompressionReport,
    *,
    floor: float | None,
    gid: str,
) -> None:
    x, y = against.of(row), _scaled(row, report)
    if x is None or np.isnan(y):
        return
    (axes,) = made.axes
    is_below = floor is not None and ((y < floor) == report.metric.higher_is_better)
    if gid == "original":
        style: dict[str, Any] = {"marker": "D", "color": INK, "s": 55, "zorder": 5}
    elif gid == "chosen":
        style = {"marker": "*", "color": GREEN, "s": 190, "zorder": 6}
    elif row.refusal:
        style = {"marker": "v" if is_below else "x", "color": FAINT, "s": 28, "zorder": 3}
    else:
        style = {"marker": "o", "color": BLUE, "s": 34, "zorder": 4}
    drawn = axes.scatter([x], [floor if is_below and floor is not None else y], **style)
    drawn.set_gid(gid)
    told = f"{row.name}: {wording.score(row.value, report.metric)}, {wording.size(row.size_bytes)}"
    made.titles[gid] = told + (f"; refused: {row.refusal}" if row.refusal else "")
    if gid in ("original", "chosen") and row.interval and None not in row.interval:
        ends = [_factor(report) * float(e) for e in row.interval if e is not None]
        axes.plot([x, x], ends, color=style["color"], linewidth=1.2, zorder=4)


def _scaled(row: Row, report: CompressionReport) -> float:
    return float("nan") if row.value is None else _factor(report) * row.value


def _factor(report: CompressionReport) -> float:
    return 100.0 if report.metric.is_share else 1.0


def _allowed(report: CompressionReport) -> float | None:
    """The metric at which the allowed drop is used up."""
    if report.max_drop is None or report.original.value is None:
        return None
    sign = -1 if report.metric.higher_is_better else 1
    return _factor(report) * (report.original.value + sign * report.max_drop)


def _floor(report: CompressionReport) -> float | None:
    """Beyond it the plot ends: hopeless candidates would press the others into one line."""
    level, best = _allowed(report), _scaled(report.chosen, report)
    if level is None or np.isnan(best):
        return None
    sign = -1 if report.metric.higher_is_better else 1
    original = _scaled(report.original, report)
    reach = max(
        _FAR * abs(level - original),
        1.5 * abs(best - original),
        0.01 * _factor(report) if report.metric.is_share else 0.1 * abs(original),
    )
    return original + sign * reach


def _plain_ticks(made: Drawing) -> None:
    """1, 2 and 5 of every decade, as plain numbers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    (axes,) = made.axes
    low, high = axes.get_xlim()
    subs = (1, 2, 5) if high / low < 300 else (1,)
    axes.xaxis.set_major_locator(LogLocator(subs=subs))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:,g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _short(name: str) -> str:
    """A name that fits beside an axis; a dollar sign would begin a formula."""
    plain = "".join(c if c.isprintable() else " " for c in name).replace("$", r"\$")
    return plain if len(plain) <= _NAME_LENGTH else f"{plain[: _NAME_LENGTH - 1]}…"
