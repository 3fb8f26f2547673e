"""What each step of the chosen recipe gained: the page and the terminal say it."""

from __future__ import annotations

from compress.report import wording
from compress.report.compression import CompressionReport, Row, Step
from compress.report.tables import settings_in_words

STEPS_HEAD = (
    *("step", "settings", "parameters", "MACs", "fewer MACs", "file, bytes", "smaller file"),
    "took",
)


def step_lines(report: CompressionReport) -> list[tuple[str, ...]]:
    """One line a step under ``STEPS_HEAD``, the original first; gains are over the line above."""
    before: Row | Step = report.original
    lines = [("original", "", *_sizes(before, before), "")]
    for step in report.chosen.steps:
        settings = settings_in_words(step.settings)
        took = wording.duration(step.seconds)
        lines.append((step.technique, settings, *_sizes(before, step), took))
        before = step
    return lines


# ----- below


def _sizes(before: Row | Step, after: Row | Step) -> tuple[str, ...]:
    return (
        *map(wording.count, (after.parameters, after.macs)),
        _gain(before.macs, after.macs, is_first=after is before),
        wording.count(after.size_bytes),
        _gain(before.size_bytes, after.size_bytes, is_first=after is before),
    )


def _gain(before: int | None, after: int | None, *, is_first: bool) -> str:
    if is_first or (before is not None and before == after):
        return ""
    return wording.ratio(wording.quotient(before, after))
