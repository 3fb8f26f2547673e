"""Columns of strings to ids: a vocabulary for each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from typing import Any, Self, final

import msgspec
import numpy as np
from numpy.typing import NDArray

from hlserve.errors import ConfigError, DataError

Array = NDArray[Any]

UNKNOWN_VALUE_ID = 0
CATEGORIES = "categories"  # the model input that is made, unless told
MAX_COLUMNS = 4096
MAX_VALUES = 2**20  # of all columns together


@final
class Column(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One column's name and its known values; ids count from 1 in their order."""

    name: str
    values: tuple[str, ...]


@final
class StringColumns(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    dict=True,
    tag_field="kind",
    tag="string_columns",
    forbid_unknown_fields=True,
):
    """Rows of strings -> one id a column; 0 is a value that training did not show.

    Attributes:
        columns: in the order of the ids.
        input: the model input's name.
        schema_version: of this description.
    """

    columns: tuple[Column, ...]
    input: str = CATEGORIES
    schema_version: int = 1

    def __post_init__(self) -> None:
        """Checks the values.

        Raises:
            ConfigError: no column, too many columns or values, or a name or value twice.
        """
        if not 1 <= len(self.columns) <= MAX_COLUMNS:
            raise ConfigError(f"{len(self.columns)} columns, expected 1 to {MAX_COLUMNS}")
        total = sum(len(column.values) for column in self.columns)
        if total > MAX_VALUES:
            raise ConfigError(f"{total:,} values in all columns, expected at most {MAX_VALUES:,}")
        if len({column.name for column in self.columns}) < len(self.columns):
            raise ConfigError("two columns have one name, expected each name once")
        for column in self.columns:
            if len(set(column.values)) < len(column.values):
                raise ConfigError(f"column {column.name!r} holds a value twice")

    @classmethod
    def fit(
        cls,
        columns: Mapping[str, Sequence[str]],
        *,
        min_count: int = 1,
        max_values: int = 10_000,
        input: str = CATEGORIES,
    ) -> Self:
        """The vocabularies of the training rows.

        Args:
            columns: cells by column name, blanks around them left out of account.
            min_count: values that are rarer are unknown ones.
            max_values: the most values a column keeps, by falling count, then by alphabet.
            input: the model input's name.
        """
        return cls(
            columns=tuple(
                Column(name, _frequent(cells, min_count, max_values))
                for name, cells in columns.items()
            ),
            input=input,
        )

    @property
    def vocabulary_sizes(self) -> tuple[int, ...]:
        """How many ids each column has, the unknown one included."""
        return tuple(1 + len(column.values) for column in self.columns)

    def apply(self, items: Sequence[Mapping[str, str]]) -> dict[str, Array]:
        """Ids int64 (rows, columns) under the input's name.

        Raises:
            DataError: a row lacks a column, or a cell is no string.
        """
        ids = np.full((len(items), len(self.columns)), UNKNOWN_VALUE_ID, dtype=np.int64)
        for row, item in enumerate(items):
            for place, column in enumerate(self.columns):
                cell = _cell(item, column.name, row)
                ids[row, place] = self._ids[place].get(cell, UNKNOWN_VALUE_ID)
        return {self.input: ids}

    def feeding(self, inputs: Collection[str]) -> StringColumns:
        """The same: there is one input and no mask."""
        return self

    @cached_property
    def _ids(self) -> tuple[dict[str, int], ...]:
        return tuple(
            {value: place for place, value in enumerate(column.values, UNKNOWN_VALUE_ID + 1)}
            for column in self.columns
        )


def _frequent(cells: Sequence[str], min_count: int, most: int) -> tuple[str, ...]:
    counts = Counter(cell.strip() for cell in cells)
    ordered = sorted(counts.items(), key=lambda entry: (-entry[1], entry[0]))
    return tuple(value for value, count in ordered if count >= min_count)[:most]


def _cell(item: object, name: str, row: int) -> str:
    if not isinstance(item, Mapping):
        raise DataError(f"item {row} is {type(item).__name__}, expected cells by column name")
    if name not in item:
        raise DataError(f"item {row} has no column {name!r}, it has {', '.join(map(repr, item))}")
    cell = item[name]
    if not isinstance(cell, str):
        raise DataError(f"item {row}, column {name!r}: {cell!r} is no string")
    return cell.strip()
