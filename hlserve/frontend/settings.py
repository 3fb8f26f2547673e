"""Front ends by a short text, such as ``subwords:4000``, fitted on training items."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from hlserve.errors import ConfigError
from hlserve.frontend.description import FrontEnd
from hlserve.frontend.image import Image
from hlserve.frontend.log_mel import LogMel
from hlserve.frontend.subwords import Subwords
from hlserve.frontend.table import Table
from hlserve.frontend.words import Words

ItemKind = Literal["text", "sound", "columns", "image"]

KNOWN = "words[:SIZE], subwords[:SIZE] (most ids), log-mel[:BANDS]"


def item_kind(front_end: FrontEnd) -> ItemKind:
    """What the front end takes."""
    if isinstance(front_end, Table):
        return "columns"
    if isinstance(front_end, Image):
        return "image"
    return "sound" if isinstance(front_end, LogMel) else "text"


def fit(spec: str, items: Sequence[Any]) -> FrontEnd:
    """The front end of that name, fitted on training items.

    Args:
        spec: ``words``, ``subwords`` or ``log-mel``, each with its size if wanted:
            ``words:20000``, ``log-mel:64``.
        items: texts, or sounds as paths or contents.

    Raises:
        ConfigError: the spec is unknown.
        DataError: an item cannot be taken.
    """
    name, colon, text = spec.partition(":")
    if colon and not (text.isascii() and text.isdecimal() and int(text[:10]) > 0):
        raise ConfigError(f"front end {spec!r}: expected a number, as in {name}:64; {KNOWN}")
    size = int(text[:10]) if colon else None
    if name == "words":
        return Words.fit(items) if size is None else Words.fit(items, vocabulary_size=size)
    if name == "subwords":
        return Subwords.fit(items) if size is None else Subwords.fit(items, vocabulary_size=size)
    if name == "log-mel":
        return LogMel.fit(items) if size is None else LogMel.fit(items, n_mels=size)
    raise ConfigError(f"unknown front end {spec!r}; known are {KNOWN}")
