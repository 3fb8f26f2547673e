"""CSV files with a header line: numbers in columns, and one named target column."""

from __future__ import annotations

import csv
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import numpy as np
from numpy.typing import NDArray

from hlserve.datasets.dataset import Array, Dataset, Rows, Task
from hlserve.errors import DataError

_DEFAULT_TARGET = "y"
_MISSING = frozenset({"", "?", "-", "na", "n/a", "nan", "null", "none"})
_LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True, slots=True)
class _Table:
    """The cells as text; ``lines`` holds the line of the file where each row ends."""

    path: Path
    header: tuple[str, ...]
    rows: list[list[str]]
    lines: list[int]

    def column(self, index: int) -> list[str]:
        return [row[index].strip() for row in self.rows]

    def cell(self, row: int, column: int) -> str:
        """Where a cell stands, for a message; rows count from 1 below the header."""
        return (
            f"'{self.path}': row {row + 1} (line {self.lines[row]}), column '{self.header[column]}'"
        )


def read_csv(path: Path, *, target: str | None = None) -> Dataset:
    """Rows of a comma-separated UTF-8 file whose first line names the columns.

    Every column but the target must hold numbers. A target of text is classes, in sorted order;
    one of whole numbers that are exactly 0, 1, ..., n is class numbers; any other numbers are a
    regression's targets.

    Args:
        path: the file.
        target: the target column's name; ``y`` where it is not given, and then it may be missing.

    Raises:
        DataError: the header is missing, has an empty or a double name or lacks the target; a row
            has too few or too many cells; a cell is missing or no number; or the encoding is wrong.
    """
    table = _read_table(path)
    label_name = target or _DEFAULT_TARGET
    if target is not None and target not in table.header:
        names = ", ".join(f"'{name}'" for name in table.header)
        raise DataError(f"'{path}': no column '{target}' for the target, it has {names}")
    features = [index for index, name in enumerate(table.header) if name != label_name]
    if not features:
        raise DataError(
            f"'{path}': only the target column '{label_name}', expected inputs beside it"
        )
    x = np.empty((len(table.rows), len(features)), dtype=np.float32)
    for place, index in enumerate(features):
        x[:, place] = _numbers(table, index)
    task, class_labels, y = None, None, None
    if label_name in table.header:
        task, class_labels, y = _target(table, table.header.index(label_name))
    return Dataset(
        name=path.stem,
        train=Rows({"x": x}, y),
        test=None,
        task=task,
        class_labels=class_labels,
        units=None,
        feature_names=tuple(table.header[index] for index in features),
        licence="unknown",
        source=str(path),
    )


def _read_table(path: Path) -> _Table:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            return _parse(path, file)
    except UnicodeDecodeError as error:
        raise DataError(
            f"'{path}': line {_first_bad_line(path)} is not UTF-8; save the file as UTF-8,"
            " such as with `iconv -f latin1 -t utf-8`"
        ) from error
    except csv.Error as error:
        raise DataError(f"'{path}': not well-formed CSV: {error}") from error
    except OSError as error:
        raise DataError(f"'{path}': cannot be read: {error.strerror or error}") from error


def _first_bad_line(path: Path) -> int:
    content = path.read_bytes()
    return content[: len(content.decode(errors="ignore").encode())].count(b"\n") + 1


def _parse(path: Path, file: TextIO) -> _Table:
    reader = csv.reader(file, strict=True)
    header = tuple(name.strip() for name in next(reader, []))
    _check_header(path, header)
    rows: list[list[str]] = []
    lines: list[int] = []
    for row in reader:
        if not row:
            continue  # a blank line
        if len(row) != len(header):
            raise DataError(
                f"'{path}': row {len(rows) + 1} (line {reader.line_num}) has {len(row)} cells,"
                f" expected {len(header)} as in the header"
            )
        rows.append(row)
        lines.append(reader.line_num)
    if not rows:
        raise DataError(f"'{path}': a header and no row below it")
    return _Table(path, header, rows, lines)


def _check_header(path: Path, header: Sequence[str]) -> None:
    if not header:
        raise DataError(f"'{path}': empty, expected a line of column names and rows below it")
    if len(header) == 1 and (";" in header[0] or "\t" in header[0]):
        raise DataError(f"'{path}': columns are not separated by commas, expected a comma")
    if not any(math.isnan(_number(name)) for name in header):
        raise DataError(f"'{path}': the first line holds only numbers, expected column names")
    if "" in header:
        raise DataError(f"'{path}': column {header.index('') + 1} has no name in the first line")
    doubles = [name for name, count in Counter(header).items() if count > 1]
    if doubles:
        raise DataError(f"'{path}': two columns are named '{doubles[0]}', expected each name once")


def _number(text: str) -> float:
    """The number, NaN where it is none."""
    try:
        return float(text) if "_" not in text else math.nan  # float() takes 1_000, no one else does
    except ValueError:
        return math.nan


def _numbers(table: _Table, index: int) -> NDArray[np.float32]:
    """One column as float32 (rows,)."""
    cells = table.column(index)
    values = np.array([_number(cell) for cell in cells], dtype=np.float64)
    bad = np.flatnonzero(~(np.abs(values) <= _LARGEST))
    if bad.size:
        row = int(bad[0])
        raise DataError(f"{table.cell(row, index)}: {_problem(cells[row])}")
    return values.astype(np.float32)


def _problem(cell: str) -> str:
    if cell.lower() in _MISSING:
        return f"missing value '{cell}'; fill it or leave the row out, nothing is filled in"
    if math.isnan(_number(cell)):
        return (
            f"'{cell}' is not a number, and categories are not supported;"
            " encode them as numbers or leave the column out"
        )
    return f"'{cell}' is out of range, expected a finite float32"


def _target(table: _Table, index: int) -> tuple[Task, tuple[str, ...] | None, Array]:
    cells = table.column(index)
    # "none" or "-" may be a class among others; an empty cell or "?" never is.
    for row, cell in enumerate(cells):
        if cell in ("", "?"):
            raise DataError(f"{table.cell(row, index)}: {_problem(cell)}")
    if any(math.isnan(_number(cell)) and cell.lower() not in _MISSING for cell in cells):
        labels = tuple(sorted(set(cells)))
    elif set(cells) == {str(number) for number in range(len(set(cells)))}:
        labels = tuple(str(number) for number in range(len(set(cells))))
    else:
        return "regression", None, _numbers(table, index)
    place = {label: number for number, label in enumerate(labels)}
    return "classification", labels, np.array([place[cell] for cell in cells], dtype=np.int64)
