"""Ids of one length: what words and subwords become, and the checks that both make on a text."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hlserve.errors import ConfigError, DataError

Array = NDArray[Any]

INPUT, MASK = "input", "mask"  # the model inputs that a front end makes
PADDING_ID, UNKNOWN_ID = 0, 1

MAX_LENGTH = 65536  # ids a text
MAX_TEXT_CHARACTERS = 1_000_000
FITTED_MAX_LENGTH = 512  # unless told: a network reads every step
WHOLE_SHARE = 0.99  # of the training items keep their whole length, unless told


def checked_text(item: object, row: int) -> str:
    """The item, if it is a text that can be taken.

    Raises:
        DataError: it is no text, blank, too long or not encodable as UTF-8.
    """
    where = f"item {row}"
    if not isinstance(item, str):
        raise DataError(f"{where} is {type(item).__name__}, expected a text (str)")
    if not item.strip():
        raise DataError(f"{where} is an empty text, expected at least one word")
    if len(item) > MAX_TEXT_CHARACTERS:
        raise DataError(
            f"{where} has {len(item):,} characters, expected at most {MAX_TEXT_CHARACTERS:,}; "
            "split it into paragraphs"
        )
    try:
        item.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"{where}: character {error.start} is half of a surrogate pair; "
            "the text was decoded wrongly, read it as UTF-8"
        ) from error
    return item


def padded(texts: Sequence[Sequence[int]], max_length: int, *, with_mask: bool) -> dict[str, Array]:
    """Ids by input name: cut behind ``max_length``, filled up with the padding id.

    Returns:
        ``input`` int64 (rows, max_length) and, if asked for, ``mask`` int64 of the same shape,
        1 where there is a token: ones first, then zeros.
    """
    ids = np.full((len(texts), max_length), PADDING_ID, dtype=np.int64)
    mask = np.zeros_like(ids)
    for row, text in enumerate(texts):
        kept = text[:max_length]
        ids[row, : len(kept)] = kept
        mask[row, : len(kept)] = 1
    return {INPUT: ids, MASK: mask} if with_mask else {INPUT: ids}


def fitted_length(lengths: Sequence[int], *, largest: int) -> int:
    """The length that ``WHOLE_SHARE`` of the items do not exceed, from 1 to ``largest``."""
    ordered = sorted(lengths)
    place = max(1, ceil(WHOLE_SHARE * len(ordered))) - 1
    return min(max(1, ordered[place]), largest)


def require_length(max_length: int) -> None:
    """Refuses a length that no text can be brought to.

    Raises:
        ConfigError: it is below 1 or above ``MAX_LENGTH``.
    """
    if not 1 <= max_length <= MAX_LENGTH:
        raise ConfigError(f"max_length is {max_length}, expected 1 to {MAX_LENGTH}")
