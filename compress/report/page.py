"""A compression report as one self-contained HTML page: no script, no network."""

from __future__ import annotations

from typing import Any

from compress.report.compression import CompressionReport, read_report
from compress.report.sections import sections
from hlserve.errors import MissingDependencyError
from hlserve.report.drawing import require_matplotlib
from hlserve.report.page import html_page


def render_html(report: dict[str, Any]) -> str:
    """The page; the same report gives the same bytes. Without matplotlib it has tables only.

    Raises:
        DataError: a value is not of the kind that its key holds.
    """
    return page_of(read_report(report))


def page_of(report: CompressionReport) -> str:
    """The page of a report that is read already."""
    title = f"{report.model}, compressed"
    return html_page(title, title, list(sections(report, with_plots=_has_matplotlib())))


# ----- below


def _has_matplotlib() -> bool:
    try:
        require_matplotlib()
    except MissingDependencyError:
        return False
    return True
