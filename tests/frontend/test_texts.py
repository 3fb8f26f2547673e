"""Texts to ids: words in plain Python, subwords by the library, and what is refused."""

import json
import sys

import numpy as np
import pytest
import tokenizers

from hlserve.errors import ConfigError, DataError, MissingDependencyError
from hlserve.frontend import PADDING_ID, UNKNOWN_ID, Subwords, Words

TEXTS = [
    "The cat sat on the mat.",
    "The dog didn't sit on the cat!",
    "Cats and dogs: the mat, the log, the cat.",
    "Über naïve cafés, the cat thought.",
] * 3
KINDS = [Words, Subwords]


@pytest.mark.parametrize("kind", KINDS)
def test_ids_come_in_one_length_with_a_prefix_mask(kind):
    front_end = kind.fit(TEXTS, max_length=12)
    made = front_end.apply(["the cat", "the cat sat on the mat " * 9])
    ids, mask = made["input"], made["mask"]
    assert ids.shape == mask.shape == (2, 12)
    assert ids.dtype == mask.dtype == np.int64
    assert (np.diff(mask, axis=1) <= 0).all()
    np.testing.assert_array_equal(mask == 0, ids == PADDING_ID)
    assert mask.sum(axis=1).tolist() == [2, 12]
    assert ids.max() < front_end.vocabulary_size


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_is_its_texts_one_by_one_and_may_be_empty(kind):
    front_end = kind.fit(TEXTS)
    together = front_end.apply(TEXTS)
    for row, text in enumerate(TEXTS):
        np.testing.assert_array_equal(together["input"][row], front_end.apply([text])["input"][0])
    assert front_end.apply([])["input"].shape == (0, front_end.max_length)


@pytest.mark.parametrize("kind", KINDS)
def test_fitting_again_gives_the_same_and_the_mask_can_be_left_out(kind):
    front_end = kind.fit(TEXTS)
    assert kind.fit(TEXTS) == front_end
    assert set(front_end.feeding(["input"]).apply(["the cat"])) == {"input"}
    assert front_end.feeding(["input", "mask"]) == front_end


@pytest.mark.parametrize("kind", KINDS)
def test_case_counts_only_where_it_is_told(kind):
    ids = [
        kind.fit(TEXTS, is_lower_case=is_lower).apply(["THE Cat", "the cat"])["input"]
        for is_lower in (True, False)
    ]
    np.testing.assert_array_equal(ids[0][0], ids[0][1])
    assert not np.array_equal(ids[1][0], ids[1][1])


def test_words_are_ordered_by_count_and_rare_ones_are_unknown():
    front_end = Words.fit(["b a a", "b c"], min_count=2)
    assert front_end.vocabulary == ("a", "b")
    assert front_end.vocabulary_size == 4
    assert front_end.apply(["a b c z"])["input"].tolist() == [[2, 3, UNKNOWN_ID]]


def test_words_keep_their_apostrophes_and_punctuation_stands_alone():
    front_end = Words.fit(["I don't, rock 'n' roll_2!"], min_count=1, max_length=20)
    expected = {"i", "don't", ",", "rock", "'", "n", "roll", "_", "2", "!"}
    assert set(front_end.vocabulary) == expected


@pytest.mark.parametrize(
    "word", ["हिन्दी", "ภาษาไทย", "عَرَبِيّ", "עִבְרִית", "Việt", "e\u0301te\u0301", "தமிழ்"]
)
def test_marks_stay_with_their_letters_in_any_script(word):
    front_end = Words.fit([f"{word}, {word}!"])
    assert len(front_end.vocabulary) == 1
    assert front_end.apply([word])["mask"].sum() == 1


def test_words_agree_with_the_librarys_word_level_model():
    front_end = Words.fit(TEXTS)
    words = {"[PAD]": 0, "[UNK]": 1}
    words |= {word: place for place, word in enumerate(front_end.vocabulary, 2)}
    theirs = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))
    theirs.normalizer = tokenizers.normalizers.Sequence(
        [tokenizers.normalizers.NFKC(), tokenizers.normalizers.Lowercase()]
    )
    pattern = tokenizers.Regex(r"[\p{L}\p{M}\p{N}]+(?:'[\p{L}\p{M}\p{N}]+)*|[^\w\s]")
    theirs.pre_tokenizer = tokenizers.pre_tokenizers.Split(pattern, "removed", invert=True)
    theirs.enable_padding(length=front_end.max_length)
    for text in [*TEXTS[:4], "A zebra's café: don't!"]:
        expected = theirs.encode(text).ids[: front_end.max_length]
        assert front_end.apply([text])["input"][0].tolist() == expected


def test_subwords_are_those_of_the_library_and_join_back_to_the_text():
    front_end = Subwords.fit(TEXTS)
    theirs = tokenizers.Tokenizer.from_str(front_end.tokenizer)
    text = "the cats sat on logs"
    ids = front_end.apply([text])
    kept = ids["input"][0][: ids["mask"].sum()].tolist()
    assert kept == theirs.encode(text).ids
    assert "".join(theirs.id_to_token(i) for i in kept) == text.replace(" ", "")
    assert theirs.get_vocab_size() == front_end.vocabulary_size


def test_a_text_that_says_padding_pads_nothing():
    ids = Subwords.fit(TEXTS, max_length=8).apply(["the [PAD] cat"])
    assert (ids["input"][ids["mask"] == 1] != PADDING_ID).all()


def test_a_text_of_unknown_words_is_all_unknown():
    assert (Words.fit(TEXTS, max_length=2).apply(["xyzzy plugh"])["input"] == UNKNOWN_ID).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("item", "message"),
    [
        ("", "item 1 is an empty text"),
        (" \n\t", "item 1 is an empty text"),
        (b"bytes", "item 1 is bytes, expected a text"),
        ("a" * 1_000_001, "1,000,001 characters, expected at most"),
        ("half \ud800", "half of a surrogate pair"),
    ],
)
def test_texts_that_cannot_be_taken_are_told(kind, item, message):
    front_end = kind.fit(TEXTS)
    with pytest.raises(DataError, match=message):
        front_end.apply(["the cat", item])
    with pytest.raises(DataError, match=message):
        kind.fit(["the cat", item])


@pytest.mark.parametrize("kind", KINDS)
def test_no_texts_to_fit_are_told(kind):
    with pytest.raises(DataError, match="there are no texts"):
        kind.fit([])


def test_words_that_are_all_rare_are_told():
    with pytest.raises(DataError, match="no word of the 1 texts occurs 2 times"):
        Words.fit(["one two three"])


@pytest.mark.parametrize(
    ("vocabulary", "max_length", "message"),
    [
        ((), 3, "a vocabulary of 0 words"),
        (("a", "a"), 3, "holds a word twice"),
        (("a",), 0, "max_length is 0"),
        (("a",), 10**9, "max_length is 1000000000"),
    ],
)
def test_wrong_words_are_refused(vocabulary, max_length, message):
    with pytest.raises(ConfigError, match=message):
        Words(vocabulary=vocabulary, max_length=max_length)


# ----- tokenizers from elsewhere


def changed(**parts):
    content = json.loads(Subwords.fit(TEXTS).tokenizer) | parts
    return Subwords(tokenizer=json.dumps(content), max_length=8)


REPLACE = {"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"normalizer": REPLACE}, "normalizer is 'Replace'"),
        ({"normalizer": {"type": "Sequence", "normalizers": [REPLACE]}}, "is 'Replace'"),
        ({"normalizer": {"type": "ByteLevel"}}, "normalizer is 'ByteLevel'"),
        (
            {"normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}] * 9}},
            "sequence of more than 8",
        ),
        (
            {"pre_tokenizer": {"type": "Split", "pattern": {"Regex": "(a+)+$"}}},
            "pre_tokenizer is 'Split'",
        ),
        ({"post_processor": {"type": "TemplateProcessing"}}, "is 'TemplateProcessing'"),
        ({"model": {"type": "Python"}}, "model is 'Python'"),
        ({"normalizer": {"type": "Sequence", "normalizers": "x"}}, "sequence of more"),
    ],
)
def test_parts_that_can_lengthen_a_text_or_run_patterns_are_refused(parts, message):
    with pytest.raises(ConfigError, match=message):
        changed(**parts)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"dropout": 0.5}, "drops pairs by chance"),
        ({"max_input_chars_per_word": 10**9}, "expected at most 1000"),
        ({"type": "WordLevel", "unk_token": "?"}, "not taken by the library"),
        ({"merges": [["t", "zz"]]}, "not taken by the library"),
    ],
)
def test_models_of_chance_or_quadratic_time_or_in_contradiction_are_refused(model, message):
    content = json.loads(Subwords.fit(TEXTS).tokenizer)
    with pytest.raises(ConfigError, match=message):
        changed(model=content["model"] | model).apply(["the zebra"])


def test_a_panic_of_the_library_is_told_as_any_other_error(capfd):
    model = json.loads(Subwords.fit(TEXTS).tokenizer)["model"]
    model["continuing_subword_prefix"] = "longer than a token"
    with pytest.raises(ConfigError, match="not taken by the library"):
        changed(model=model).apply(["the cat"])


def test_tokenizers_with_any_value_changed_work_or_are_refused(capfd):
    rng = np.random.default_rng(0)
    values = [None, 0, -1, 2**64, 1e308, "", "Sequence", [], {}, [None], True, {"type": "NFC"}]
    outcomes = set()
    for _ in range(300):
        content = json.loads(Subwords.fit(TEXTS).tokenizer)
        place = content
        while place:
            keys = list(place) if isinstance(place, dict) else range(len(place))
            key = keys[int(rng.integers(len(keys)))]
            if rng.random() < 0.4 or not isinstance(place[key], dict | list):
                place[key] = values[int(rng.integers(len(values)))]
                break
            place = place[key]
        try:
            Subwords(tokenizer=json.dumps(content), max_length=8).apply(["the zebra's cat"])
            outcomes.add("works")
        except ConfigError:
            outcomes.add("refused")
    assert outcomes == {"works", "refused"}


def test_padding_and_truncation_of_the_file_are_not_followed():
    huge = {"strategy": {"Fixed": 10**12}, "direction": "Left", "pad_to_multiple_of": None}
    huge |= {"pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]"}
    front_end = changed(padding=huge)
    assert front_end.apply(["the cat"])["mask"].sum() == 2


@pytest.mark.parametrize(
    ("tokenizer", "message"),
    [
        ("{", "no JSON"),
        ("[1]", "no JSON object"),
        ("[" * 100_000, "no JSON"),
        ("x" * (16 * 2**20 + 1), "expected at most 16,777,216"),
    ],
)
def test_what_is_no_tokenizer_is_refused(tokenizer, message):
    with pytest.raises(ConfigError, match=message):
        Subwords(tokenizer=tokenizer, max_length=8)


def test_what_the_library_does_not_take_is_told_and_so_is_missing_padding():
    with pytest.raises(ConfigError, match="is not taken by the library"):
        changed(model={"type": "BPE", "vocab": "no"}).apply(["the cat"])
    bare = tokenizers.Tokenizer(tokenizers.models.WordLevel({"the": 0, "?": 1}, unk_token="?"))
    with pytest.raises(ConfigError, match=r"gives \[PAD\] the id None, expected 0"):
        Subwords(tokenizer=bare.to_str(), max_length=8).apply(["the"])


def test_without_the_library_the_command_to_type_is_told(monkeypatch):
    front_end = Subwords.fit(TEXTS)
    again = Subwords(tokenizer=front_end.tokenizer, max_length=8)
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(MissingDependencyError, match=r'pip install "hlserve\[data\]"'):
        again.apply(["the cat"])
    assert Words.fit(TEXTS).apply(["the cat"])["mask"].sum() == 2  # words need it not
