"""Texts to word ids, in plain Python: the client needs no library for it."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Sequence
from functools import cached_property
from itertools import islice
from typing import Any, Self, final

import msgspec
from numpy.typing import NDArray

from hlserve.errors import ConfigError, DataError
from hlserve.frontend.token_ids import (
    FITTED_MAX_LENGTH,
    MASK,
    UNKNOWN_ID,
    checked_text,
    fitted_length,
    padded,
    require_length,
)

Array = NDArray[Any]

MAX_VOCABULARY = 2**20
DEFAULT_VOCABULARY = 20_000

# Marks that belong to the letter before them, which Python's \w leaves out: accents that do not
# compose, Hebrew and Arabic points, the signs of Indic and South-East Asian scripts, joiners.
_MARKS = (
    r"\u0300-\u036f\u0483-\u0489\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\u0610-\u061a"
    r"\u064b-\u065f\u0670\u06d6-\u06dc\u06df-\u06e4\u06e7\u06e8\u06ea-\u06ed\u0900-\u0963"
    r"\u0966-\u0dff\u0e31-\u0e3a\u0e47-\u0e4e\u0eb1-\u0ebc\u0ec8-\u0ecd\u0f71-\u0f84\u102b-\u103e"
    r"\u1056-\u1059\u17b4-\u17d3\u200c\u200d\u20d0-\u20ff\ufe20-\ufe2f"
)
_LETTERS = rf"(?:[^\W_]|[{_MARKS}])+"
# Letters, marks and digits with apostrophes inside ("don't"), or any other visible character.
_WORD = re.compile(rf"{_LETTERS}(?:['\u2019]{_LETTERS})*|[^\w\s]|_")
_FIRST_WORD_ID = UNKNOWN_ID + 1


@final
class Words(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    dict=True,
    tag_field="kind",
    tag="words",
    forbid_unknown_fields=True,
):
    """Text -> one id a word, by a vocabulary of whole words.

    A text is brought to Unicode's form NFKC, then to lower case if so set, then split: a word is
    a run of letters and digits, apostrophes inside it included; every other visible character is
    a word of its own. Languages that set no spaces between words need ``Subwords``. Id 0 is
    padding, 1 any word outside the vocabulary, 2 the first word of it.

    Attributes:
        vocabulary: the known words, most frequent first.
        max_length: ids a text; what is longer is cut, what is shorter padded.
        is_lower_case: whether case is ignored.
        with_mask: whether the model takes ``mask`` beside ``input``.
        schema_version: of this description.
    """

    vocabulary: tuple[str, ...]
    max_length: int
    is_lower_case: bool = True
    with_mask: bool = True
    schema_version: int = 1

    def __post_init__(self) -> None:
        """Checks the values.

        Raises:
            ConfigError: the vocabulary is empty, too large or holds a word twice, or the length
                is out of range.
        """
        require_length(self.max_length)
        size = len(self.vocabulary)
        if not 1 <= size <= MAX_VOCABULARY:
            raise ConfigError(f"a vocabulary of {size} words, expected 1 to {MAX_VOCABULARY}")
        if len(set(self.vocabulary)) < size:
            raise ConfigError("the vocabulary holds a word twice, expected each once")

    @classmethod
    def fit(
        cls,
        texts: Sequence[str],
        *,
        vocabulary_size: int = DEFAULT_VOCABULARY,
        min_count: int = 2,
        max_length: int | None = None,
        is_lower_case: bool = True,
    ) -> Self:
        """The vocabulary of the training texts.

        Args:
            texts: the training texts alone.
            vocabulary_size: the most words that are kept, by falling count, then by alphabet.
            min_count: words that are rarer are unknown ones, so that their id is trained too.
            max_length: None takes what 99 of 100 texts fit into, at most 512.
            is_lower_case: see the class.

        Raises:
            DataError: there are no texts, one is empty, or no word is frequent enough.
        """
        if not texts:
            raise DataError("there are no texts to take a vocabulary from")
        words = [_words(checked_text(text, row), is_lower_case) for row, text in enumerate(texts)]
        counts = Counter(word for text in words for word in text)
        ordered = sorted(counts.items(), key=lambda entry: (-entry[1], entry[0]))
        kept = [word for word, count in ordered if count >= min_count][:vocabulary_size]
        if not kept:
            raise DataError(
                f"no word of the {len(texts)} texts occurs {min_count} times; give more texts"
            )
        length = max_length or fitted_length(
            [len(text) for text in words], largest=FITTED_MAX_LENGTH
        )
        return cls(vocabulary=tuple(kept), max_length=length, is_lower_case=is_lower_case)

    @property
    def vocabulary_size(self) -> int:
        """How many ids there are, padding and unknown included: rows of an embedding."""
        return _FIRST_WORD_ID + len(self.vocabulary)

    def apply(self, items: Sequence[str]) -> dict[str, Array]:
        """``input`` int64 (texts, max_length), and ``mask`` alike where the model takes one.

        Raises:
            DataError: an item is no text, blank or too long to be read.
        """
        ids = []
        for row, item in enumerate(items):
            words = _words(checked_text(item, row), self.is_lower_case, self.max_length)
            ids.append([self._ids.get(word, UNKNOWN_ID) for word in words])
        return padded(ids, self.max_length, with_mask=self.with_mask)

    def feeding(self, inputs: Collection[str]) -> Words:
        """The same for a model with these inputs."""
        return msgspec.structs.replace(self, with_mask=MASK in inputs)

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {word: place for place, word in enumerate(self.vocabulary, _FIRST_WORD_ID)}


def _words(text: str, is_lower_case: bool, most: int | None = None) -> list[str]:
    normal = unicodedata.normalize("NFKC", text)
    found = _WORD.finditer(normal.lower() if is_lower_case else normal)
    return [match.group() for match in islice(found, most)]
