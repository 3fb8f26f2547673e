"""Writes a report folder: complete, or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path

import msgspec

from hlserve.errors import ConfigError

PAGE, DATA = "index.html", "report.json"


def require_folder(folder: Path, names: Collection[str] = (PAGE, DATA)) -> None:
    """Finds out before the work that the folder can be written, and what it may replace.

    Args:
        folder: of the report.
        names: of a report's files; others are not replaced.

    Raises:
        ConfigError: it is a file, holds other things than a report, or cannot be made.
    """
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"--report {folder}: is a file, expected a folder")
    others = sorted({p.name for p in folder.iterdir()} - set(names)) if folder.exists() else []
    if others:
        raise ConfigError(
            f"--report {folder}: holds other files ({others[0]}); name a folder of its own"
        )
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder.parent):
            pass
    except OSError as error:
        raise ConfigError(f"--report {folder}: cannot write there: {error.strerror}") from error


def write_folder(folder: Path, report: msgspec.Struct, page: str) -> int:
    """Writes ``index.html`` and ``report.json``; an older report is replaced.

    Returns:
        The page's size in bytes.

    Raises:
        ConfigError: something else has come into the folder.
    """
    content = page.encode()
    encoded = msgspec.json.format(msgspec.json.encode(report), indent=1)
    write_files(folder, {PAGE: content, DATA: encoded + b"\n"})
    return len(content)


def write_files(folder: Path, contents: Mapping[str, bytes]) -> None:
    """Writes a folder that holds these files and no others; one of the same names is replaced.

    The files are written into a folder beside it, which then takes its name.

    Raises:
        ConfigError: the folder holds other things, or cannot be made.
    """
    require_folder(folder, contents.keys())
    folder = folder.resolve()
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        made, old = temporary / "new", temporary / "old"
        made.mkdir()
        for name, content in contents.items():
            _write_durably(made / name, content)
        if folder.exists():
            folder.rename(old)
        try:
            made.rename(folder)
        except OSError:
            if old.exists():
                old.rename(folder)
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write_durably(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
