"""What compression did to every class, on the page."""

from __future__ import annotations

from collections.abc import Sequence

from compress.report import plots, wording
from compress.report.classes import SIGNIFICANCE
from compress.report.compression import ClassChange, Classes, Matrix
from compress.report.tables import figure, look, without_empty_columns
from hlserve.report.markup import Markup, bullets, element, table
from hlserve.report.wording import DASH, MINUS

READABLE_CLASSES = 30
MOST_PAIRS = 15


def class_section(classes: Classes, with_plots: bool) -> Markup:
    """Warnings, the change of every class, and where answers went."""
    changes = sorted(changes_of(classes), key=_gain)
    parts = [
        look(
            "A mean that holds can hide a class that pays for it. The largest falls stand first; "
            "p is McNemar's exact test on the class's rows, corrected by Holm for all classes."
        )
    ]
    if classes.warnings:
        parts.append(bullets(element("span", w, cls="flag") for w in classes.warnings))
    if with_plots and changes:
        parts.append(figure(plots.class_plot(changes[:READABLE_CLASSES])))
    listed = _change_table(changes)
    if len(changes) > READABLE_CLASSES:
        parts.append(_change_table(changes[:READABLE_CLASSES]))
        listed = element("details", element("summary", f"All {len(changes)} classes"), listed)
    parts.append(listed)
    if classes.original and classes.best and len(classes.original) == len(classes.best):
        parts.append(_matrices(classes.labels, classes.original, classes.best))
    return Markup("".join(parts))


def changes_of(classes: Classes) -> tuple[ClassChange, ...]:
    """The changes as they were tested, or else, without a test, from the matrices."""
    if classes.changes or not classes.original or not classes.best:
        return classes.changes
    pairs = zip(classes.original, classes.best, strict=False)
    return tuple(
        ClassChange(_label(classes.labels, i), sum(was), was[i] / sum(was), now[i] / sum(was))
        for i, (was, now) in enumerate(pairs)
        if sum(was)
    )


# ----- below


def _gain(change: ClassChange) -> float:
    return (change.best or 0.0) - (change.original or 0.0)


def _change_table(changes: Sequence[ClassChange]) -> Markup:
    head = ("class", "rows", "original", "chosen", "change", "got worse", "got better", "p", "")
    lines = [
        (
            *(c.label, wording.count(c.rows)),
            *map(wording.percent, (c.original, c.best)),
            _points(_gain(c)),
            *map(wording.count, (c.worse, c.better)),
            wording.p_value(c.p),
            _judgement(c),
        )
        for c in changes
    ]
    return table(*without_empty_columns(head, lines))


def _judgement(change: ClassChange) -> str:
    if change.p is None or change.p >= SIGNIFICANCE:
        return ""
    return element("span", "falls", cls="flag") if _gain(change) < 0 else "rises"


def _points(gain: float) -> str:
    return f"{100 * gain:+.2f} pp".replace("-", MINUS)


def _matrices(labels: Sequence[str], before: Matrix, after: Matrix) -> Markup:
    difference = [
        [now - was for was, now in zip(*rows, strict=False)]
        for rows in zip(before, after, strict=True)
    ]
    parts = [element("h3", "Confusion, chosen minus original")]
    if not any(map(any, difference)):
        parts.append(element("p", "No count changed."))
    elif len(difference) <= READABLE_CLASSES:
        parts += [
            _difference_table(labels, before, difference),
            element(
                "p", "Orange is worse, blue is better; colour: share of the class.", cls="note"
            ),
        ]
    else:
        parts.append(_pair_table(labels, difference))
    if len(before) <= READABLE_CLASSES:
        for name, matrix in (("original", before), ("chosen", after)):
            head = ("true ↓ answered →", *(_label(labels, i) for i in range(len(matrix))))
            lines = [(_label(labels, i), *map(str, row)) for i, row in enumerate(matrix)]
            summary = element("summary", f"Confusion of the {name}")
            parts.append(element("details", summary, table(head, lines)))
    return Markup("".join(parts))


def _difference_table(labels: Sequence[str], before: Matrix, difference: list[list[int]]) -> Markup:
    names = [_label(labels, i) for i in range(len(difference))]
    columns = [element("th", element("span", name), cls="column") for name in names]
    head = element("tr", element("th", "true ↓ answered →"), *columns)
    body = []
    for i, changes in enumerate(difference):
        total = max(1, sum(before[i]))
        cells = [_cell(change, total, i == j) for j, change in enumerate(changes)]
        body.append(element("tr", element("th", names[i]), *cells))
    rows = "".join(body)
    inner = Markup(f'<table class="heat"><thead>{head}</thead><tbody>{rows}</tbody></table>')
    return element("div", inner, cls="scroll")


def _cell(change: int, total: int, is_diagonal: bool) -> Markup:
    if not change:
        return Markup("<td>·</td>")
    is_better = (change > 0) == is_diagonal
    colour = "var(--blue-rgb)" if is_better else "var(--orange-rgb)"
    # Changes are small: the square root lets them be seen.
    alpha = min(0.85, 1.6 * (abs(change) / total) ** 0.5)
    told = f"{change:+d}".replace("-", MINUS)
    return Markup(f'<td style="background:rgba({colour},{alpha:.2f})">{told}</td>')


def _pair_table(labels: Sequence[str], difference: list[list[int]]) -> Markup:
    pairs = [
        (-abs(change), i, j, change)
        for i, row in enumerate(difference)
        for j, change in enumerate(row)
        if change and i != j
    ]
    lines = [
        (_label(labels, i), _label(labels, j), f"{change:+d}".replace("-", MINUS))
        for _, i, j, change in sorted(pairs)[:MOST_PAIRS]
    ]
    note = element("p", "The pairs that changed most.", cls="note")
    return Markup(note + table(("true", "answered", "rows"), lines, words=2))


def _label(labels: Sequence[str], index: int) -> str:
    return (labels[index] if index < len(labels) else str(index)) or DASH
