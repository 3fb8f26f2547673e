"""Writes a compression report: the page, the numbers and the model card, or nothing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from compress.report.compression import as_json, read_report
from compress.report.model_card import card_of
from compress.report.page import page_of
from hlserve.report.folder import require_folder, write_files

PAGE, DATA, CARD = "report.html", "report.json", "MODEL_CARD.md"


def report_files(report: dict[str, Any]) -> dict[str, bytes]:
    """The report's files by name, as publishing puts them beside the model.

    Raises:
        DataError: a value is not of the kind that its key holds.
    """
    read = read_report(report)
    numbers = msgspec.json.format(as_json(report), indent=2) + b"\n"
    return {PAGE: page_of(read).encode(), DATA: numbers, CARD: card_of(read).encode()}


def write_report(files: Mapping[str, bytes], folder: Path) -> Path:
    """Writes the folder of a report, see ``report_files``, whole or not at all.

    An older report is replaced.

    Returns:
        The page.

    Raises:
        ConfigError: the folder holds other things, or cannot be made.
    """
    write_files(folder, files)
    return folder / PAGE


def require_report_folder(folder: Path) -> None:
    """Finds out before the search that the folder can be written.

    Raises:
        ConfigError: it is a file, holds other things than a report, or cannot be made.
    """
    require_folder(folder, (PAGE, DATA, CARD))
