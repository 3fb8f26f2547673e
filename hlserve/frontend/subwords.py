"""Texts to ids of word parts, by a tokenizer of the ``tokenizers`` library kept as its JSON."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from types import ModuleType
from typing import TYPE_CHECKING, Any, Self, final

import msgspec
from numpy.typing import NDArray

from hlserve.errors import ConfigError, DataError, MissingDependencyError
from hlserve.frontend.token_ids import (
    FITTED_MAX_LENGTH,
    MASK,
    PADDING_ID,
    checked_text,
    fitted_length,
    padded,
    require_length,
)

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Array = NDArray[Any]

DEFAULT_VOCABULARY = 4_000
MAX_TOKENIZER_BYTES = 16 * 2**20
PADDING_TOKEN, UNKNOWN_TOKEN = "[PAD]", "[UNK]"

# What a tokenizer may be made of. Left out: what runs a pattern of the file's own over the text
# (Split, Replace), what may lengthen it without bound when repeated (ByteLevel and Prepend as
# normalizers), and templates that repeat it.
_PARTS: dict[str, frozenset[str]] = {
    "model": frozenset({"BPE", "WordLevel", "WordPiece", "Unigram"}),
    "normalizer": frozenset(
        {"BertNormalizer", "Lowercase", "NFC", "NFD", "NFKC", "NFKD", "Strip", "StripAccents"}
    ),
    "pre_tokenizer": frozenset(
        {"BertPreTokenizer", "ByteLevel", "Digits", "Metaspace", "Punctuation"}
        | {"Whitespace", "WhitespaceSplit"}
    ),
    "post_processor": frozenset({"ByteLevel"}),
}
_SEQUENCES = {"normalizer": "normalizers", "pre_tokenizer": "pretokenizers"}
_MAX_SEQUENCE = 8
_MAX_WORD_PIECE_CHARACTERS = 1000


@final
class Subwords(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    dict=True,
    tag_field="kind",
    tag="subwords",
    forbid_unknown_fields=True,
):
    """Text -> one id a word part, such as byte pairs (Sennrich, Haddow & Birch 2016).

    Attributes:
        tokenizer: the library's own JSON, as ``Tokenizer.to_str`` writes it. Its token ``[PAD]``
            has the id 0; lengths, padding and truncation that it asks for are not followed.
        max_length: ids a text; what is longer is cut, what is shorter padded.
        with_mask: whether the model takes ``mask`` beside ``input``.
        schema_version: of this description.
    """

    tokenizer: str
    max_length: int
    with_mask: bool = True
    schema_version: int = 1

    def __post_init__(self) -> None:
        """Checks what can be seen without the library: size and parts.

        Raises:
            ConfigError: the length is out of range, or the JSON is too large, malformed or made
                of other parts than those that are known to be harmless.
        """
        require_length(self.max_length)
        _require_known_parts(self.tokenizer)

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
        """Byte-pair encoding learnt from the training texts: NFKC, words and punctuation, pairs.

        Args:
            texts: the training texts alone.
            vocabulary_size: the most ids, padding and unknown included.
            min_count: pairs that are rarer are not joined.
            max_length: None takes what 99 of 100 texts fit into, at most 512.
            is_lower_case: whether case is ignored.

        Raises:
            DataError: there are no texts, or one is empty.
            MissingDependencyError: the library is not installed.
        """
        if not texts:
            raise DataError("there are no texts to learn word parts from")
        checked = [checked_text(text, row) for row, text in enumerate(texts)]
        tokenizer = _trained(checked, vocabulary_size, min_count, is_lower_case)
        lengths = [len(encoding.ids) for encoding in tokenizer.encode_batch(checked)]
        length = max_length or fitted_length(lengths, largest=FITTED_MAX_LENGTH)
        return cls(tokenizer=tokenizer.to_str(), max_length=length)

    @property
    def vocabulary_size(self) -> int:
        """How many ids there are, padding and unknown included: rows of an embedding."""
        return 1 + max(self._loaded.get_vocab(with_added_tokens=True).values())

    def apply(self, items: Sequence[str]) -> dict[str, Array]:
        """``input`` int64 (texts, max_length), and ``mask`` alike where the model takes one.

        Raises:
            DataError: an item is no text, blank, too long to be read, or nothing is left of it.
            MissingDependencyError: the library is not installed.
            ConfigError: the library does not take the tokenizer.
        """
        texts = [checked_text(item, row) for row, item in enumerate(items)]
        tokenizer = self._loaded
        with _translated():
            found = tokenizer.encode_batch(texts, add_special_tokens=False)
        ids = [encoding.ids for encoding in found]
        if not all(ids):
            row = ids.index([])
            raise DataError(f"item {row}: the tokenizer leaves nothing of {texts[row][:40]!r}")
        return padded(ids, self.max_length, with_mask=self.with_mask)

    def feeding(self, inputs: Collection[str]) -> Subwords:
        """The same for a model with these inputs."""
        return msgspec.structs.replace(self, with_mask=MASK in inputs)

    @cached_property
    def _loaded(self) -> Tokenizer:
        library = _library()
        with _translated():
            tokenizer: Tokenizer = library.Tokenizer.from_str(self.tokenizer)
        tokenizer.no_padding()
        tokenizer.no_truncation()
        tokenizer.encode_special_tokens = True  # a text that says "[PAD]" pads nothing
        if tokenizer.token_to_id(PADDING_TOKEN) != PADDING_ID:
            raise ConfigError(
                f"the tokenizer gives {PADDING_TOKEN} the id "
                f"{tokenizer.token_to_id(PADDING_TOKEN)}, expected {PADDING_ID}"
            )
        return tokenizer


@contextmanager
def _translated() -> Iterator[None]:
    """The library's errors as ours: plain ``Exception``, and Rust's panics, which are not even it.

    Raises:
        ConfigError: the tokenizer contradicts itself.
    """
    try:
        yield
    except (KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException as error:
        raise ConfigError(f"the tokenizer is not taken by the library: {error}") from error


def _library() -> ModuleType:
    try:
        import tokenizers
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            'texts as subwords need tokenizers; type: pip install "hlserve[data]"'
        ) from error
    return tokenizers


def _trained(
    texts: Sequence[str], vocabulary_size: int, min_count: int, is_lower_case: bool
) -> Tokenizer:
    library = _library()
    tokenizer: Tokenizer = library.Tokenizer(library.models.BPE(unk_token=UNKNOWN_TOKEN))
    parts = [library.normalizers.NFKC()]
    if is_lower_case:
        parts.append(library.normalizers.Lowercase())
    tokenizer.normalizer = library.normalizers.Sequence(parts)
    tokenizer.pre_tokenizer = library.pre_tokenizers.Whitespace()
    trainer = library.trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        min_frequency=min_count,
        special_tokens=[PADDING_TOKEN, UNKNOWN_TOKEN],
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def _require_known_parts(text: str) -> None:
    size = len(text.encode(errors="replace"))
    if size > MAX_TOKENIZER_BYTES:
        raise ConfigError(
            f"a tokenizer of {size:,} bytes, expected at most {MAX_TOKENIZER_BYTES:,}"
        )
    try:
        content = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError, UnicodeEncodeError) as error:
        raise ConfigError(f"the tokenizer is no JSON: {error}") from error
    if not isinstance(content, Mapping):
        raise ConfigError("the tokenizer is no JSON object")
    if not isinstance(content.get("model"), Mapping):
        raise ConfigError("the tokenizer has no model")
    for place, known in _PARTS.items():
        for kind in _kinds(place, content.get(place)):
            if not isinstance(kind, str) or kind not in known:
                raise ConfigError(
                    f"the tokenizer's {place} is {kind!r}, expected one of "
                    f"{', '.join(sorted(known))}"
                )
    _require_quick_and_certain(content["model"])


def _require_quick_and_certain(model: Mapping[str, Any]) -> None:
    if model.get("dropout"):
        raise ConfigError(f"the tokenizer drops pairs by chance (dropout {model['dropout']})")
    most = model.get("max_input_chars_per_word", 0)
    # WordPiece tries every end of a word from every start.
    if not isinstance(most, int) or most > _MAX_WORD_PIECE_CHARACTERS:
        raise ConfigError(
            f"the tokenizer's max_input_chars_per_word is {most!r}, expected at most "
            f"{_MAX_WORD_PIECE_CHARACTERS}"
        )


def _kinds(place: str, part: object) -> Iterator[object]:
    """The types of a part, or of the members where it is a sequence."""
    if part is None:
        return
    kind = part.get("type") if isinstance(part, Mapping) else part
    if kind != "Sequence" or place not in _SEQUENCES or not isinstance(part, Mapping):
        yield kind
        return
    members = part.get(_SEQUENCES[place])
    if not isinstance(members, list) or len(members) > _MAX_SEQUENCE:
        raise ConfigError(f"the tokenizer's {place} is a sequence of more than {_MAX_SEQUENCE}")
    for member in members:
        yield member.get("type") if isinstance(member, Mapping) else member
