"""What ``hlserve predict`` may be given: an image, a table row, an array, or stdin."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from hlserve.client import TensorMetadata, cast_array
from hlserve.errors import DataError, MissingDependencyError

Array = NDArray[Any]

STDIN = "-"
# ITU-R BT.601 luma, what image tools use to make grey of red, green and blue.
_LUMA = np.array([0.299, 0.587, 0.114])


def read_input(source: str, stdin: TextIO) -> Array | dict[str, Array]:
    """An array, or arrays by input name, from a file (told by its ending) or from stdin.

    Images are uint8, (height, width) when grey and (1, 3, height, width) in colour.

    Raises:
        DataError: the file is missing, of no known kind or malformed.
        MissingDependencyError: an image, without pypng.
    """
    if source == STDIN:
        return _parse_text(stdin.read(), "stdin")
    path = Path(source)
    try:
        if path.suffix == ".png":
            return _read_png(path.read_bytes(), path.name)
        if path.suffix in {".npy", ".npz"}:
            return _read_numpy(path)
        if path.suffix in {".csv", ".json", ".txt"}:
            return _parse_text(path.read_text(), path.name)
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {path}: {error}") from error
    raise DataError(
        f"{path}: unknown kind of file, expected .png, .csv, .json, .npy or .npz; texts and "
        "sounds are for models that were published with a front end, and this one was not"
    )


def fit_inputs(
    values: Array | Mapping[str, Array], tensors: Sequence[TensorMetadata]
) -> dict[str, Array]:
    """The values as the model's inputs: rows first, reshaped where the count fits, cast.

    Raises:
        DataError: a name, a count or a shape does not fit; nothing is resized.
    """
    if not isinstance(values, Mapping) and len(tensors) == 1:
        values = {tensors[0].name: values}
    if not isinstance(values, Mapping):
        raise DataError(
            f"the model has the inputs {[t.name for t in tensors]}: give one array by each name "
            "(.npz or a JSON object)"
        )
    if len(values) == len(tensors) == 1:
        values = {tensors[0].name: next(iter(values.values()))}
    missing = [tensor.name for tensor in tensors if tensor.name not in values]
    if missing:
        raise DataError(f"no values for the input {missing[0]!r}, got {list(values)}")
    return {
        tensor.name: cast_array(_fit(values[tensor.name], tensor), tensor) for tensor in tensors
    }


def _fit(array: Array, tensor: TensorMetadata) -> Array:
    row_shape = tensor.shape[1:]
    if -1 in row_shape or not tensor.shape:
        return array[np.newaxis] if array.ndim == len(row_shape) else array
    row_size = math.prod(row_shape)
    fixed_rows = tensor.shape[0] if tensor.shape[0] != -1 else None
    if array.ndim == 4 and array.shape[:2] == (1, 3) and row_size == math.prod(array.shape[2:]):
        array = _to_grey(array)
    rows = 1 if array.size == row_size else len(array) if array.ndim else 0
    if array.size != rows * row_size or fixed_rows not in (None, rows):
        raise DataError(
            f"input {tensor.name!r} takes {row_size} values a row, {list(tensor.shape)}; got the "
            f"shape {list(array.shape)}, {array.size} values (nothing is resized)"
        )
    return array.reshape(rows, *row_shape)


def _to_grey(array: Array) -> Array:
    return np.rint(np.tensordot(_LUMA, array[0], axes=1)).astype(array.dtype)


def _read_numpy(path: Path) -> Array | dict[str, Array]:
    try:
        loaded = np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise DataError(f"{path} is no array file: {error}") from error
    return loaded if isinstance(loaded, np.ndarray) else dict(loaded)


def _read_png(data: bytes, name: str) -> Array:
    try:
        import png  # type: ignore[import-untyped]  # ships no types
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            'reading images needs pypng: pip install "hlserve[cpu]"'
        ) from error
    try:
        width, height, rows, info = png.Reader(bytes=data).asDirect()
        values = np.array([np.asarray(row) for row in rows], dtype=np.float64)
    except (png.Error, ValueError) as error:
        raise DataError(f"{name} is no readable PNG: {error}") from error
    values *= 255 / (2 ** info["bitdepth"] - 1)
    pixels = np.rint(values).astype(np.uint8).reshape(height, width, info["planes"])
    if info["alpha"]:
        if (pixels[..., -1] != 255).any():
            raise DataError(f"{name} has transparent pixels: flatten it onto a background first")
        pixels = pixels[..., :-1]
    return pixels[..., 0] if pixels.shape[-1] == 1 else np.moveaxis(pixels, -1, 0)[np.newaxis]


def _parse_text(text: str, name: str) -> Array | dict[str, Array]:
    if text.lstrip()[:1] in ("[", "{"):
        return _parse_json(text, name)
    return _parse_csv(text, name)


def _parse_json(text: str, name: str) -> Array | dict[str, Array]:
    try:
        content = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise DataError(f"{name} is no JSON: {error}") from error
    if isinstance(content, dict):
        return {key: _array(value, f"{name}: {key!r}") for key, value in content.items()}
    return _array(content, name)


def _array(value: object, name: str) -> Array:
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise DataError(f"{name}: the lists are of uneven length") from error
    if array.dtype.kind not in "biufU":
        raise DataError(f"{name}: expected numbers or text, got {array.dtype}")
    return array


def _parse_csv(text: str, name: str) -> Array:
    lines = [line for line in csv.reader(io.StringIO(text)) if line]
    if lines and any(_number(cell) is None for cell in lines[0]) and len(lines) > 1:
        lines = lines[1:]  # a header
    if not lines:
        raise DataError(f"{name} is empty, expected a row of numbers")
    rows = []
    for line_number, line in enumerate(lines, 1):
        numbers = [_number(cell) for cell in line]
        if None in numbers:
            cell = line[numbers.index(None)]
            raise DataError(f"{name}: row {line_number} holds {cell!r}, expected a number")
        rows.append(numbers)
    if len({len(row) for row in rows}) > 1:
        raise DataError(f"{name}: rows differ in length, {sorted({len(row) for row in rows})}")
    return np.array(rows, dtype=np.float64)


def _number(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:
        return None
