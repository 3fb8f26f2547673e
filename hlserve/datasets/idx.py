"""Folders of IDX files, as MNIST and Fashion-MNIST are published.

Source: Y. LeCun, "The MNIST database of handwritten digits", section FILE FORMATS: big-endian; two
zero bytes, a type code (8 is unsigned byte), the number of axes, one 32-bit size an axis, the data.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import math
import os
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hlserve.datasets.dataset import Dataset, Rows
from hlserve.datasets.known import KNOWN, with_facts
from hlserve.errors import DataError
from hlserve.row_blocks import MAPPED_FROM_BYTES

_UNSIGNED_BYTE = 8
_PARTS = {"train": "train", "test": "t10k"}
# Both spellings are in use, each plain or gzipped.
_SPELLINGS = ("{part}-{kind}-idx{axes}-ubyte", "{part}-{kind}.idx{axes}-ubyte")


def read_idx_folder(folder: Path) -> Dataset:
    """Images and labels of a folder with MNIST's file names, ``.gz`` or plain.

    Shapes: images uint8 (rows, 1, height, width); labels int64 (rows,). The test part may be
    missing. Plain files of images from 128 MB on are mapped, not read. A set whose training
    labels are those of MNIST or Fashion-MNIST gets their class labels and licence; of any other
    only the class numbers are known.

    Raises:
        DataError: a file is missing, truncated, longer than it says, of another type, or images
            and labels differ in number.
    """
    train = _read_part(folder, "train")
    if train is None:
        name = _SPELLINGS[0].format(part="train", kind="images", axes=3)
        raise DataError(
            f"folder '{folder}' holds no '{name}' (or .gz), expected MNIST's file names"
        )
    rows, labels_sha256 = train
    test = _read_part(folder, "test")
    highest = max([_highest(rows)] + ([_highest(test[0])] if test else []))
    dataset = Dataset(
        name=folder.resolve().name,
        train=rows,
        test=test[0] if test else None,
        task="classification",
        class_labels=tuple(str(number) for number in range(highest + 1)),
        units="pixel intensity 0..255",
        feature_names=None,
        licence="unknown",
        source=str(folder),
    )
    for known in KNOWN:
        if known.labels_sha256 == labels_sha256:
            return with_facts(dataset, known)
    return dataset


def _highest(rows: Rows) -> int:
    return int(rows.y.max()) if rows.y is not None and len(rows) else 0


def _read_part(folder: Path, part: str) -> tuple[Rows, str] | None:
    images_path = _find(folder, part, "images", axes=3)
    labels_path = _find(folder, part, "labels", axes=1)
    if images_path is None and labels_path is None:
        return None
    if images_path is None or labels_path is None:
        missing = "labels" if labels_path is None else "images"
        raise DataError(f"folder '{folder}' holds no {part} {missing}, but the rest of that part")
    is_large = images_path.suffix != ".gz" and images_path.stat().st_size >= MAPPED_FROM_BYTES
    images = map_idx(images_path, axes=3) if is_large else read_idx(images_path, axes=3)
    labels = read_idx(labels_path, axes=1)
    if len(images) != len(labels):
        raise DataError(
            f"folder '{folder}': '{images_path.name}' holds {len(images)} images,"
            f" '{labels_path.name}' {len(labels)} labels, expected as many"
        )
    rows = Rows({"x": images[:, np.newaxis]}, labels.astype(np.int64))
    return rows, hashlib.sha256(labels.tobytes()).hexdigest()


def _find(folder: Path, part: str, kind: str, axes: int) -> Path | None:
    for spelling in _SPELLINGS:
        name = spelling.format(part=_PARTS[part], kind=kind, axes=axes)
        for path in (folder / name, folder / f"{name}.gz"):
            if path.is_file():
                return path
    return None


def read_idx(path: Path, *, axes: int) -> NDArray[np.uint8]:
    """One IDX file of unsigned bytes with this many axes; gunzipped if its name ends in ``.gz``.

    Raises:
        DataError: it cannot be read, or its header or length is wrong.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            return _parse(path, file, axes)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(
            f"'{path}': damaged or incomplete gzip file ({error}); copy it again"
        ) from error
    except OSError as error:
        raise DataError(f"'{path}': cannot be read: {error.strerror or error}") from error


def map_idx(path: Path, *, axes: int) -> NDArray[np.uint8]:
    """A plain IDX file as a memory map: its content is read when it is needed.

    Raises:
        DataError: as ``read_idx``.
    """
    try:
        with path.open("rb") as file:
            shape = _read_header(path, file, axes)
            offset = file.tell()
            size = os.fstat(file.fileno()).st_size - offset
        _require_length(path, size, shape)
        return np.memmap(path, np.uint8, "r", offset, shape)
    except OSError as error:
        raise DataError(f"'{path}': cannot be read: {error.strerror or error}") from error


def _parse(path: Path, file: io.BufferedIOBase, axes: int) -> NDArray[np.uint8]:
    shape = _read_header(path, file, axes)
    content = file.read()
    _require_length(path, len(content), shape)
    return np.frombuffer(content, dtype=np.uint8).reshape(shape)


def _read_header(path: Path, file: io.BufferedIOBase, axes: int) -> tuple[int, ...]:
    expected_magic = bytes([0, 0, _UNSIGNED_BYTE, axes])
    header = file.read(4 + 4 * axes)
    if header[:4] != expected_magic:
        raise DataError(
            f"'{path}': starts with '{header[:4].hex()}', expected '{expected_magic.hex()}'"
            f" (IDX, unsigned bytes, {axes} axes)"
        )
    if len(header) < 4 + 4 * axes:
        raise DataError(f"'{path}': ends inside its header, after {len(header)} bytes")
    return tuple(int(size) for size in np.frombuffer(header, dtype=">u4", offset=4))


def _require_length(path: Path, size: int, shape: tuple[int, ...]) -> None:
    wanted = math.prod(shape)
    if size != wanted:
        sizes = " x ".join(map(str, shape))
        raise DataError(f"'{path}': {size} bytes follow the header, expected {wanted} ({sizes})")
