"""Columns of strings: a vocabulary for each, and 0 for what training did not show."""

import numpy as np
import pytest

from hlserve.errors import ConfigError, DataError
from hlserve.frontend import Column, StringColumns

FRUIT = {"fruit": ["apple", "pear", "apple "], "size": ["l", "s", "l"]}


def test_ids_count_from_one_by_falling_count_and_zero_is_unknown():
    front_end = StringColumns.fit(FRUIT)
    assert front_end.columns == (Column("fruit", ("apple", "pear")), Column("size", ("l", "s")))
    assert front_end.vocabulary_sizes == (3, 3)
    rows = [{"size": "s", "fruit": " apple"}, {"fruit": "plum", "size": "l", "more": "x"}]
    made = front_end.apply(rows)
    assert made["categories"].tolist() == [[1, 2], [0, 1]]
    assert made["categories"].dtype == np.int64
    assert front_end.apply([])["categories"].shape == (0, 2)


def test_rare_values_and_those_beyond_the_most_are_unknown():
    assert StringColumns.fit(FRUIT, min_count=2).columns[0].values == ("apple",)
    assert StringColumns.fit(FRUIT, max_values=1).columns[1].values == ("l",)


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ({"fruit": "apple"}, "item 0 has no column 'size', it has 'fruit'"),
        ({"fruit": "apple", "size": 3}, "column 'size': 3 is no string"),
        (["apple", "l"], "item 0 is list, expected cells by column name"),
    ],
)
def test_rows_that_do_not_fit_are_told(item, message):
    with pytest.raises(DataError, match=message):
        StringColumns.fit(FRUIT).apply([item])


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ((), "0 columns"),
        ((Column("a", ()), Column("a", ())), "two columns have one name"),
        ((Column("a", ("x", "x")),), "column 'a' holds a value twice"),
        (tuple(Column(str(i), ()) for i in range(4097)), "4097 columns"),
    ],
)
def test_wrong_columns_are_refused(columns, message):
    with pytest.raises(ConfigError, match=message):
        StringColumns(columns=columns)
