"""Arrays read block by block; those that lie in a file are read from it, not through its map.

A page of a memory map that was looked at counts as this process's memory until the kernel wants
it back. Reading the file into a buffer that is used again keeps a walk over any file small.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from hlserve.errors import DataError

Array = NDArray[Any]

# Files from this size on are mapped where they can be: below, rows in memory are faster to train.
MAPPED_FROM_BYTES = 128 * 2**20

BLOCK_BYTES = 4 * 2**20  # of a walk over all rows: large enough for any disk, small in memory


@final
@dataclass(frozen=True, slots=True)
class FileRows:
    """Where the rows of a memory-mapped array lie.

    Attributes:
        path: the file.
        offset: of the first row, in bytes.
        row_bytes: bytes of one row.
    """

    path: Path
    offset: int
    row_bytes: int


def file_rows(array: Array) -> FileRows | None:
    """Where a C-ordered array, or view, of an ``np.memmap`` lies in its file; else None."""
    mapped = _mapped(array)
    if mapped is None or mapped.filename is None or mapped.mode == "c":
        return None  # of a copy-on-write map only the map knows what was written
    if not array.flags.c_contiguous or not array.ndim:
        return None
    start = mapped.offset - mapped.offset % mmap.ALLOCATIONGRANULARITY
    base = np.frombuffer(mapped._mmap, np.uint8)  # type: ignore[attr-defined]  # numpy's stubs lack it
    distance = _address(array) - _address(base)
    row_bytes = prod(array.shape[1:]) * array.itemsize
    return FileRows(Path(mapped.filename), start + distance, row_bytes)


def is_mapped(array: Array) -> bool:
    """Whether the rows are to be read from a file."""
    return file_rows(array) is not None


def row_blocks(array: Array, *, block_bytes: int = BLOCK_BYTES) -> Iterator[tuple[int, Array]]:
    """All rows in order, as (first row, block); a block of a file lives until the next one.

    Raises:
        DataError: the file has become shorter or cannot be read.
    """
    row_bytes = max(1, prod(array.shape[1:]) * array.itemsize)
    size = max(1, block_bytes // row_bytes)
    with RowReader(array) as reader:
        buffer = np.empty((size, *array.shape[1:]), array.dtype) if reader.is_file else None
        for start in range(0, len(array), size):
            stop = min(start + size, len(array))
            if buffer is None:
                yield start, array[start:stop]
            else:
                yield start, reader.read(start, stop, buffer[: stop - start])


def rows_at(array: Array, indices: NDArray[np.int64]) -> Array:
    """A copy of the rows at these rising indices.

    Raises:
        DataError: the file has become shorter or cannot be read.
    """
    out = np.empty((len(indices), *array.shape[1:]), array.dtype)
    breaks = np.flatnonzero(np.diff(indices) != 1) + 1
    with RowReader(array) as reader:
        for start, stop in pairwise([0, *breaks.tolist(), len(indices)]):
            if start < stop:
                first = int(indices[start])
                reader.read(first, first + stop - start, out[start:stop])
    return out


def has_gaps(rows: Array) -> bool:
    """Whether a value is missing (NaN) in any of the rows, (rows, ...)."""
    # The smallest number is NaN where any is, and takes no memory to find.
    return rows.dtype.kind == "f" and any(
        bool(block.size and np.isnan(block.min())) for _, block in row_blocks(rows)
    )


@final
class RowReader:
    """Copies rows of an array into buffers; to be closed.

    Attributes:
        is_file: whether the rows come from a file, else from memory.
    """

    def __init__(self, array: Array) -> None:
        self._array = array
        self._place = file_rows(array)
        self.is_file = self._place is not None
        self._file = -1
        if self._place is not None:
            try:
                self._file = os.open(self._place.path, os.O_RDONLY)
            except OSError as error:
                raise DataError(f"'{self._place.path}': cannot be read: {error}") from error

    def __enter__(self) -> RowReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file; a second time does nothing."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def read(self, start: int, stop: int, out: Array) -> Array:
        """Fills ``out``, C-ordered, (stop - start, ...), with rows ``start`` to ``stop``.

        Raises:
            DataError: the file has become shorter or cannot be read.
        """
        if self._place is None:
            out[...] = self._array[start:stop]
            return out
        left = out.reshape(-1).view(np.uint8).data
        position = self._place.offset + start * self._place.row_bytes
        while left:
            try:
                done = os.preadv(self._file, [left], position)
            except OSError as error:
                raise DataError(f"'{self._place.path}': cannot be read: {error}") from error
            if done == 0:
                raise DataError(
                    f"'{self._place.path}': ends at byte {position}, before row {stop - 1}; "
                    "it has become shorter since it was opened"
                )
            left, position = left[done:], position + done
        return out


def _mapped(array: Array) -> np.memmap[Any, Any] | None:
    """The memory map that the array is a view of; the farthest one knows the file's offset."""
    found: np.memmap[Any, Any] | None = None
    current: object = array
    while isinstance(current, np.ndarray):
        if isinstance(current, np.memmap) and current.filename is not None:
            found = current
        current = current.base
    return found


def _address(array: Array) -> int:
    return int(array.__array_interface__["data"][0])
