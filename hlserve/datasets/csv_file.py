"""A CSV file as cells: a header line, and rows that are as long as it."""

from __future__ import annotations

import csv
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO, final

from hlserve.errors import DataError
from hlserve.frontend.table import parsed


@final
@dataclass(frozen=True, slots=True)
class CsvTable:
    """The cells as text.

    Attributes:
        path: of the file.
        header: the columns' names.
        rows: the cells, row by row.
        lines: the line of the file where each row ends.
    """

    path: Path
    header: tuple[str, ...]
    rows: list[list[str]]
    lines: list[int]

    def column(self, index: int) -> list[str]:
        """A column's cells without the blanks around them."""
        return [row[index].strip() for row in self.rows]

    def row(self, row: int) -> str:
        """Where a row stands, for a message; rows count from 1 below the header."""
        return f"row {row + 1} (line {self.lines[row]})"

    def cell(self, row: int, column: int) -> str:
        """Where a cell stands, for a message."""
        return f"'{self.path}': {self.row(row)}, column '{self.header[column]}'"


def read_cells(path: Path) -> CsvTable:
    """The cells of a comma-separated UTF-8 file whose first line names the columns.

    Raises:
        DataError: the header is missing, or has an empty or a double name; a row has too few or
            too many cells; or the encoding is wrong.
    """
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


# ----- below


def _first_bad_line(path: Path) -> int:
    content = path.read_bytes()
    return content[: len(content.decode(errors="ignore").encode())].count(b"\n") + 1


def _parse(path: Path, file: TextIO) -> CsvTable:
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
    return CsvTable(path, header, rows, lines)


def _check_header(path: Path, header: Sequence[str]) -> None:
    if not header:
        raise DataError(f"'{path}': empty, expected a line of column names and rows below it")
    if len(header) == 1 and (";" in header[0] or "\t" in header[0]):
        raise DataError(f"'{path}': columns are not separated by commas, expected a comma")
    if not any(math.isnan(parsed(name)) for name in header):
        raise DataError(f"'{path}': the first line holds only numbers, expected column names")
    if "" in header:
        raise DataError(f"'{path}': column {header.index('') + 1} has no name in the first line")
    doubles = [name for name, count in Counter(header).items() if count > 1]
    if doubles:
        raise DataError(f"'{path}': two columns are named '{doubles[0]}', expected each name once")
