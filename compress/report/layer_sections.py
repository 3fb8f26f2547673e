"""What was done to each layer and why, how sensitive it is, and where its values are cut."""

from __future__ import annotations

from collections.abc import Sequence

from compress.report import plots, wording
from compress.report.compression import (
    CompressionReport,
    GroupSensitivity,
    Histogram,
    Layer,
    LayerState,
)
from compress.report.tables import figure, look, without_empty_columns
from hlserve.report.markup import Markup, element, table
from hlserve.report.wording import DASH, number

MOST_LINES = 12  # groups in one plot: more lines cannot be told apart
MOST_BARS = 30
MOST_HISTOGRAMS = 12


def layer_section(report: CompressionReport) -> Markup:
    """Every layer before and after, and the reason."""
    head = (
        *("layer", "kind", "why", "shape before", "shape after"),
        *("parameters before", "parameters after", "format", "rank"),
    )
    lines = [_layer_line(layer) for layer in report.layers]
    words = 3 if any(line[2] for line in lines) else 2
    return table(*without_empty_columns(head, lines), words=words)


def sensitivity_section(report: CompressionReport, with_plots: bool) -> Markup:
    """What pruning one group, or quantizing one layer, costs by itself."""
    groups = sorted(report.sensitivity.pruning, key=_worst_loss, reverse=True)
    layers = sorted(report.sensitivity.quantization, key=lambda s: -(s.damage or 0.0))
    parts = [look("What costs much is left alone; what costs nothing is where width can go.")]
    if with_plots:
        drawn = [figure(plots.pruning_plot(groups[:MOST_LINES]))] if groups else []
        drawn += [figure(plots.quantization_plot(layers[:MOST_BARS]))] if layers else []
        parts.append(element("div", *drawn, cls="grid"))
        if len(groups) > MOST_LINES or len(layers) > MOST_BARS:
            parts.append(element("p", "Only the most sensitive are drawn.", cls="note"))
    if groups:
        lines = [
            (group.group, wording.count(group.width), number(kept), number(loss))
            for group in groups
            for kept, loss in group.losses
        ]
        parts.append(_folded("Pruning, in numbers", ("group", "width", "kept", "loss"), lines))
    if layers:
        told = [(s.layer, number(s.damage), "float" if s.kept_float else "") for s in layers]
        parts.append(_folded("Integers, in numbers", ("layer", "damage", "kept"), told))
    return Markup("".join(parts))


def calibration_section(report: CompressionReport, with_plots: bool) -> Markup:
    """Histograms with their cuts, those that lose most first."""
    ordered = sorted(report.calibration, key=lambda h: -(share_outside(h) or 0.0))
    parts = [
        look(
            "Integers hold what is between the dashed cuts; what lies outside becomes the nearest "
            "that they hold. A cut far inside buys finer steps for the many."
        )
    ]
    if with_plots:
        shown = ordered[:MOST_HISTOGRAMS]
        for i in range(0, len(shown), plots.A_ROW):
            drawn = plots.calibration_plot(shown[i : i + plots.A_ROW], i)
            parts.append(figure(drawn, is_wide=True))
        if len(ordered) > MOST_HISTOGRAMS:
            parts.append(element("p", f"{MOST_HISTOGRAMS} of {len(ordered)} drawn.", cls="note"))
    head = ("tensor", "values", "lowest", "highest", "cut at", "and at", "outside")
    lines = [
        (
            h.name,
            wording.count(sum(h.counts)),
            *map(number, (h.low, h.high, h.cut_low, h.cut_high)),
            wording.percent(share_outside(h)),
        )
        for h in ordered
    ]
    return Markup("".join(parts) + table(head, lines))


def share_outside(histogram: Histogram) -> float | None:
    """The share of values beyond a cut, else that of bins whose middle is; None if not known."""
    if histogram.clipped is not None:
        return histogram.clipped
    total, n = sum(histogram.counts), len(histogram.counts)
    if not total or histogram.low is None or histogram.high is None:
        return None
    width = (histogram.high - histogram.low) / n
    outside = 0.0
    for i, count in enumerate(histogram.counts):
        middle = histogram.low + (i + 0.5) * width
        is_low = histogram.cut_low is not None and middle < histogram.cut_low
        is_high = histogram.cut_high is not None and middle > histogram.cut_high
        outside += count if is_low or is_high else 0.0
    return outside / total


# ----- below


def _layer_line(layer: Layer) -> tuple[str, ...]:
    before, after = layer.before or LayerState(), layer.after or LayerState()
    is_gone = layer.before is not None and layer.after is None
    return (
        *(layer.name, layer.kind, layer.why),
        *(wording.shape(before.shape), "gone" if is_gone else wording.shape(after.shape)),
        *map(wording.count, (before.parameters, after.parameters)),
        *(after.format or DASH, wording.count(after.rank)),
    )


def _worst_loss(group: GroupSensitivity) -> float:
    return max((loss for _, loss in group.losses if loss is not None), default=0.0)


def _folded(title: str, head: tuple[str, ...], lines: Sequence[Sequence[str]]) -> Markup:
    return element("details", element("summary", title), table(head, lines))
