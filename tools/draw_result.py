"""Draws the README's picture from compression reports; needs `pip install matplotlib`.

python tools/draw_result.py docs/result.svg models/mlp/1/report/report.json models/lenet5/1/...
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl  # type: ignore[import-not-found,unused-ignore]  # not of the test set
from matplotlib import pyplot as plt  # type: ignore[import-not-found,unused-ignore]
from matplotlib import ticker

CHOSEN, REFUSED, OTHER, ORIGINAL = "#0b7a75", "#c8553d", "#8fa3ad", "#1b1b1e"


def main() -> None:
    """One panel a report: every candidate's file size against its accuracy."""
    target, *sources = map(Path, sys.argv[1:])
    mpl.rcParams.update({"font.size": 10, "svg.hashsalt": "hlserve", "svg.fonttype": "path"})
    figure, panels = plt.subplots(
        1, len(sources), figsize=(5.2 * len(sources), 4.1), squeeze=False, layout="constrained"
    )
    for panel, source in zip(panels[0], sources, strict=True):
        _draw(panel, json.loads(source.read_text()))
    found = [panel.get_legend_handles_labels() for panel in panels[0]]
    unique = {n: h for hs, ns in found for h, n in zip(hs, ns, strict=True)}
    figure.legend(
        unique.values(), unique.keys(), loc="outside lower center", ncols=4, frameon=False
    )
    figure.savefig(target, metadata={"Date": None})


def _draw(panel: Any, report: dict[str, Any]) -> None:
    original, best = report["original"], report["best"]
    for row in report["tried"]:
        if row["value"] is None or row["name"] == best["name"]:
            continue
        is_refused = bool(row["refusal"])
        panel.scatter(
            row["size_bytes"] / 1e3,
            100 * row["value"],
            s=36,
            color=REFUSED if is_refused else OTHER,
            marker="x" if is_refused else "o",
            label="outside the bound, or slower" if is_refused else "inside the bound, faster",
        )
    floor = 100 * (original["value"] - report["max_drop"])
    panel.axhline(floor, color=REFUSED, linewidth=1, linestyle="--")
    panel.annotate(
        "the bound",
        (1, floor),
        xycoords=("axes fraction", "data"),
        textcoords="offset points",
        xytext=(-4, 4),
        ha="right",
        color=REFUSED,
    )
    for row, colour, name in ((original, ORIGINAL, "original"), (best, CHOSEN, "handed back")):
        x, y = row["size_bytes"] / 1e3, 100 * row["value"]
        panel.scatter(x, y, s=90, color=colour, marker="D", zorder=3, label=name)
    ratio = original["size_bytes"] / best["size_bytes"]
    largest = max(report["best"]["speed_up"], key=int)
    gain = best["speed_up"][largest]
    name = Path(report["model"]).stem
    panel.set_title(f"{name}: {ratio:.1f}x smaller, {gain:.2f}x faster at batch {largest}")
    panel.set_xscale("log")
    panel.set_xticks([10, 20, 50, 100, 200, 500, 1000], minor=False)
    panel.xaxis.set_major_formatter(ticker.FormatStrFormatter("%d"))
    panel.xaxis.set_minor_locator(ticker.NullLocator())
    panel.set_xlim(10, 1.6 * original["size_bytes"] / 1e3)
    panel.set_xlabel("file, kB")
    panel.set_ylabel(f"{report['metric']}, %")
    panel.grid(visible=True, alpha=0.25)


main()
