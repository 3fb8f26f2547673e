"""NPZ files: one array per model input (or ``x``), labels ``y``, a test part as ``<name>_test``."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from hlserve.datasets.dataset import Array, Dataset, Rows, Task
from hlserve.errors import DataError

_DEFAULT_TARGET = "y"
_TEST_SUFFIX = "_test"


def read_npz(path: Path, *, target: str | None = None) -> Dataset:
    """Rows of an NPZ file; every array that is not the labels is an input.

    An array ``<name>_test`` beside ``<name>`` belongs to the test part. Labels decide the task:
    integers, booleans and text are classes (text in sorted order), floats are a regression's
    targets. NaN in an input is a missing value, which a network of a table fills in.

    Args:
        path: the file.
        target: the name of the labels' array; ``y`` where it is not given, and then it may be
            missing.

    Raises:
        DataError: the file is damaged or holds Python objects, its arrays differ in length, the
            target is not there or holds NaN, or class numbers are negative.
    """
    arrays = _read_arrays(path)
    label_name = target or _DEFAULT_TARGET
    if target is not None and target not in arrays:
        names = ", ".join(f"'{name}'" for name in arrays)
        raise DataError(f"'{path}': no array '{target}' for the labels, it holds {names}")
    train, test = _split(path, arrays)
    y, y_test = train.pop(label_name, None), test.pop(label_name, None)
    task, class_labels = None, None
    if y is not None:
        task, class_labels, (y, y_test) = read_labels(path, label_name, y, y_test)
    return Dataset(
        name=path.stem,
        train=_rows(path, train, y),
        test=_rows(path, test, y_test) if test else None,
        task=task,
        class_labels=class_labels,
        units=None,
        feature_names=None,
        licence="unknown",
        source=str(path),
    )


def _read_arrays(path: Path) -> dict[str, Array]:
    try:
        with path.open("rb") as file:
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise DataError(f"'{path}': a single array, expected an archive made by np.savez")
            return {name: _read_array(path, archive, name) for name in archive.files}
    except OSError as error:
        raise DataError(f"'{path}': cannot be read: {error.strerror or error}") from error
    except (EOFError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"'{path}': not a whole NPZ file ({error}); save it again") from error


def _read_array(path: Path, archive: Mapping[str, Array], name: str) -> Array:
    try:
        array = archive[name]
    except ValueError as error:
        if "allow_pickle" not in str(error):
            raise
        raise DataError(
            f"'{path}': array '{name}' holds Python objects, which could run code when read;"
            " save it as numbers or text, such as array.astype('float32') or array.astype(str)"
        ) from error
    return array


def _split(path: Path, arrays: dict[str, Array]) -> tuple[dict[str, Array], dict[str, Array]]:
    test_names = {
        name: name.removesuffix(_TEST_SUFFIX)
        for name in arrays
        if name.endswith(_TEST_SUFFIX) and name.removesuffix(_TEST_SUFFIX) in arrays
    }
    train = {name: array for name, array in arrays.items() if name not in test_names}
    test = {base: arrays[name] for name, base in test_names.items()}
    missing = sorted(set(train) - set(test)) if test else []
    if missing:
        raise DataError(
            f"'{path}': a test part without '{missing[0]}{_TEST_SUFFIX}', expected every array of"
            f" {', '.join(sorted(train))} in it"
        )
    return train, test


def read_labels(
    path: Path, name: str, y: Array, y_test: Array | None
) -> tuple[Task, tuple[str, ...] | None, tuple[Array, Array | None]]:
    """The task that labels stand for, the classes' names, and the labels as ``Rows`` has them.

    Raises:
        DataError: labels of an unusable type or shape, or negative class numbers.
    """
    if y.dtype.kind in "US":
        return _text_labels(path, name, y, y_test)
    if y.dtype.kind in "biu":
        parts = [_class_numbers(path, name, part) for part in (y, y_test) if part is not None]
        return "classification", None, (parts[0], parts[1] if y_test is not None else None)
    if y.dtype.kind == "f":
        for part in (y, y_test):
            _require_no_gaps(path, name, part)
        test = None if y_test is None else y_test.astype(np.float32)
        return "regression", None, (y.astype(np.float32), test)
    raise DataError(
        f"'{path}': labels '{name}' are of type {y.dtype}, expected integers or text for classes,"
        " floats for a regression"
    )


def _require_no_gaps(path: Path, name: str, y: Array | None) -> None:
    if y is not None and np.isnan(y).any():
        row = int(np.argwhere(np.isnan(y))[0, 0])
        raise DataError(f"'{path}': targets '{name}' have NaN in row {row}; leave such rows out")


def _text_labels(
    path: Path, name: str, y: Array, y_test: Array | None
) -> tuple[Task, tuple[str, ...], tuple[Array, Array | None]]:
    classes, numbers = np.unique(y.astype(str), return_inverse=True)
    labels = tuple(classes.tolist())
    if y_test is None:
        return "classification", labels, (numbers.astype(np.int64), None)
    place = {label: number for number, label in enumerate(labels)}
    unseen = sorted(set(y_test.astype(str).tolist()) - set(labels))
    if unseen:
        raise DataError(
            f"'{path}': '{name}{_TEST_SUFFIX}' has the class '{unseen[0]}', '{name}' not"
        )
    test = np.array([place[label] for label in y_test.astype(str).tolist()], dtype=np.int64)
    return "classification", labels, (numbers.astype(np.int64), test)


def _class_numbers(path: Path, name: str, y: Array) -> Array:
    if y.ndim != 1:
        raise DataError(f"'{path}': class numbers '{name}' have shape {y.shape}, expected (rows,)")
    if y.size and int(y.min()) < 0:
        raise DataError(f"'{path}': class number {int(y.min())} in '{name}', expected 0 or more")
    return y.astype(np.int64)


def _rows(path: Path, inputs: dict[str, Array], y: Array | None) -> Rows:
    try:
        return Rows(inputs, y)
    except DataError as error:
        raise DataError(f"'{path}': {error}") from error
