"""What every reader gives: rows of inputs with their labels, and the facts about them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from hlserve.errors import DataError
from hlserve.frontend import MASK, FrontEnd, Subwords, Table, Words
from hlserve.row_blocks import has_gaps, is_mapped

# Element types differ from input to input (uint8 pixels, float32 columns, int64 ids).
Array = NDArray[Any]
Task = Literal["classification", "regression"]


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of one or more inputs, and their labels where there are any.

    Attributes:
        inputs: input name -> array (rows, ...); a single input is named ``x``.
        y: class numbers int64 (rows,), or float32 targets (rows,) or (rows, outputs);
            None for rows without labels.
    """

    inputs: Mapping[str, Array]
    y: Array | None = None

    def __post_init__(self) -> None:
        """Checks that every array has the same number of rows.

        Raises:
            DataError: no input, an array without a row axis, or unequal lengths.
        """
        arrays = dict(self.inputs) | ({} if self.y is None else {"y": self.y})
        if not self.inputs:
            raise DataError("rows hold no input array, expected at least one")
        scalars = [name for name, array in arrays.items() if array.ndim == 0]
        if scalars:
            raise DataError(f"array '{scalars[0]}' is a single value, expected rows first")
        lengths = {name: len(array) for name, array in arrays.items()}
        if len(set(lengths.values())) > 1:
            counts = ", ".join(f"'{name}' has {n}" for name, n in lengths.items())
            raise DataError(f"arrays differ in their number of rows: {counts}")

    @property
    def x(self) -> Array:
        """The only input; a ``mask`` that says where sequences end is not counted.

        Raises:
            DataError: there are several; ``inputs`` holds them by name.
        """
        arrays = [array for name, array in self.inputs.items() if name != MASK]
        if len(arrays) > 1:
            names = ", ".join(f"'{name}'" for name in self.inputs)
            raise DataError(f"rows hold {len(self.inputs)} inputs ({names}), expected one")
        return arrays[0] if arrays else self.inputs[MASK]

    def inputs_for(self, wanted: Sequence[str]) -> dict[str, Array]:
        """The arrays for a model with these inputs; its only input takes ``x``.

        Raises:
            DataError: the rows lack one of several inputs.
        """
        if len(wanted) == 1:
            held = self.inputs.get(wanted[0])
            return {wanted[0]: self.x if held is None else held}
        missing = [name for name in wanted if name not in self.inputs]
        if missing:
            names = ", ".join(f"'{name}'" for name in self.inputs)
            raise DataError(
                f"the model takes {list(wanted)}; the rows hold {names}, not '{missing[0]}'"
            )
        return {name: self.inputs[name] for name in wanted}

    def __len__(self) -> int:
        """How many rows there are."""
        return len(next(iter(self.inputs.values())))

    def take(self, indices: NDArray[np.integer[Any]] | slice) -> Rows:
        """The rows at these indices, in that order."""
        inputs = {name: array[indices] for name, array in self.inputs.items()}
        return Rows(inputs, None if self.y is None else self.y[indices])


@dataclass(frozen=True, slots=True)
class Dataset:
    """Training rows, test rows where the source has a split of its own, and the facts.

    Attributes:
        name: a known name, or the file's or folder's.
        train: the training rows; all rows where there is no split.
        test: the source's own test rows; None leaves splitting to the caller.
        task: None where there are no labels.
        class_labels: label of class 0, 1, ...; None where only numbers are known.
        units: what one input value measures, such as ``pixel intensity 0..255``.
        feature_names: names of the columns of a table.
        licence: an SPDX expression, or ``unknown``.
        source: where the rows came from.
        frontend: what made the inputs of texts, sounds, images or a table's cells; None where
            they are numbers from the start. A network trained on them is useless without it.
    """

    name: str
    train: Rows
    test: Rows | None
    task: Task | None
    class_labels: tuple[str, ...] | None
    units: str | None
    feature_names: tuple[str, ...] | None
    licence: str
    source: str
    frontend: FrontEnd | None = None

    @property
    def n_ids(self) -> int | None:
        """How many ids of words the rows are made of; None where they are numbers."""
        return (
            self.frontend.vocabulary_size if isinstance(self.frontend, Words | Subwords) else None
        )

    @property
    def has_gaps(self) -> bool:
        """Whether a value is missing (NaN) in any row in memory, be it of training or test.

        A split, or a seed, then does not decide whether a network is made to take gaps.
        """
        parts = [self.train] if self.test is None else [self.train, self.test]
        return any(has_gaps(rows.x) for rows in parts if not is_mapped(rows.x))

    @property
    def categories(self) -> dict[int, tuple[int, ...]]:
        """For the columns of a table that hold categories, the codes that stand for them."""
        return self.frontend.categories if isinstance(self.frontend, Table) else {}

    def in_classes(self, class_labels: Sequence[str] | None) -> Dataset:
        """The same rows, their class numbers those of a model with these class labels.

        Raises:
            DataError: a class of the rows is none of the model's.
        """
        if class_labels is None or self.class_labels == tuple(class_labels):
            return self
        own = self.class_labels
        if own is None:
            return self._with_numbers_as_classes(class_labels)
        unknown = sorted(set(own) - set(class_labels))
        if unknown:
            known = ", ".join(f"'{label}'" for label in class_labels)
            raise DataError(
                f"{self.name}: the class '{unknown[0]}' is none of the model's: {known}"
            )
        place = np.array([list(class_labels).index(label) for label in own], dtype=np.int64)
        return replace(
            self,
            train=_renumbered(self.train, place),
            test=None if self.test is None else _renumbered(self.test, place),
            class_labels=tuple(class_labels),
        )

    def _with_numbers_as_classes(self, class_labels: Sequence[str]) -> Dataset:
        """A few rows of a table may lack a class, so that their labels look like any numbers."""
        if self.task != "regression":
            return self
        place = {label: number for number, label in enumerate(class_labels)}
        train = _as_classes(self.train, place)
        test = None if self.test is None else _as_classes(self.test, place)
        if train is None or (test is None) != (self.test is None):
            return self
        return replace(
            self,
            train=train,
            test=test,
            task="classification",
            class_labels=tuple(class_labels),
        )


def _as_classes(rows: Rows, place: Mapping[str, int]) -> Rows | None:
    """The rows with the classes that their numbers name; None where one names none."""
    if rows.y is None or rows.y.ndim != 1:
        return rows if rows.y is None else None
    named = [place.get(f"{value:g}") for value in rows.y.tolist()]
    return None if None in named else Rows(rows.inputs, np.array(named, dtype=np.int64))


def _renumbered(rows: Rows, place: NDArray[np.int64]) -> Rows:
    return Rows(rows.inputs, None if rows.y is None else place[rows.y])
