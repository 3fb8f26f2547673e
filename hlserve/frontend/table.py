"""Rows of a table to numbers: cells by column name, texts as codes, gaps as NaN."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from typing import Any, final

import msgspec
import numpy as np
from numpy.typing import NDArray

from hlserve.errors import ConfigError, DataError
from hlserve.frontend.token_ids import INPUT

Array = NDArray[Any]

# What stands for a missing number, in lower case; in a column of texts only the first two do.
MISSING_NUMBERS = frozenset({"", "?", "-", "na", "n/a", "nan", "null", "none"})
MISSING_TEXTS = frozenset({"", "?"})
MAX_COLUMNS = 4096
MAX_CATEGORIES = 2**20  # of all columns together
LARGEST = float(np.finfo(np.float32).max)
LARGEST_CODE = 2**24  # float32 holds every whole number up to it


@final
class TableColumn(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One column: of numbers, unless it names its categories.

    Attributes:
        name: as the table's first line has it.
        texts: its categories where they are texts; the code of each is its place, from 0 on.
        codes: its categories where they are whole numbers, which are their own codes.
    """

    name: str
    texts: tuple[str, ...] | None = None
    codes: tuple[int, ...] | None = None

    @property
    def categories(self) -> tuple[int, ...] | None:
        """The codes that the column may hold; None where it holds numbers."""
        return self.codes if self.texts is None else tuple(range(len(self.texts)))


@final
class Table(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    dict=True,
    tag_field="kind",
    tag="table",
    forbid_unknown_fields=True,
):
    """Rows of cells -> float32 rows: numbers as they are, texts as codes, NaN for what is missing.

    A text or a code that training did not show is missing too.

    Attributes:
        columns: in the order of the numbers.
        schema_version: of this description.
    """

    columns: tuple[TableColumn, ...]
    schema_version: int = 1

    def __post_init__(self) -> None:
        """Checks the values.

        Raises:
            ConfigError: no column, too many columns or categories, a name or a category twice,
                or a column of both texts and codes.
        """
        if not 1 <= len(self.columns) <= MAX_COLUMNS:
            raise ConfigError(f"{len(self.columns)} columns, expected 1 to {MAX_COLUMNS}")
        if len({column.name for column in self.columns}) < len(self.columns):
            raise ConfigError("two columns have one name, expected each name once")
        named = [len(column.texts or column.codes or ()) for column in self.columns]
        if sum(named) > MAX_CATEGORIES:
            raise ConfigError(f"{sum(named):,} categories, expected at most {MAX_CATEGORIES:,}")
        for column in self.columns:
            _require_categories(column)

    @property
    def names(self) -> tuple[str, ...]:
        """Of the columns."""
        return tuple(column.name for column in self.columns)

    @property
    def categories(self) -> dict[int, tuple[int, ...]]:
        """For the places of the columns that hold categories, the codes that they may hold."""
        found = enumerate(column.categories for column in self.columns)
        return {place: codes for place, codes in found if codes is not None}

    def apply(self, items: Sequence[Mapping[str, Any] | Sequence[Any]]) -> dict[str, Array]:
        """Numbers float32 (rows, columns) under the name ``input``.

        Args:
            items: rows, each a mapping of cells by column name, others left out of account; or a
                cell for every column, in their order. A cell is a number, a text, or None.

        Raises:
            DataError: a row lacks a column, or a cell does not fit its column.
        """
        rows = np.empty((len(items), len(self.columns)), dtype=np.float32)
        for number, item in enumerate(items):
            for place, cell in enumerate(self._cells(item, number)):
                rows[number, place] = self._value(place, cell, number)
        return {INPUT: rows}

    def feeding(self, inputs: Collection[str]) -> Table:
        """The same: there is one input and no mask."""
        return self

    # ----- below

    def _cells(self, item: object, number: int) -> list[Any]:
        if isinstance(item, Mapping):
            missing = [name for name in self.names if name not in item]
            if missing:
                has = ", ".join(map(repr, item))
                raise DataError(f"item {number} has no column {missing[0]!r}, it has {has}")
            return [item[name] for name in self.names]
        if not isinstance(item, Sequence) or isinstance(item, str | bytes):
            raise DataError(
                f"item {number} is {type(item).__name__}, expected cells by column name, or a "
                "list of them"
            )
        if len(item) != len(self.columns):
            raise DataError(
                f"item {number} has {len(item)} cells, expected {len(self.columns)}: "
                f"{', '.join(map(repr, self.names))}"
            )
        return list(item)

    def _value(self, place: int, cell: object, number: int) -> float:
        column = self.columns[place]
        try:
            if column.texts is not None:
                return self._codes[place].get(as_text(cell), math.nan)
            value = as_number(cell)
            if column.codes is None or math.isnan(value):
                return value
            if not value.is_integer():
                raise DataError(f"{cell!r} is no whole number, but the column holds categories")
            return self._codes[place].get(value, math.nan)
        except DataError as error:
            raise DataError(f"item {number}, column {column.name!r}: {error}") from error

    @cached_property
    def _codes(self) -> tuple[dict[str | float, float], ...]:
        """The code of every category; none for columns of numbers."""
        return tuple(
            {text: float(code) for code, text in enumerate(column.texts)}
            if column.texts is not None
            else {float(code): float(code) for code in column.codes or ()}
            for column in self.columns
        )


def as_number(cell: object) -> float:
    """The number of a cell; NaN where it is missing.

    Raises:
        DataError: it is no number, or none that float32 holds.
    """
    if cell is None:
        return math.nan
    if isinstance(cell, str):
        text = cell.strip()
        if text.lower() in MISSING_NUMBERS:
            return math.nan
        value = parsed(text)
        if math.isnan(value):
            raise DataError(f"'{text}' is not a number")
    elif isinstance(cell, int | float | np.integer | np.floating):
        value = float(cell)
    else:
        raise DataError(f"{cell!r} is not a number")
    if abs(value) > LARGEST:
        raise DataError(f"'{cell}' is out of range, expected a finite float32")
    return value


def as_text(cell: object) -> str:
    """The text of a cell without the blanks around it; "" where it is missing.

    Raises:
        DataError: it is neither a text nor a number.
    """
    if cell is None:
        return ""
    if isinstance(cell, bool) or not isinstance(cell, str | int | float):
        raise DataError(f"{cell!r} is no text")
    return str(cell).strip()


def parsed(text: str) -> float:
    """The number that a text spells, NaN where it spells none."""
    try:
        return float(text) if "_" not in text else math.nan  # float() takes 1_000, no one else does
    except ValueError:
        return math.nan


def _require_categories(column: TableColumn) -> None:
    if column.texts is not None and column.codes is not None:
        raise ConfigError(f"column {column.name!r} holds both texts and codes, expected one")
    for categories in (column.texts, column.codes):
        if categories is None:
            continue
        if not categories:
            raise ConfigError(f"column {column.name!r} names no category")
        if len(set(categories)) < len(categories):
            raise ConfigError(f"column {column.name!r} holds a category twice")
    if column.codes and max(map(abs, column.codes)) > LARGEST_CODE:
        raise ConfigError(f"column {column.name!r} holds a code above {LARGEST_CODE:,}")
