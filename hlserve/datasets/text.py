"""Texts with their labels: a line each, a CSV table, or files in class folders."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from hlserve.datasets.class_folders import ClassFile, classified, contents
from hlserve.datasets.dataset import Dataset
from hlserve.datasets.raw_items import RawItems, made_dataset
from hlserve.errors import DataError
from hlserve.frontend import FrontEnd

TEXT_COLUMN = "text"
_LABEL_COLUMNS = ("label", "y")


def read_text_lines(
    path: Path, *, target: str | None = None, frontend: FrontEnd | str | None = None
) -> Dataset:
    """Texts of a ``.txt`` or ``.tsv`` file in UTF-8: text, tab, label on each line.

    Only the last tab of a line counts, and only line feeds end a line. A first line that names
    a column ``text`` is a header: then the columns may be in any order and number. Lines without
    any tab are texts without labels.

    Raises:
        DataError: a line has no label where others have, the encoding is wrong, or there is
            no such column.
    """
    lines = [
        (number, line.removesuffix("\r"))
        for number, line in enumerate(_decoded(path).split("\n"), 1)
        if line.strip()
    ]
    if not lines:
        raise DataError(f"'{path}': empty, expected a text and its label a line")
    header = [name.strip() for name in lines[0][1].split("\t")]
    if TEXT_COLUMN in header:
        rows = [(number, line.split("\t")) for number, line in lines[1:]]
        return _of_table(path, header, rows, target, frontend)
    if target is not None:
        raise DataError(
            f"'{path}': no header that names the column '{TEXT_COLUMN}', so there is no column "
            f"'{target}'; leave the target out"
        )
    return made_dataset(path, "text", _of_lines(path, lines), None, frontend)


def read_text_csv(
    path: Path, *, target: str | None = None, frontend: FrontEnd | str | None = None
) -> Dataset:
    """Texts of a CSV file with the column ``text`` and one of labels.

    Raises:
        DataError: not well-formed, the encoding is wrong, or there is no such column.
    """
    reader = csv.reader(io.StringIO(_decoded(path), newline=""), strict=True)
    try:
        rows = [(reader.line_num, row) for row in reader if row]
    except csv.Error as error:
        raise DataError(f"'{path}': not well-formed CSV: {error}") from error
    header = [name.strip() for name in rows[0][1]] if rows else []
    return _of_table(path, header, rows[1:], target, frontend)


def is_text_csv(path: Path) -> bool:
    """Whether a CSV is a text and its label: a header of ``text`` and at most one more name."""
    try:
        with path.open("rb") as file:
            first = file.readline(4096).decode("utf-8-sig", errors="replace")
    except OSError:
        return False  # told by the reader
    names = [name.strip().strip('"') for name in first.split(",")]
    return TEXT_COLUMN in names and len(names) <= 2


def read_texts(path: Path, names: Sequence[str], frontend: FrontEnd | str | None = None) -> Dataset:
    """Texts in class folders, a file each, in a folder or zip archive; parts as for sounds.

    Raises:
        DataError: the files lie in no such form, or one is not UTF-8.
    """
    files = classified(path, names, by_file_name=False)
    train = _of_files(path, [file for file in files if file.part == "train"])
    test = _of_files(path, [file for file in files if file.part == "test"])
    return made_dataset(path, "text", train, test, frontend)


def decoded(content: bytes, where: str) -> str:
    """UTF-8 to text, a byte order mark left out.

    Raises:
        DataError: it is not UTF-8; names the line.
    """
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise DataError(
            f"{where}: line {line} is not UTF-8; save the file as UTF-8, such as with "
            "`iconv -f latin1 -t utf-8`"
        ) from error


# ----- below


def _decoded(path: Path) -> str:
    try:
        return decoded(path.read_bytes(), f"'{path}'")
    except OSError as error:
        raise DataError(f"'{path}': cannot be read: {error.strerror or error}") from error


def _of_lines(path: Path, lines: Sequence[tuple[int, str]]) -> RawItems:
    names = [f"line {number}" for number, _ in lines]
    if not any("\t" in line for _, line in lines):
        return RawItems([line for _, line in lines], names, None)
    texts, labels = [], []
    for number, line in lines:
        text, _, label = line.rpartition("\t")
        if not text.strip() or not label.strip():
            raise DataError(f"'{path}': line {number} is no text, tab and label: {line[:60]!r}")
        texts.append(text)
        labels.append(label.strip())
    return RawItems(texts, names, labels)


def _of_table(
    path: Path,
    header: Sequence[str],
    rows: Sequence[tuple[int, list[str]]],
    target: str | None,
    frontend: FrontEnd | str | None,
) -> Dataset:
    if TEXT_COLUMN not in header or not rows:
        raise DataError(f"'{path}': expected a header with the column '{TEXT_COLUMN}' and rows")
    column = _label_column(path, header, target)
    for number, row in rows:
        if len(row) != len(header):
            raise DataError(
                f"'{path}': line {number} has {len(row)} cells, expected {len(header)} as in the "
                "header"
            )
        if column is not None and not row[column].strip():
            raise DataError(f"'{path}': line {number} has no label")
    place = list(header).index(TEXT_COLUMN)
    items = RawItems(
        [row[place] for _, row in rows],
        [f"line {number}" for number, _ in rows],
        None if column is None else [row[column].strip() for _, row in rows],
    )
    return made_dataset(path, "text", items, None, frontend)


def _label_column(path: Path, header: Sequence[str], target: str | None) -> int | None:
    others = [name for name in header if name != TEXT_COLUMN]
    wanted = (target,) if target is not None else _LABEL_COLUMNS
    found = [name for name in wanted if name in others]
    if not found and target is None and len(others) <= 1:
        found = others
    if not found and others:
        raise DataError(
            f"'{path}': no column '{wanted[0]}' for the labels, it has "
            f"{', '.join(map(repr, header))}; name it with the target"
        )
    if not found and target is not None:
        raise DataError(f"'{path}': no column '{target}', only '{TEXT_COLUMN}'")
    return list(header).index(found[0]) if found else None


def _of_files(path: Path, files: Sequence[ClassFile]) -> RawItems:
    names = [file.name for file in files]
    texts = [
        decoded(content, f"'{path}': '{name}'")
        for name, content in zip(names, contents(path, names), strict=True)
    ]
    return RawItems(texts, [f"'{name}'" for name in names], [file.label for file in files])
