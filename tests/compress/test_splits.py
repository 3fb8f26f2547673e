"""What learns, what chooses and what is looked at once: apart, in proportion, and told of."""

import re

import numpy as np
import pytest

from compress.splits import share_of_duplicates, three_way
from hlserve.datasets import Rows
from hlserve.errors import DataError


def rows(n, seed=0, classes=(0.7, 0.2, 0.1)):
    """Rows whose first number is their own, of classes in uneven shares."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 3)).astype(np.float32)
    x[:, 0] = np.arange(n) + 1e6 * seed
    return Rows({"x": x}, rng.choice(len(classes), size=n, p=classes))


def numbers(part):
    return set() if part is None else set(part.x[:, 0].tolist())


CASES = {
    "train alone": (rows(2000), None, None),
    "evaluation alone": (rows(800), rows(1000, 1), None),
    "test alone": (rows(800), None, rows(1000, 2)),
    "all three": (rows(800), rows(300, 1), rows(250, 2)),
    "few to judge with": (rows(800), rows(150, 1), None),
    "few in all": (rows(300), None, None),
    "no labels": (Rows(rows(900).inputs), Rows(rows(400, 1).inputs), None),
}


@pytest.mark.parametrize("name", CASES)
def test_no_row_serves_two_purposes_and_none_is_lost(name):
    given = CASES[name]
    split = three_way(*given, seed=3)
    parts = [numbers(p) for p in (split.train, split.search, split.test)]
    assert sum(map(len, parts)) == sum(len(p) for p in given if p is not None)
    assert set.union(*parts) == set.union(*map(numbers, given))
    assert len(split.train) > 0
    assert len(split.search) > 0
    again = three_way(*given, seed=3)
    assert [numbers(p) for p in (again.train, again.search, again.test)] == parts


@pytest.mark.parametrize("name", CASES)
def test_every_row_knows_its_place_in_what_was_given(name):
    given = CASES[name]
    sources = dict(zip(("a.npz", "b.npz", "c.npz"), given, strict=True))
    split = three_way(*given, seed=3, names=tuple(sources))
    for part, place in (
        (split.train, split.train_place),
        (split.search, split.search_place),
        (split.test, split.test_place),
    ):
        for index in (0, len(part) // 2, len(part) - 1) if part is not None else ():
            number, source = re.fullmatch(r"row (\d+) of (.*)", place.row(index)).groups()
            np.testing.assert_array_equal(sources[source].x[int(number)], part.x[index])


@pytest.mark.parametrize("name", ["train alone", "evaluation alone", "test alone"])
def test_parts_hold_their_share_of_every_class(name):
    split = three_way(*CASES[name], seed=0)
    assert split.test is not None
    apart = np.concatenate([split.search.y, split.test.y])
    for part in (split.search, split.test):
        wanted = np.bincount(apart) * len(part) / len(apart)
        np.testing.assert_allclose(np.bincount(part.y), wanted, atol=1.0)  # to within one row


def test_shares_are_those_of_the_documentation():
    alone = three_way(*CASES["train alone"], seed=0)
    assert (len(alone.train), len(alone.search), len(alone.test)) == (1300, 400, 300)
    others = three_way(*CASES["evaluation alone"], seed=0)
    assert (len(others.train), len(others.search), len(others.test)) == (800, 600, 400)
    few = three_way(*CASES["few in all"], seed=0)
    assert (len(few.train), len(few.search), few.test) == (240, 60, None)


def test_rows_named_for_their_purpose_are_taken_as_they_are():
    train, search, test = CASES["all three"]
    split = three_way(train, search, test, seed=0)
    assert split.train is train
    assert split.search is search
    assert split.test is test
    assert split.note == ""


def test_notes_say_what_was_done_to_the_rows():
    assert three_way(*CASES["evaluation alone"], seed=0).note == ""
    few = three_way(*CASES["few to judge with"], seed=0)
    assert few.test is None
    assert few.note.startswith("150 rows to judge with are too few to keep some of them")
    alone = three_way(*CASES["train alone"], seed=0).note
    assert alone.startswith("700 of the 2,000 rows were set apart")
    assert "trained on them" in alone


def test_evaluating_on_the_training_rows_is_noticed():
    train = rows(600)
    note = three_way(train, train, None, seed=0).note
    assert "WARNING: 100 % of the search rows stand among the training rows" in note
    assert "100 % of the test rows" in note


def test_duplicates_are_found_in_other_types_and_shapes():
    train = rows(500)
    pixels = Rows({"x": np.random.default_rng(0).integers(0, 256, (400, 1, 6, 6), np.uint8)})
    as_floats = Rows({"image": pixels.x.astype(np.float32).reshape(400, 36)[::4]})
    assert share_of_duplicates(pixels, as_floats) == 1.0
    half = Rows({"x": np.concatenate([train.x[:50], rows(50, 1).x])})
    assert share_of_duplicates(train, half) == 0.5
    assert share_of_duplicates(train, rows(100, 4)) == 0.0


def test_two_rows_are_alike_only_where_all_their_inputs_are():
    a, b = np.arange(20.0).reshape(10, 2), np.zeros((10, 1))
    train = Rows({"a": a, "b": b})
    assert share_of_duplicates(train, Rows({"b": b, "a": a})) == 1.0
    assert share_of_duplicates(train, Rows({"a": a, "b": b + 1})) == 0.0


def test_what_cannot_be_compared_is_no_duplicate():
    a = np.zeros((10, 2))
    texts = np.array(["a"] * 10, dtype=object)
    assert (
        share_of_duplicates(Rows({"text": texts, "mask": a}), Rows({"text": texts, "mask": a})) == 0
    )
    assert share_of_duplicates(Rows({"a": a, "b": a}), Rows({"a": a, "c": a})) == 0
    assert share_of_duplicates(Rows({"a": a}), Rows({"a": a[:0]})) == 0


def test_few_duplicates_are_no_news():
    train = rows(1000)
    others = rows(400, 1)
    others.x[:3] = train.x[:3]
    assert three_way(train, others, rows(300, 2), seed=0).note == ""
    others.x[:8] = train.x[:8]
    assert "2 % of the search rows" in three_way(train, others, rows(300, 2), seed=0).note


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((rows(0), None, None), "no rows to learn from"),
        ((rows(9), rows(0), None), "no rows to judge with"),
        ((rows(9), None, rows(0)), "no rows to test on"),
        ((rows(1), None, None), "1 rows are too few"),
    ],
)
def test_empty_parts_are_refused(given, message):
    with pytest.raises(DataError, match=message):
        three_way(*given, seed=0)
