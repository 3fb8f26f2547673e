"""What ``hlserve predict`` takes for a model with a front end: texts, sounds, images, cells."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path
from typing import Any, TextIO

from hlserve.cli.prediction_input import STDIN
from hlserve.errors import DataError
from hlserve.frontend import FrontEnd, Image, ItemKind, LogMel, Table

# Arrays that the front end has made before.
_ARRAYS = (".json", ".npy", ".npz")
_TABLES = (".csv", ".json")  # of cells
_LONGEST_NAME = 256  # characters; a longer word is no file's name


def is_array_file(source: str, kind: ItemKind) -> bool:
    """Whether the source is a file of arrays rather than a raw item."""
    endings = tuple(e for e in _ARRAYS if kind != "columns" or e not in _TABLES)
    return source.endswith(endings) and _is_file(source)


def read_items(source: str, front_end: FrontEnd, stdin: TextIO) -> list[Any]:
    """The raw items that a front end takes.

    Args:
        source: for texts the text itself, a ``.txt`` file or ``-`` for stdin, these two with a
            text a line; for sounds and images a file or ``-``; for a table's rows a ``.csv``
            or ``.json`` file, ``-``, or the text itself: lines of cells, which may begin with
            the columns' names, or a JSON object of cells by column name, or a list of such.
        front_end: of the model.
        stdin: where ``-`` is read from.

    Raises:
        DataError: the file or stdin cannot be read, or holds nothing.
    """
    if isinstance(front_end, LogMel | Image):
        return [_stdin_bytes(stdin) if source == STDIN else Path(source)]
    if isinstance(front_end, Table):
        return _table_rows(source, front_end, stdin)
    if source == STDIN:
        return _lines(_stdin_bytes(stdin), "stdin")
    if _looks_like_a_file(source):
        what = "is no text file, .txt" if _is_file(source) else "there is no such file"
        raise DataError(
            f"'{source}': {what}; a text that only looks like a file's name goes through --input -"
        )
    if source.endswith(".txt") and _is_file(source):
        return _lines(_file_bytes(Path(source)), source)
    return [source]


def _looks_like_a_file(source: str) -> bool:
    """One word with a file's ending, or with folders before it, that is no text file."""
    is_word = len(source.split()) == 1 and len(source) < _LONGEST_NAME
    has_ending = bool(re.fullmatch(r".*[^.]\.[A-Za-z0-9]{2,4}", source)) or "/" in source
    return is_word and has_ending and not (source.endswith(".txt") and _is_file(source))


def _is_file(source: str) -> bool:
    try:
        return Path(source).is_file()
    except (OSError, ValueError):  # a long text is no name, nor is one that holds NUL
        return False


def _file_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error


def _stdin_bytes(stdin: TextIO) -> bytes:
    buffer = getattr(stdin, "buffer", None)  # a stream of text alone has none
    content: bytes = stdin.read().encode() if buffer is None else buffer.read()
    return content


def _decoded(content: bytes, name: str) -> str:
    from hlserve.datasets.text import decoded

    return decoded(content, name)


def _lines(content: bytes, name: str) -> list[Any]:
    lines = [line.removesuffix("\r") for line in _decoded(content, name).split("\n")]
    texts = [line for line in lines if line.strip()]
    if not texts:
        raise DataError(f"{name} is empty, expected a text a line")
    return list(texts)


def _table_rows(source: str, front_end: Table, stdin: TextIO) -> list[Any]:
    if source == STDIN:
        text = _decoded(_stdin_bytes(stdin), "stdin")
    elif source.endswith(_TABLES):
        text = _decoded(_file_bytes(Path(source)), source)
    else:
        text = source
    if text.lstrip()[:1] in ("[", "{"):
        return _json_rows(text)
    name = "stdin" if source == STDIN else source[:40]
    try:
        rows = [row for row in csv.reader(io.StringIO(text, newline=""), strict=True) if row]
    except csv.Error as error:
        raise DataError(f"{name}: not well-formed CSV: {error}") from error
    header = [cell.strip() for cell in rows[0]] if rows else []
    if not set(front_end.names) <= set(header):
        if not rows:
            raise DataError(f"{name} is empty, expected a row of cells")
        return list(rows)
    if len(rows) == 1:
        raise DataError(f"{name} holds the columns' names and no row below them")
    for number, row in enumerate(rows[1:]):
        if len(row) != len(header):
            raise DataError(f"{name}: item {number} has {len(row)} cells, expected {len(header)}")
    return [dict(zip(header, row, strict=True)) for row in rows[1:]]


def _json_rows(text: str) -> list[Any]:
    try:
        content = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise DataError(
            f"expected a JSON object of cells by column name, got {text[:40]!r}: {error}"
        ) from error
    if isinstance(content, list) and any(isinstance(row, list | dict) for row in content):
        return content
    return [content]
