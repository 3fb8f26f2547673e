"""Front ends as JSON: the closed set of what may be read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from hlserve.errors import ConfigError, ModelFileError, SchemaVersionError
from hlserve.frontend.image import Image
from hlserve.frontend.log_mel import LogMel
from hlserve.frontend.subwords import Subwords
from hlserve.frontend.table import Table
from hlserve.frontend.words import Words

FrontEnd = Words | Subwords | LogMel | Table | Image

SCHEMA_VERSION = 1
FRONTEND_KEY = "frontend"  # in a checkpoint's ``extra``
MAX_BYTES = 32 * 2**20  # a tokenizer of 16 MiB, its quotes escaped
KINDS = ("words", "subwords", "log_mel", "table", "image")


def to_json(front_end: FrontEnd) -> dict[str, Any]:
    """The front end as plain values that JSON can hold; ``kind`` says which it is."""
    content: dict[str, Any] = msgspec.to_builtins(front_end)
    return content


def from_json(content: object, *, where: str = "front end") -> FrontEnd:
    """The front end that ``to_json`` wrote; nothing is run.

    Args:
        content: the JSON as text, bytes or plain values.
        where: what errors call it.

    Raises:
        SchemaVersionError: a newer hlserve wrote it.
        ModelFileError: it is too large, no JSON, of an unknown kind or has a wrong value.
    """
    values = _parsed(content, where) if isinstance(content, str | bytes) else content
    if not isinstance(values, Mapping):
        raise ModelFileError(f"{where} holds {type(values).__name__}, expected a JSON object")
    version = values.get("schema_version", SCHEMA_VERSION)
    if not isinstance(version, int) or version > SCHEMA_VERSION:
        raise SchemaVersionError(
            f"{where} has schema version {version!r}, this hlserve reads up to {SCHEMA_VERSION}: "
            "upgrade hlserve"
        )
    if values.get("kind") not in KINDS:
        raise ModelFileError(
            f"{where} is of the kind {values.get('kind')!r}, expected one of {', '.join(KINDS)}"
        )
    try:
        front_end: FrontEnd = msgspec.convert(dict(values), type=FrontEnd)
    except (msgspec.ValidationError, ConfigError, RecursionError) as error:
        raise ModelFileError(f"{where}: {error}") from error
    return front_end


def _parsed(content: str | bytes, where: str) -> object:
    if len(content) > MAX_BYTES:
        raise ModelFileError(f"{where} has {len(content):,} bytes, expected at most {MAX_BYTES:,}")
    try:
        values: object = msgspec.json.decode(content)
    except (msgspec.DecodeError, RecursionError, UnicodeEncodeError) as error:
        raise ModelFileError(f"{where} is no JSON: {error}") from error
    return values
