"""Digests that tell whether a file or rows are those that something was made from."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from hlserve.datasets import Rows
from hlserve.errors import DataError, ModelFileError
from hlserve.row_blocks import row_blocks


def file_sha256(path: Path) -> str:
    """The digest of a file's bytes.

    Raises:
        ModelFileError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ModelFileError(f"{path} cannot be read: {error.strerror}") from error


def rows_sha256(rows: Rows) -> str:
    """The digest of rows: of every array's name, type, shape and bytes, and the labels'.

    Raises:
        DataError: an array holds objects, which have no bytes of their own.
    """
    digest = hashlib.sha256()
    arrays = dict(sorted(rows.inputs.items())) | ({} if rows.y is None else {"labels:": rows.y})
    for name, array in arrays.items():
        if array.dtype.hasobject:
            raise DataError(f"{name!r} holds objects, expected numbers")
        digest.update(f"{name}\0{array.dtype.str}\0{array.shape}\0".encode())
        for _, block in row_blocks(array):
            digest.update(np.ascontiguousarray(block).tobytes())
    return digest.hexdigest()
