"""Front ends as JSON: they come back as they were, and nothing else is read."""

import json
import subprocess
import sys
from typing import get_args

import msgspec
import pytest

from hlserve.errors import ConfigError, ModelFileError, SchemaVersionError
from hlserve.frontend import (
    FrontEnd,
    Image,
    LogMel,
    Subwords,
    Table,
    TableColumn,
    Words,
    fit,
    from_json,
    item_kind,
    to_json,
)
from hlserve.frontend.description import KINDS
from tests.frontend.sounds import tone, wav

TEXTS = ["the cat sat on the mat", "the dog sat"]
CASES = [
    Words.fit(TEXTS),
    Subwords.fit(TEXTS),
    LogMel.fit([wav(tone(300))]),
    Table(
        columns=(
            TableColumn(name="fruit", texts=("apple", "grüne Birne")),
            TableColumn(name="zone", codes=(-1, 7)),
            TableColumn(name="weight"),
        )
    ),
    Image(height=48, width=64, channels=3),
]


def test_every_kind_has_a_case():
    assert {type(case) for case in CASES} == set(get_args(FrontEnd))
    assert [to_json(case)["kind"] for case in CASES] == list(KINDS)


@pytest.mark.parametrize("front_end", CASES, ids=lambda case: type(case).__name__)
def test_json_brings_a_front_end_back(front_end):
    values = to_json(front_end)
    assert values["schema_version"] == 1
    assert from_json(values) == front_end
    assert from_json(json.dumps(values)) == front_end
    assert from_json(json.dumps(values, ensure_ascii=False).encode()) == front_end


@pytest.mark.parametrize("front_end", CASES, ids=lambda case: type(case).__name__)
def test_a_newer_description_and_an_unknown_field_are_refused(front_end):
    values = to_json(front_end)
    with pytest.raises(SchemaVersionError, match="schema version 2, this hlserve reads up to 1"):
        from_json(values | {"schema_version": 2, "kind": "new"})
    with pytest.raises(ModelFileError, match="unknown field `more`"):
        from_json(values | {"more": 1})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "front end is no JSON"),
        (b"\xff\xfe", "no JSON"),
        ("[1, 2]", "holds list, expected a JSON object"),
        ("[" * 100_000, "no JSON"),
        ("{}", "of the kind None, expected one of words"),
        ('{"kind": "pickle"}', "of the kind 'pickle'"),
        ('{"kind": ["words"]}', "of the kind"),
        ('{"kind": "words"}', "missing required field `vocabulary`"),
        ('{"kind": "words", "vocabulary": [1], "max_length": 3}', "Expected `str`, got `int`"),
        ('{"kind": "words", "vocabulary": ["a"], "max_length": 1e3}', "Expected `int`"),
        ('{"kind": "words", "vocabulary": ["a"], "max_length": 99999999}', "max_length is"),
        ('{"kind": "words", "vocabulary": ["a", "a"], "max_length": 3}', "a word twice"),
        ('{"kind": "log_mel", "sample_rate": 1e9}', "Expected `int`"),
    ],
)
def test_what_is_no_front_end_is_told(content, message):
    with pytest.raises(ModelFileError, match=message):
        from_json(content)


def test_a_schema_version_that_is_no_number_is_refused():
    with pytest.raises(SchemaVersionError, match="'1'"):
        from_json(to_json(CASES[0]) | {"schema_version": "1"})


def test_a_huge_description_is_refused_unread():
    with pytest.raises(ModelFileError, match="expected at most 33,554,432"):
        from_json(b" " * (32 * 2**20 + 1))


def test_reading_one_loads_no_library():
    texts = json.dumps([json.dumps(to_json(case)) for case in CASES])
    code = (
        "import json, sys; from hlserve.frontend import from_json;"
        "[from_json(text) for text in json.load(sys.stdin)];"
        "assert not {'tokenizers', 'soundfile', 'grpc', 'onnxruntime'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], input=texts, text=True, check=True)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [("words", Words), ("words:3", Words), ("subwords:30", Subwords), ("log-mel:20", LogMel)],
)
def test_a_short_text_names_and_sizes_a_front_end(spec, expected):
    items = [wav(tone(300))] if expected is LogMel else TEXTS
    front_end = fit(spec, items)
    assert isinstance(front_end, expected)
    assert item_kind(front_end) == ("sound" if expected is LogMel else "text")
    if spec == "words:3":
        assert front_end.vocabulary_size == 5 - 1  # two words occur twice
    if expected is LogMel:
        assert front_end.n_mels == 20


@pytest.mark.parametrize(
    "spec", ["", "bpe", "words:", "words:0", "words:-1", "words:²", "log-mel:x"]
)
def test_an_unknown_short_text_is_told(spec):
    with pytest.raises(ConfigError, match=r"front end.*words\[:SIZE\]"):
        fit(spec, TEXTS)


def test_a_front_end_is_frozen():
    with pytest.raises(AttributeError):
        CASES[0].max_length = 3
    assert issubclass(Words, msgspec.Struct)
