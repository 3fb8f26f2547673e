"""CSV files with a header line: columns of numbers or categories, and one named target column."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hlserve.datasets.csv_columns import fitted_table
from hlserve.datasets.csv_file import CsvTable, read_cells
from hlserve.datasets.dataset import Array, Dataset, Rows, Task
from hlserve.errors import DataError
from hlserve.frontend import INPUT, FrontEnd, Table, TableColumn
from hlserve.frontend.table import MISSING_NUMBERS, MISSING_TEXTS, parsed

_DEFAULT_TARGET = "y"
_ITEM = re.compile(r"^item (\d+)\b")


def read_csv(
    path: Path,
    *,
    target: str | None = None,
    frontend: FrontEnd | None = None,
    categorical: Sequence[str] = (),
    ignore: Sequence[str] = (),
) -> Dataset:
    """Rows of a comma-separated UTF-8 file whose first line names the columns.

    A column of numbers is float32, NaN where a cell is missing; one of texts is categories, and
    what stands in the rows is their codes. Where there are gaps, categories or ignored columns
    the dataset names the front end ``Table`` that makes such rows. A target of text is classes,
    in sorted order; one of whole numbers that are exactly 0, 1, ..., n is class numbers; any
    other numbers are a regression's targets.

    Args:
        path: the file.
        target: the target column's name; ``y`` where it is not given, and then it may be missing.
        frontend: one that was fitted before: it says which columns are read, by their names.
        categorical: columns of whole numbers that are categories.
        ignore: columns to leave out.

    Raises:
        DataError: the file is malformed, see ``read_cells``; it lacks a column; a cell does not
            fit its column; the target misses a value; or the front end is for something else.
    """
    table = read_cells(path)
    label_name = target or _DEFAULT_TARGET
    if target is not None:
        _require_columns(table, [target], "for the target")
    front_end = _given(path, frontend, label_name if label_name in table.header else None)
    if front_end is None:
        features = _features(table, label_name, categorical, ignore)
        front_end = fitted_table(table, features, categorical)
    x = _rows(table, front_end)
    task, class_labels, y = None, None, None
    if label_name in table.header:
        task, class_labels, y = _target(table, table.header.index(label_name))
    is_plain = frontend is None and not ignore and not front_end.categories
    return Dataset(
        name=path.stem,
        train=Rows({"x": x}, y),
        test=None,
        task=task,
        class_labels=class_labels,
        units=None,
        feature_names=front_end.names,
        licence="unknown",
        source=str(path),
        frontend=None if is_plain and not np.isnan(x).any() else front_end,
    )


# ----- below


def _given(path: Path, frontend: FrontEnd | None, target: str | None) -> Table | None:
    if frontend is None:
        return None
    if not isinstance(frontend, Table):
        raise DataError(f"'{path}' holds a table, the front end takes something else")
    if target in frontend.names:
        raise DataError(f"'{path}': the target '{target}' is one of the model's inputs")
    return frontend


def _features(
    table: CsvTable, label_name: str, categorical: Sequence[str], ignore: Sequence[str]
) -> list[int]:
    _require_columns(table, categorical, "for the categories")
    _require_columns(table, ignore, "to ignore")
    for name in ignore:
        if name in (label_name, *categorical):
            what = "the target" if name == label_name else "named as categorical"
            raise DataError(f"'{table.path}': the column '{name}' to ignore is {what}")
    left_out = {label_name, *ignore}
    features = [index for index, name in enumerate(table.header) if name not in left_out]
    if not features:
        raise DataError(
            f"'{table.path}': only the target column '{label_name}', expected inputs beside it"
            if not ignore
            else f"'{table.path}': every column is ignored, expected inputs"
        )
    return features


def _require_columns(table: CsvTable, names: Sequence[str], what: str) -> None:
    for name in names:
        if name not in table.header:
            has = ", ".join(f"'{name}'" for name in table.header)
            raise DataError(f"'{table.path}': no column '{name}' {what}, it has {has}")


def _rows(table: CsvTable, front_end: Table) -> Array:
    missing = [name for name in front_end.names if name not in table.header]
    if missing:
        has = ", ".join(f"'{name}'" for name in table.header)
        raise DataError(f"'{table.path}': no column '{missing[0]}' for the model, it has {has}")
    places = [table.header.index(name) for name in front_end.names]
    try:
        made = front_end.apply([[row[place] for place in places] for row in table.rows])
    except DataError as error:
        told = _ITEM.sub(lambda match: table.row(int(match.group(1))), str(error))
        raise DataError(f"'{table.path}': {told}") from error
    return made[INPUT]


def _target(table: CsvTable, index: int) -> tuple[Task, tuple[str, ...] | None, Array]:
    cells = table.column(index)
    # "none" or "-" may be a class among others; an empty cell or "?" never is.
    for row, cell in enumerate(cells):
        if cell in MISSING_TEXTS:
            raise _missing_target(table, row, index, cell)
    if any(math.isnan(parsed(cell)) and cell.lower() not in MISSING_NUMBERS for cell in cells):
        labels = tuple(sorted(set(cells)))
    elif set(cells) == {str(number) for number in range(len(set(cells)))}:
        labels = tuple(str(number) for number in range(len(set(cells))))
    else:
        return "regression", None, _numbers(table, index, cells)
    place = {label: number for number, label in enumerate(labels)}
    return "classification", labels, np.array([place[cell] for cell in cells], dtype=np.int64)


def _numbers(table: CsvTable, index: int, cells: Sequence[str]) -> Array:
    numbers = Table(columns=(TableColumn(name=table.header[index]),))
    values = _rows(table, numbers)[:, 0]
    gaps = np.flatnonzero(np.isnan(values))
    if gaps.size:
        row = int(gaps[0])
        raise _missing_target(table, row, index, cells[row])
    return values


def _missing_target(table: CsvTable, row: int, index: int, cell: str) -> DataError:
    return DataError(
        f"{table.cell(row, index)}: missing value '{cell}' in the target; leave the row out"
    )
