"""Folders of .npy files: ``x.npy`` and ``y.npy``, a test part as ``x_test.npy`` and ``y_test.npy``.

The one form for rows of any size: a large file is not read but mapped, and training streams it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hlserve.datasets.dataset import Array, Dataset, Rows, Task
from hlserve.datasets.npz import read_labels
from hlserve.errors import DataError
from hlserve.row_blocks import MAPPED_FROM_BYTES, is_mapped, row_blocks


def is_npy_folder(folder: Path) -> bool:
    """Whether the folder holds an ``x.npy``."""
    return (folder / "x.npy").is_file()


def read_npy_folder(folder: Path) -> Dataset:
    """Rows ``x``, (rows, ...) numbers, with labels ``y`` where there are any.

    Labels decide the task as in an NPZ file. Where ``x`` is large, both are memory maps of the
    files' own types; text labels are not for those.

    Raises:
        DataError: a file is damaged, holds Python objects, NaN or text, lengths differ, or class
            numbers are negative.
    """
    x, y = _read(folder, "x"), _read_if_there(folder, "y")
    x_test, y_test = _read_if_there(folder, "x_test"), _read_if_there(folder, "y_test")
    if y_test is not None and (x_test is None or y is None):
        raise DataError(f"folder '{folder}' holds y_test.npy, but not both x_test.npy and y.npy")
    task: Task | None = None
    class_labels: tuple[str, ...] | None = None
    if y is not None and is_mapped(x):
        task = _task_of_mapped(folder, y)
    elif y is not None:
        task, class_labels, (y, y_test) = read_labels(folder, "y", y, y_test)
    return Dataset(
        name=folder.resolve().name,
        train=_rows(folder, x, y),
        test=None if x_test is None else _rows(folder, x_test, y_test),
        task=task,
        class_labels=class_labels,
        units=None,
        feature_names=None,
        licence="unknown",
        source=str(folder),
    )


def _read_if_there(folder: Path, name: str) -> Array | None:
    return _read(folder, name) if (folder / f"{name}.npy").is_file() else None


def _read(folder: Path, name: str) -> Array:
    path = folder / f"{name}.npy"
    rows = folder / f"x{name[1:]}.npy"  # labels are mapped if their rows are
    is_large = rows.is_file() and rows.stat().st_size >= MAPPED_FROM_BYTES
    try:
        array: Array = np.load(path, mmap_mode="r" if is_large else None, allow_pickle=False)
    except OSError as error:
        raise DataError(f"'{path}': cannot be read: {error.strerror or error}") from error
    except (EOFError, ValueError) as error:
        if "pickle" in str(error) or "objects" in str(error):
            raise DataError(
                f"'{path}': holds Python objects, which could run code when read; save it as"
                " numbers, such as array.astype('float32')"
            ) from error
        raise DataError(f"'{path}': not a whole .npy file ({error}); save it again") from error
    if not isinstance(array, np.ndarray) or array.ndim == 0:
        raise DataError(f"'{path}': expected an array of rows, as np.save writes it")
    return array


def _task_of_mapped(folder: Path, y: Array) -> Task:
    if y.dtype.kind == "f":
        return "regression"
    if y.dtype.kind not in "iub" or y.ndim != 1:
        raise DataError(
            f"'{folder / 'y.npy'}': labels are {y.dtype} of shape {y.shape}, expected whole"
            " numbers, (rows,), or floats"
        )
    lowest = min((int(block.min()) for _, block in row_blocks(y)), default=0)
    if lowest < 0:
        raise DataError(f"'{folder / 'y.npy'}': class number {lowest}, expected 0 or more")
    return "classification"


def _rows(folder: Path, x: Array, y: Array | None) -> Rows:
    if x.dtype.kind not in "fiub":
        raise DataError(f"'{folder / 'x.npy'}': holds {x.dtype}, expected numbers")
    try:
        return Rows({"x": x}, y)
    except DataError as error:
        raise DataError(f"folder '{folder}': {error}") from error
