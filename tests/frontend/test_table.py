"""Rows of cells: numbers as they are, texts and codes by their columns, NaN for what is missing."""

import numpy as np
import pytest

from hlserve.errors import ConfigError, DataError
from hlserve.frontend import Table, TableColumn
from hlserve.frontend.table import MISSING_NUMBERS

TABLE = Table(
    columns=(
        TableColumn(name="age"),
        TableColumn(name="fruit", texts=("apple", "pear")),
        TableColumn(name="zone", codes=(-1, 7)),
    )
)
NAN = np.nan


@pytest.mark.parametrize(
    ("item", "row"),
    [
        ({"zone": "7", "fruit": " pear ", "age": " 1.5 ", "more": "x"}, [1.5, 1, 7]),
        ({"age": 3, "fruit": "apple", "zone": -1.0}, [3, 0, -1]),
        (["-2e3", "apple", "7.0"], [-2000, 0, 7]),
        ((np.float32(0.5), "pear", np.int64(7)), [0.5, 1, 7]),
        ({"age": None, "fruit": None, "zone": None}, [NAN, NAN, NAN]),
        (["", "?", "NA"], [NAN, NAN, NAN]),
        ([1, "plum", 8], [1, NAN, NAN]),  # not shown in training
        ([True, "Apple", "-1"], [1, NAN, -1]),  # texts are matched letter by letter
    ],
)
def test_cells_become_one_row_of_float32(item, row):
    made = TABLE.apply([item])
    assert list(made) == ["input"]
    assert made["input"].dtype == np.float32
    np.testing.assert_array_equal(made["input"], np.array([row], np.float32))


def test_every_word_for_a_missing_number_is_nan_in_any_case():
    words = [w for word in MISSING_NUMBERS for w in (word, word.upper(), f" {word} ")]
    assert np.isnan(TABLE.apply([[word, "pear", 7] for word in words])["input"][:, 0]).all()


def test_no_rows_are_an_empty_array_and_categories_are_told_by_place():
    assert TABLE.apply([])["input"].shape == (0, 3)
    assert TABLE.categories == {1: (0, 1), 2: (-1, 7)}
    assert TABLE.feeding(["input"]) is TABLE


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ({"age": 1, "fruit": "pear"}, "item 0 has no column 'zone', it has 'age', 'fruit'"),
        ([1, "pear"], "item 0 has 2 cells, expected 3: 'age', 'fruit', 'zone'"),
        ("1,pear,7", "item 0 is str, expected cells by column name"),
        (["x", "pear", 7], "item 0, column 'age': 'x' is not a number"),
        (["1_000", "pear", 7], "column 'age': '1_000' is not a number"),
        (["inf", "pear", 7], "column 'age': 'inf' is out of range"),
        ([1e39, "pear", 7], "column 'age': '1e\\+39' is out of range"),
        ([[1], "pear", 7], r"column 'age': \[1\] is not a number"),
        ([1, "pear", 7.5], "column 'zone': 7.5 is no whole number"),
        ([1, True, 7], "column 'fruit': True is no text"),
        ([1, b"pear", 7], "column 'fruit': b'pear' is no text"),
    ],
)
def test_cells_that_do_not_fit_are_told(item, message):
    with pytest.raises(DataError, match=message):
        TABLE.apply([item])


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ((), "0 columns"),
        ((TableColumn(name="a"), TableColumn(name="a")), "two columns have one name"),
        ((TableColumn(name="a", texts=("x", "x")),), "column 'a' holds a category twice"),
        ((TableColumn(name="a", codes=(1, 1)),), "column 'a' holds a category twice"),
        ((TableColumn(name="a", codes=()),), "column 'a' names no category"),
        ((TableColumn(name="a", texts=("x",), codes=(1,)),), "both texts and codes"),
        ((TableColumn(name="a", codes=(2**24 + 1,)),), "a code above 16,777,216"),
        (tuple(TableColumn(name=str(i)) for i in range(4097)), "4097 columns"),
    ],
)
def test_wrong_columns_are_refused(columns, message):
    with pytest.raises(ConfigError, match=message):
        Table(columns=columns)
