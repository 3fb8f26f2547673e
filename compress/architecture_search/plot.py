"""The front as a picture: the metric against what a network costs (extra `report`)."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

from compress.architecture_search.report import Figure, FrontNetwork, Report
from hlserve.errors import MissingDependencyError
from hlserve.nn.atomic_file import write_atomically

FILE = "front.svg"
_FRONT, _TRIED, _CHOSEN = "#1f5fa8", "#9aa4ad", "#c4432b"


def draw_front(report: Report, folder: Path, *, file: str = FILE) -> Path:
    """Draws every trial against its multiply-accumulates, and the front against its latency.

    Args:
        report: of the search.
        folder: to draw into.
        file: ``.svg``, or another ending that matplotlib knows.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure as Canvas
    except ImportError as error:
        raise MissingDependencyError(
            'matplotlib is not installed; type: pip install "hlserve[report]"'
        ) from error
    # Text stays text, and the same report gives the same file.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "front", "font.size": 9}):
        canvas = Canvas(figsize=(10, 4.2), layout="constrained")
        cost, latency = canvas.subplots(1, 2, sharey=True)
        _draw_cost(cost, report)
        _draw_latency(latency, report)
        cost.set_ylabel(_metric_label(report))
        _limit(cost, report)
        cost.legend(loc="best", fontsize=8, title=_left_out(cost, report), title_fontsize=8)
        path = folder / file
        metadata = {"Date": None} if path.suffix == ".svg" else None
        drawn = BytesIO()
        canvas.savefig(drawn, format=path.suffix[1:], metadata=metadata, dpi=150)
    write_atomically(path, drawn.getvalue())
    return path


def _draw_cost(axes: Any, report: Report) -> None:
    for state, marker, label in (("trained", "o", "trained"), ("stopped", "x", "stopped early")):
        tried = [t for t in report.trials if t.state == state and t.metric is not None]
        axes.scatter(
            [t.macs for t in tried],
            [t.metric for t in tried],
            s=14,
            marker=marker,
            color=_TRIED,
            linewidths=1,
            label=label,
        )
    front = sorted(report.front, key=lambda network: network.macs)
    axes.step(
        [n.macs for n in front],
        [n.validation.value for n in front],
        where="post",
        color=_FRONT,
        linewidth=1,
    )
    _points(axes, front, [n.macs for n in front], [n.validation for n in front], "front (95 %)")
    chosen = _chosen(report)
    axes.scatter(
        chosen.macs,
        chosen.validation.value,
        s=90,
        facecolors="none",
        edgecolors=_CHOSEN,
        linewidths=1.8,
        zorder=4,
        label=f"recommended: {chosen.architecture}",
    )
    _scale(axes, "multiply-accumulates a row")
    axes.grid(alpha=0.25)


def _draw_latency(axes: Any, report: Report) -> None:
    for batch, color in zip(report.front[0].latency_us, (_FRONT, "#2b8a5f"), strict=False):
        told = "1 row a run" if batch == "1" else f"{batch} rows a run"
        _points(
            axes,
            report.front,
            [n.latency_us[batch] for n in report.front],
            [n.validation for n in report.front],
            told,
            color=color,
        )
    chosen = _chosen(report)
    axes.scatter(
        list(chosen.latency_us.values()),
        [chosen.validation.value] * len(chosen.latency_us),
        s=90,
        facecolors="none",
        edgecolors=_CHOSEN,
        linewidths=1.8,
        zorder=4,
    )
    _scale(axes, "latency in ONNX Runtime, one thread, p50 (µs)")
    axes.legend(loc="best", fontsize=8)
    axes.grid(alpha=0.25)


def _points(
    axes: Any,
    networks: list[FrontNetwork],
    costs: list[Any],
    figures: list[Figure],
    label: str,
    color: str = _FRONT,
) -> None:
    values = [figure.value for figure in figures]
    below = [figure.value - figure.low for figure in figures]
    above = [figure.high - figure.value for figure in figures]
    axes.errorbar(
        costs,
        values,
        yerr=[below, above],
        fmt="o",
        color=color,
        markersize=4.5,
        elinewidth=1,
        capsize=2,
        label=label,
        zorder=3,
    )


def _scale(axes: Any, label: str) -> None:
    """Logarithmic, with plain numbers, enough of them for less than a decade too."""
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

    axes.set_xscale("log")
    axes.set_xlabel(label)
    low, high = axes.get_xlim()
    steps = (1.0,) if high > 100 * low else (1.0, 2.0, 5.0)
    locator = MaxNLocator(5) if high < 10 * low else LogLocator(subs=steps)
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:,.0f}" if x >= 1 else f"{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())


def _chosen(report: Report) -> FrontNetwork:
    return next(network for network in report.front if network.trial == report.recommended)


def _metric_label(report: Report) -> str:
    rows = report.front[0].validation.rows
    name = {"mae": "mean absolute error"}.get(report.metric, report.metric)
    return f"{name} on {rows:,} validation rows"


def _limit(axes: Any, report: Report) -> None:
    """Leaves out what is far worse than the front; else its differences could not be seen."""
    lows = [network.validation.low for network in report.front]
    highs = [network.validation.high for network in report.front]
    margin = 0.35 * (max(highs) - min(lows))
    if report.metric == "accuracy":
        axes.set_ylim(max(0.0, min(lows) - margin), min(1.005, max(highs) + margin / 4))
    else:
        axes.set_ylim(max(0.0, min(lows) - margin / 4), max(highs) + margin)


def _left_out(axes: Any, report: Report) -> str | None:
    low, high = axes.get_ylim()
    shown = [t.metric is not None and low <= t.metric <= high for t in report.trials]
    count = shown.count(False)
    return f"{count} worse trial{'s' * (count > 1)} not shown" if count else None
