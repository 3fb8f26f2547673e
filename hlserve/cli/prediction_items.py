"""What ``hlserve predict`` may be given for a model with a front end: texts, a sound, cells."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TextIO

from hlserve.cli.prediction_input import STDIN
from hlserve.errors import DataError
from hlserve.frontend import ItemKind

# Arrays that the front end has made before.
_ARRAYS = (".json", ".npy", ".npz")


def is_array_file(source: str) -> bool:
    """Whether the source is a file of arrays rather than a raw item."""
    return source.endswith(_ARRAYS) and _is_file(source)


def read_items(source: str, kind: ItemKind, stdin: TextIO) -> list[Any]:
    """The raw items that a front end takes.

    Args:
        source: for texts the text itself, a ``.txt`` file or ``-`` for stdin, these two with a
            text a line; for sounds a file or ``-``; for columns a JSON object of cells by
            column name, or a list of such, or ``-``.
        kind: what the front end takes.
        stdin: where ``-`` is read from.

    Raises:
        DataError: the file or stdin cannot be read, or holds nothing.
    """
    if kind == "sound":
        return [_stdin_bytes(stdin) if source == STDIN else Path(source)]
    if kind == "columns":
        return _cells(_decoded(_stdin_bytes(stdin), "stdin") if source == STDIN else source)
    if source == STDIN:
        return _lines(_stdin_bytes(stdin), "stdin")
    if source.endswith(".txt") and _is_file(source):
        return _lines(_file_bytes(Path(source)), source)
    return [source]


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


def _cells(text: str) -> list[Any]:
    try:
        content = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise DataError(
            f"expected a JSON object of cells by column name, got {text[:40]!r}: {error}"
        ) from error
    return content if isinstance(content, list) else [content]
