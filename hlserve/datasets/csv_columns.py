"""What the columns of a CSV file hold: numbers, or categories."""

from __future__ import annotations

import math
from collections.abc import Sequence

from hlserve.datasets.csv_file import CsvTable
from hlserve.errors import DataError
from hlserve.frontend import Table, TableColumn
from hlserve.frontend.table import LARGEST_CODE, MISSING_NUMBERS, MISSING_TEXTS, parsed

# More different texts than this are names or numbers of things rather than categories ...
MOST_CATEGORIES = 256
# ... and so are these many where most of them occur once.
MANY_CATEGORIES = 20


def fitted_table(table: CsvTable, features: Sequence[int], categorical: Sequence[str]) -> Table:
    """The front end of these columns.

    A column holds numbers unless a cell that is not missing is none: then it holds categories,
    which are texts. Whole numbers are categories where ``categorical`` names the column.

    Raises:
        DataError: a text among numbers; a number of categories that tells names; a column
            named in ``categorical`` of fractions.
    """
    return Table(
        columns=tuple(
            _column(table, index, table.header[index] in categorical) for index in features
        )
    )


def _column(table: CsvTable, index: int, is_categorical: bool) -> TableColumn:
    name, cells = table.header[index], table.column(index)
    present = [cell for cell in cells if cell.lower() not in MISSING_NUMBERS]
    texts = [cell for cell in present if math.isnan(parsed(cell))]
    if texts:
        if 2 * len(texts) < len(present) and not is_categorical:
            raise DataError(
                f"{table.cell(cells.index(texts[0]), index)}: '{texts[0]}' is not a number, as most"
                " cells of the column are; correct it, or name the column as categorical"
                f" (--categorical '{name}')"
            )
        known = sorted(set(cells) - MISSING_TEXTS)
        _require_few(table, index, known)
        return TableColumn(name=name, texts=tuple(known))
    if not is_categorical:
        return TableColumn(name=name)
    codes = sorted({_code(table, index, cell) for cell in present})
    if not codes:
        raise DataError(f"'{table.path}': column '{name}' is empty, so it holds no categories")
    _require_few(table, index, codes)
    return TableColumn(name=name, codes=tuple(codes))


def _code(table: CsvTable, index: int, cell: str) -> int:
    value = parsed(cell)
    if not value.is_integer() or abs(value) > LARGEST_CODE:
        row = table.column(index).index(cell)
        raise DataError(
            f"{table.cell(row, index)}: '{cell}' stands among categories, expected a whole number"
            f" of at most {LARGEST_CODE:,}"
        )
    return int(value)


def _require_few(table: CsvTable, index: int, categories: Sequence[object]) -> None:
    n_rows, n = len(table.rows), len(categories)
    if n > MOST_CATEGORIES or (n > MANY_CATEGORIES and 2 * n > n_rows):
        name = table.header[index]
        raise DataError(
            f"'{table.path}': column '{name}' holds {n:,} different values in {n_rows:,} rows, such"
            f" as '{categories[0]}': too many for categories; leave it out (--ignore '{name}')"
        )
