"""Which rows candidates learn from, which choose among them, and which are looked at once.

A choice made on rows makes the chosen look better there than it is, so that the figure of the
report comes from rows that took part in nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Any

import numpy as np

from hlserve.datasets import Rows
from hlserve.errors import DataError
from hlserve.nn.param import Array
from hlserve.nn.split import validation_split
from hlserve.row_blocks import row_blocks

SEARCH_SHARE = 0.20  # of the training rows, where no others were given
TEST_SHARE = 0.15
TEST_SHARE_OF_OTHERS = 0.4  # of rows that were given to judge with
FEWEST_DIVIDED = 200  # of fewer rows to judge with, a part is too few for either purpose
NOTABLE_DUPLICATES = 0.01


@dataclass(frozen=True, slots=True)
class Place:
    """Where rows stand in what the user gave, so that messages name the user's own row.

    Attributes:
        source: what a message calls it, such as ``train.npz``; empty where it has no name.
        numbers: of each row there, from 0; None where the rows stand as they came.
    """

    source: str = ""
    numbers: Array | None = None

    def row(self, index: int) -> str:
        """One of the rows in words: ``row 4217 of train.npz``."""
        number = index if self.numbers is None else int(self.numbers[index])
        return f"row {number} of {self.source}" if self.source else f"row {number}"

    def take(self, indices: Array) -> Place:
        """The place of some of the rows."""
        return Place(self.source, indices if self.numbers is None else self.numbers[indices])


NOWHERE = Place()


@dataclass(frozen=True, slots=True)
class Split:
    """Rows by their purpose, none of them in two.

    Attributes:
        train: candidates learn from these, and are calibrated with them.
        search: choices are made on these.
        test: looked at once, at the end, for the model that is handed back; None where the rows
            are too few to be divided.
        note: what a reader must know, sentence by sentence; or empty.
        train_place, search_place, test_place: of each of them.
    """

    train: Rows
    search: Rows
    test: Rows | None
    note: str
    train_place: Place = NOWHERE
    search_place: Place = NOWHERE
    test_place: Place = NOWHERE


def three_way(
    train: Rows,
    evaluation: Rows | None,
    test: Rows | None,
    *,
    seed: int,
    names: tuple[str, str, str] = ("", "", ""),
) -> Split:
    """Training, search and test rows, from what there is.

    Rows to judge with and test rows are taken as they are. One of them alone is divided, 60 to
    40 and every class in proportion, unless there are fewer than 200. Without either, parts of
    ``train`` are set apart. Rows of search or test that stand among the training rows are
    counted, and told of where they are more than one in a hundred.

    Args:
        train: rows to learn from.
        evaluation: rows that were named to judge with.
        test: test rows of the data's own.
        seed: of the divisions.
        names: what messages call the three.

    Raises:
        DataError: a part is empty, or there are too few rows to set any apart.
    """
    for what, rows in (("learn from", train), ("judge with", evaluation), ("test on", test)):
        if rows is not None and len(rows) == 0:
            raise DataError(f"there are no rows to {what}")
    place, *others_places = map(Place, names)
    if evaluation is not None and test is not None:
        split = Split(train, evaluation, test, "", place, *others_places)
    elif evaluation is not None or test is not None:
        others = evaluation if evaluation is not None else test
        assert others is not None
        where = others_places[0 if evaluation is not None else 1]
        split = _divided(train, place, (others, where), TEST_SHARE_OF_OTHERS, seed)
    else:
        split = _from_training_rows(train, place, seed)
    notes = [split.note, *_duplicates(split)]
    return replace(split, note=" ".join(n for n in notes if n))


def share_of_duplicates(train: Rows, others: Rows) -> float:
    """The share of the other rows whose inputs are those of a training row, number for number.

    0 where the two cannot be compared: inputs of other names, or texts.
    """
    pairs = _comparable(train, others)
    if not pairs or len(others) == 0:
        return 0.0
    known = set(_digests([(mine, dtype) for mine, _, dtype in pairs]))
    found = _digests([(theirs, dtype) for _, theirs, dtype in pairs])
    return sum(digest in known for digest in found) / len(found)


def classes_of(rows: Rows) -> Array | None:
    """The labels where a division keeps their proportions: one whole number a row; else None."""
    is_classes = rows.y is not None and rows.y.ndim == 1 and rows.y.dtype.kind in "iub"
    return rows.y if is_classes else None


# ----- below


def _from_training_rows(train: Rows, place: Place, seed: int) -> Split:
    n = len(train)
    is_divided = n * (SEARCH_SHARE + TEST_SHARE) >= FEWEST_DIVIDED
    share = SEARCH_SHARE + TEST_SHARE if is_divided else SEARCH_SHARE
    kept, apart = validation_split(n, share, seed=seed, labels=classes_of(train))
    others = (train.take(apart), place.take(apart))
    split = _divided(train.take(kept), place.take(kept), others, TEST_SHARE / share, seed)
    told = (
        f"{len(apart):,} of the {n:,} rows were set apart to judge with; the model may have been "
        "trained on them, which makes it look better than it is: give others with --eval."
    )
    return replace(split, note=f"{told} {split.note}".strip())


def _divided(
    train: Rows, train_place: Place, others: tuple[Rows, Place], test_share: float, seed: int
) -> Split:
    """The others divided into search rows and test rows, or none and a note that says why."""
    rows, place = others
    n = len(rows)
    if n < FEWEST_DIVIDED:
        note = (
            f"{n:,} rows to judge with are too few to keep some of them for a last look; the "
            "figures are of the rows that chose."
        )
        return Split(train, rows, None, note, train_place, place)
    search, test = validation_split(n, test_share, seed=seed + 1, labels=classes_of(rows))
    places = (train_place, place.take(search), place.take(test))
    return Split(train, rows.take(search), rows.take(test), "", *places)


def _duplicates(split: Split) -> list[str]:
    notes = []
    for name, rows in (("search", split.search), ("test", split.test)):
        share = 0.0 if rows is None else share_of_duplicates(split.train, rows)
        if share > NOTABLE_DUPLICATES:
            notes.append(
                f"WARNING: {100 * share:.0f} % of the {name} rows stand among the training rows "
                "too, with the same inputs: what was learned by heart counts as right there."
            )
    return notes


def _comparable(train: Rows, others: Rows) -> list[tuple[Array, Array, np.dtype[Any]]]:
    """Inputs that belong together, with the type that both fit; none where any fits none."""
    names = sorted(train.inputs)
    if len(train.inputs) == len(others.inputs) == 1:
        pairs = [(*train.inputs.values(), *others.inputs.values())]
    elif names == sorted(others.inputs):
        pairs = [(train.inputs[name], others.inputs[name]) for name in names]
    else:
        return []
    if any(array.dtype.kind not in "biuf" for pair in pairs for array in pair):
        return []  # texts as objects have no bytes of their own
    return [(mine, theirs, np.result_type(mine, theirs)) for mine, theirs in pairs]


def _digests(inputs: Sequence[tuple[Array, np.dtype[Any]]]) -> list[bytes]:
    """One digest a row, over all its inputs."""
    found = [blake2b(digest_size=16) for _ in range(len(inputs[0][0]))]
    for array, dtype in inputs:
        for first, block in row_blocks(array):
            flat = np.ascontiguousarray(block.reshape(len(block), -1), dtype)
            for row, hasher in zip(flat, found[first : first + len(flat)], strict=True):
                hasher.update(row.tobytes())
    return [hasher.digest() for hasher in found]
