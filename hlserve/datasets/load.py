"""``load``: the one way from a name or a path to rows."""

from __future__ import annotations

import difflib
from pathlib import Path

from hlserve.datasets.csv_table import read_csv
from hlserve.datasets.dataset import Dataset
from hlserve.datasets.idx import read_idx_folder
from hlserve.datasets.known import KNOWN, load_embedded
from hlserve.datasets.npy import is_npy_folder, read_npy_folder
from hlserve.datasets.npz import read_npz
from hlserve.errors import DataError

_ACCEPTED = "a folder of IDX files (MNIST names) or of x.npy and y.npy, an .npz file or a .csv file"


def load(name_or_path: str | Path, *, target: str | None = None) -> Dataset:
    """Rows by the name of an embedded set, or by a path.

    Images are uint8 (rows, channels, height, width), tables float32 (rows, columns), arrays of an
    NPZ file what they are; class numbers int64 (rows,), regression targets float32.

    Args:
        name_or_path: an embedded set's name (see ``KNOWN``), or the path of a folder of IDX files
            or of ``x.npy`` and ``y.npy``, an ``.npz`` or a ``.csv`` file. A path that could be a
            name is written ``./digits``.
        target: which array (NPZ) or column (CSV) holds the labels; ``y`` where it is not given.

    Raises:
        DataError: nothing is there, it cannot be read, or its content does not fit its format.
    """
    embedded = {known.name: known for known in KNOWN if known.embedded}
    if isinstance(name_or_path, str) and name_or_path in embedded:
        _refuse_target(target, f"the set '{name_or_path}'")
        return load_embedded(embedded[name_or_path])
    path = Path(name_or_path)
    if path.is_dir():
        _refuse_target(target, f"the folder '{path}'")
        if is_npy_folder(path):
            return read_npy_folder(path)
        return read_idx_folder(path)
    if not path.exists():
        raise DataError(_not_found(str(name_or_path), list(embedded)))
    if path.suffix.lower() == ".npz":
        return read_npz(path, target=target)
    if path.suffix.lower() == ".csv":
        return read_csv(path, target=target)
    raise DataError(f"'{path}': unknown kind of file '{path.suffix}', expected {_ACCEPTED}")


def _refuse_target(target: str | None, where: str) -> None:
    if target is not None:
        raise DataError(
            f"{where} has its own labels, but the target '{target}' was asked for; leave it out"
        )


def _not_found(asked: str, names: list[str]) -> str:
    near = difflib.get_close_matches(asked, names, n=1)
    hint = f"did you mean '{near[0]}'? " if near else ""
    known = ", ".join(names)
    return f"no data '{asked}': {hint}expected one of {known}, or the path of {_ACCEPTED}"
