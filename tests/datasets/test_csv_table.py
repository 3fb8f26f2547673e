import os
from pathlib import Path

import numpy as np
import pytest

from hlserve.datasets import load
from hlserve.errors import DataError

SHARED = Path(os.environ.get("HLSERVE_SHARED", Path(__file__).parents[2].parent / "shared"))


def write(folder, text, encoding="utf-8"):
    path = folder / "table.csv"
    path.write_bytes(text.encode(encoding))
    return path


def test_numbers_become_float32_columns_in_the_headers_order(tmp_path):
    dataset = load(write(tmp_path, "a,y,b\n1,10.5,-2e3\n 3 ,20,0.25\n"))
    assert dataset.feature_names == ("a", "b")
    assert dataset.train.x.dtype == np.float32
    np.testing.assert_array_equal(dataset.train.x, [[1, -2000], [3, 0.25]])
    np.testing.assert_array_equal(dataset.train.y, [10.5, 20])
    assert (dataset.task, dataset.train.y.dtype.name, dataset.test) == (
        "regression",
        "float32",
        None,
    )


def test_text_target_becomes_class_labels_in_sorted_order(tmp_path):
    dataset = load(write(tmp_path, "a,kind\n1,rose\n2,iris\n3,rose\n"), target="kind")
    assert (dataset.task, dataset.class_labels) == ("classification", ("iris", "rose"))
    np.testing.assert_array_equal(dataset.train.y, [1, 0, 1])


def test_text_target_may_have_a_class_called_none(tmp_path):
    assert load(write(tmp_path, "a,y\n1,none\n2,mild\n")).class_labels == ("mild", "none")


def test_whole_numbers_from_zero_without_a_gap_are_classes(tmp_path):
    dataset = load(write(tmp_path, "a,y\n1,2\n2,0\n3,1\n"))
    assert (dataset.task, dataset.class_labels) == ("classification", ("0", "1", "2"))
    np.testing.assert_array_equal(dataset.train.y, [2, 0, 1])


@pytest.mark.parametrize("targets", ["3 4 5", "0 2 3", "0.0 1.0 1.0", "0 1 -1"])
def test_other_numbers_are_a_regression(tmp_path, targets):
    lines = "".join(f"1,{value}\n" for value in targets.split())
    assert load(write(tmp_path, f"a,y\n{lines}")).task == "regression"


def test_table_without_the_default_target_has_no_labels(tmp_path):
    dataset = load(write(tmp_path, "a,b\n1,2\n"))
    assert (dataset.train.y, dataset.task) == (None, None)
    assert dataset.train.x.shape == (1, 2)


def test_byte_order_mark_quotes_crlf_and_blank_lines_are_read(tmp_path):
    dataset = load(write(tmp_path, '\ufeff"a, b",y\r\n"1",0\r\n\r\n2,1\r\n', "utf-8"))
    assert dataset.feature_names == ("a, b",)
    np.testing.assert_array_equal(dataset.train.x, [[1], [2]])


@pytest.mark.parametrize(
    ("text", "target", "message"),
    [
        ("", None, "empty, expected a line of column names"),
        ("a,b\n", None, "a header and no row below it"),
        ("1,2\n3,4\n", None, "the first line holds only numbers"),
        ("a,,c\n1,2,3\n", None, "column 2 has no name"),
        ("a,b,a\n1,2,3\n", None, "two columns are named 'a'"),
        ("a;b\n1;2\n", None, "not separated by commas"),
        ("a,b\n1,2\n", "c", "no column 'c' for the target, it has 'a', 'b'"),
        ("y\n1\n", None, "only the target column 'y'"),
        ("a,b\n1,2\n3\n", None, r"row 2 \(line 3\) has 1 cells, expected 2"),
        ("a,b\n1,2\n\n3,4,5\n", None, r"row 2 \(line 4\) has 3 cells, expected 2"),
        ("a,b\n1,\n", None, r"row 1 \(line 2\), column 'b': missing value ''"),
        ("a,b\n1,2\n?,4\n", None, r"row 2 \(line 3\), column 'a': missing value '\?'"),
        ("a,b\n1,NaN\n", None, "column 'b': missing value 'NaN'"),
        ("a,sex\n1,male\n", None, "column 'sex': 'male' is not a number, and categories"),
        ("a,b\n1,1_000\n", None, "column 'b': '1_000' is not a number"),
        ("a,b\n1,inf\n", None, "column 'b': 'inf' is out of range"),
        ("a,b\n1,1e39\n", None, "column 'b': '1e39' is out of range"),
        ("a,y\n1,rose\n2,\n", None, r"row 2 \(line 3\), column 'y': missing value ''"),
        ("a,y\n1,1.5\n2,NA\n", None, r"row 2 \(line 3\), column 'y': missing value 'NA'"),
        ('a,b\n1,"2\n', None, "not well-formed CSV"),
    ],
)
def test_bad_table_says_where_and_what_came(tmp_path, text, target, message):
    with pytest.raises(DataError, match=f"table.csv': .*{message}"):
        load(write(tmp_path, text), target=target)


def test_line_number_is_the_files_where_a_cell_spans_lines(tmp_path):
    with pytest.raises(DataError, match=r"row 2 \(line 4\), column 'a'"):
        load(write(tmp_path, 'a,y\n1,"two\nlines"\nx,z\n'))


def test_wrong_encoding_names_the_line_and_the_way_out(tmp_path):
    path = write(tmp_path, "a,y\n1,caf\n2,café\n", "latin-1")
    with pytest.raises(DataError, match=r"line 3 is not UTF-8.*iconv"):
        load(path)


def test_heart_disease_is_refused_for_its_gaps_and_read_without_them(tmp_path):
    source = SHARED / "data" / "heart-disease" / "processed.cleveland.data"
    if not source.is_file():
        pytest.skip(f"no file '{source}'; HLSERVE_SHARED names its root")
    lines = source.read_text(encoding="utf-8").splitlines()
    with pytest.raises(DataError, match=r"column '(ca|thal)': missing value ''"):
        load(write(tmp_path, "\n".join(lines)), target="target")
    whole = [line for line in lines if "" not in line.split(",")]
    dataset = load(write(tmp_path, "\n".join(whole)), target="target")
    assert dataset.train.x.shape == (297, 13)
    assert dataset.class_labels == ("0", "1", "2", "3", "4")
