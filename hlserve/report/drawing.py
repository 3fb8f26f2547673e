"""Figures as inline SVG that follow the page's colours, light and dark; matplotlib draws them.

Colours are drawn as marks that stand for the page's CSS variables and are replaced by them, so
one picture serves both. The palette is Okabe and Ito's (2008), which colour-blind readers can
tell apart; lines differ by dashes and markers too.
"""

from __future__ import annotations

import html
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from hlserve.errors import MissingDependencyError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# mark -> the page's variable
INK, FAINT, BLUE, ORANGE, GREEN, PINK = (f"#0{i}0{i}0{i}" for i in range(1, 7))
_VARIABLES = {
    INK: "var(--ink)",
    FAINT: "var(--faint)",
    BLUE: "var(--blue)",
    ORANGE: "var(--orange)",
    GREEN: "var(--green)",
    PINK: "var(--pink)",
}
_STYLE: dict[str, Any] = {
    "axes.edgecolor": FAINT,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.labelcolor": INK,
    "axes.labelsize": 10,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.unicode_minus": True,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 10,
    "grid.alpha": 0.35,
    "grid.color": FAINT,
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "lines.linewidth": 2,
    "lines.markersize": 5,
    "svg.fonttype": "none",
    "text.color": INK,
    "xtick.color": INK,
    "xtick.labelsize": 9,
    "ytick.color": INK,
    "ytick.labelsize": 9,
}
_FONT = re.compile(r"font: (?:(bold|italic|\d{3}) )?([\d.]+px) [^;\"]+")
_PROLOGUE = re.compile(r"^.*?(?=<svg)", re.DOTALL)
_SIZE = re.compile(r' (?:width|height)="[\d.]+pt"')
_GROUP_ID = re.compile(r'<g id="([^"]*)">')


def require_matplotlib() -> None:
    """Finds out whether plots can be drawn.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    try:
        import matplotlib  # noqa: F401
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            'a report needs matplotlib; type: pip install "hlserve[report]"'
        ) from error


class Drawing:
    """A picture in the making; ``svg`` is there once ``drawing`` has ended.

    Attributes:
        axes: to draw on.
        titles: what a part of the picture says under the pointer, by its ``gid``.
    """

    def __init__(self, axes: list[Axes]) -> None:
        self.axes = axes
        self.titles: dict[str, str] = {}
        self.svg = ""


@contextmanager
def drawing(name: str, alt: str, *, n_axes: int = 1, height: float = 3.2) -> Iterator[Drawing]:
    """Axes side by side to draw on; the picture is made when the block ends.

    Args:
        name: unlike that of any other picture of the page, so that no ids meet.
        alt: what it shows, for those who cannot see it.
        n_axes: how many axes.
        height: in inches; an axis is 5 wide.
    """
    import matplotlib
    from matplotlib.figure import Figure

    style: Any = {**_STYLE, "svg.hashsalt": name}
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(5.0 * n_axes, height), layout="constrained")
        made = Drawing([figure.add_subplot(1, n_axes, i + 1) for i in range(n_axes)])
        yield made
        buffer = io.StringIO()
        figure.savefig(
            buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None}
        )
    made.svg = _inline(buffer.getvalue(), alt, made.titles)


def _inline(svg: str, alt: str, titles: dict[str, str]) -> str:
    svg = _PROLOGUE.sub("", svg)
    for mark, variable in _VARIABLES.items():
        svg = svg.replace(mark, variable)
    head, body = svg.split(">", 1)
    head = _SIZE.sub("", head) + f' role="img" aria-label="{html.escape(alt)}">'
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = _GROUP_ID.sub(lambda found: _group(titles.get(found[1])), body)
    return head + _FONT.sub(_page_font, body).strip()


def _group(title: str | None) -> str:
    return "<g>" if title is None else f"<g><title>{html.escape(title)}</title>"


def _page_font(found: re.Match[str]) -> str:
    weight = f"{found[1]} " if found[1] else ""
    return f"font: {weight}{found[2]} var(--font)"
