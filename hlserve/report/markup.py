"""HTML from text and numbers: every text is escaped here, so data cannot write markup."""

from __future__ import annotations

import base64
import html
import struct
import zlib
from collections.abc import Iterable, Sequence

from hlserve.report.learning import Confusion, Picture

_SMALLEST_SIDE = 112  # pixels on the page


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


def text(value: str) -> Markup:
    """Text as HTML; what is Markup already stays."""
    return value if isinstance(value, Markup) else Markup(html.escape(value))


def element(tag: str, *children: str, cls: str = "") -> Markup:
    """``<tag class=cls>children</tag>``."""
    attribute = f' class="{html.escape(cls)}"' if cls else ""
    return Markup(f"<{tag}{attribute}>{''.join(text(child) for child in children)}</{tag}>")


def table(head: Sequence[str], body: Iterable[Sequence[str]], *, words: int = 1) -> Markup:
    """A table whose first ``words`` columns are words and whose others are numbers."""
    classes = ["" if i < words else "number" for i in range(len(head))]
    top = element("tr", *(element("th", h, cls=c) for h, c in zip(head, classes, strict=True)))
    rows = [
        element("tr", *(element("td", v, cls=c) for v, c in zip(row, classes, strict=True)))
        for row in body
    ]
    inner = element("table", element("thead", top), element("tbody", *rows))
    return element("div", inner, cls="scroll")


def bullets(items: Iterable[str]) -> Markup:
    """An unordered list."""
    return element("ul", *(element("li", item) for item in items))


def heat_table(matrix: Confusion) -> Markup:
    """A confusion matrix whose cells are the darker the larger their share of their row."""
    head = element("tr", element("th", "true ↓ predicted →"), *map(_column_head, matrix.labels))
    body = []
    for i, (label, counts) in enumerate(zip(matrix.labels, matrix.counts, strict=True)):
        total = max(1, sum(counts))
        cells = [_heat_cell(count, count / total, i == j) for j, count in enumerate(counts)]
        body.append(element("tr", element("th", label), *cells))
    inner = Markup(
        f'<table class="heat"><thead>{head}</thead><tbody>{"".join(body)}</tbody></table>'
    )
    return element("div", inner, cls="scroll")


def picture(image: Picture, alt: str) -> Markup:
    """An ``img`` whose pixels stand in the page."""
    data = base64.b64encode(_png(image)).decode()
    width = max(_SMALLEST_SIDE, image.width)
    return Markup(
        f'<img src="data:image/png;base64,{data}" alt="{html.escape(alt)}" width="{width}">'
    )


def _column_head(label: str) -> Markup:
    return element("th", element("span", label), cls="column")


def _heat_cell(count: int, share: float, is_diagonal: bool) -> Markup:
    colour = "var(--blue-rgb)" if is_diagonal else "var(--orange-rgb)"
    # Errors are rare: the square root lets them be seen.
    alpha = 0.75 * share if is_diagonal else 0.85 * share**0.5
    style = f' style="background:rgba({colour},{alpha:.2f})"' if count else ""
    return Markup(f"<td{style}>{count if count else '·'}</td>")


def _png(image: Picture) -> bytes:
    """The smallest file that PNG allows: 8 bits, no filter (PNG specification, 3rd edition, 11)."""
    colour_type = {1: 0, 3: 2}[image.channels]
    stride = image.width * image.channels
    lines = [image.pixels[i : i + stride] for i in range(0, len(image.pixels), stride)]
    header = struct.pack(">IIBBBBB", image.width, image.height, 8, colour_type, 0, 0, 0)
    body = zlib.compress(b"".join(b"\0" + line for line in lines), 9)
    chunks = ((b"IHDR", header), (b"IDAT", body), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(*chunk) for chunk in chunks)


def _chunk(kind: bytes, content: bytes) -> bytes:
    checksum = struct.pack(">I", zlib.crc32(kind + content))
    return struct.pack(">I", len(content)) + kind + content + checksum
