"""Pieces of the page that several sections use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hlserve.report.markup import Markup, element
from hlserve.report.wording import DASH


def look(sentence: str) -> Markup:
    """What to look at in a section."""
    return element("p", sentence, cls="look")


def figure(svg: str, *, is_wide: bool = False) -> Markup:
    """A picture with its place on the page."""
    return element("div", Markup(svg), cls="figure wide" if is_wide else "figure")


def pairs(facts: Mapping[str, str | None]) -> Markup:
    """Names with their values."""
    items = "".join(element("dt", k) + element("dd", v or DASH) for k, v in facts.items())
    return element("dl", Markup(items))


def settings_in_words(settings: Mapping[str, Any]) -> str:
    """Settings as ``name=value``."""
    return ", ".join(f"{name}={value}" for name, value in settings.items())


def without_empty_columns(
    head: Sequence[str], lines: Sequence[Sequence[str]]
) -> tuple[list[str], list[list[str]]]:
    """The table without the columns that no line fills."""
    kept = [i for i in range(len(head)) if i == 0 or any(row[i] not in ("", DASH) for row in lines)]
    return [head[i] for i in kept], [[row[i] for i in kept] for row in lines]
