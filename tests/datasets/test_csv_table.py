import os
from pathlib import Path

import numpy as np
import pytest

from hlserve.datasets import load
from hlserve.errors import DataError
from hlserve.frontend import Table, TableColumn

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


def test_numbers_are_the_models_classes_where_all_of_them_name_one(tmp_path):
    few = load(write(tmp_path, "a,y\n1,3\n2,1\n3,3.0\n"))
    assert few.task == "regression"  # by itself
    named = few.in_classes(["0", "1", "2", "3"])
    assert (named.task, named.class_labels) == ("classification", ("0", "1", "2", "3"))
    np.testing.assert_array_equal(named.train.y, [3, 1, 3])
    assert few.in_classes(["0", "1"]) is few
    assert few.in_classes(None) is few


def test_table_without_the_default_target_has_no_labels(tmp_path):
    dataset = load(write(tmp_path, "a,b\n1,2\n"))
    assert (dataset.train.y, dataset.task) == (None, None)
    assert dataset.train.x.shape == (1, 2)


def test_byte_order_mark_quotes_crlf_and_blank_lines_are_read(tmp_path):
    dataset = load(write(tmp_path, '\ufeff"a, b",y\r\n"1",0\r\n\r\n2,1\r\n', "utf-8"))
    assert dataset.feature_names == ("a, b",)
    np.testing.assert_array_equal(dataset.train.x, [[1], [2]])


HOUSES = "\n".join(
    [
        "rooms,street,kind,lift,price",
        "3,Elm,1,yes,10.5",
        ",Oak,2,?,20",
        " 4 , Elm ,7,no,15.5",
        "n/a,,2,none,1",
    ]
)


def test_gaps_are_nan_and_texts_are_codes_of_a_front_end(tmp_path):
    dataset = load(write(tmp_path, HOUSES), target="price", categorical=["kind"])
    assert dataset.task == "regression"
    assert dataset.frontend == Table(
        columns=(
            TableColumn(name="rooms"),
            TableColumn(name="street", texts=("Elm", "Oak")),
            TableColumn(name="kind", codes=(1, 2, 7)),
            TableColumn(name="lift", texts=("no", "none", "yes")),
        )
    )
    nan = np.nan
    expected = [[3, 0, 1, 2], [nan, 1, 2, nan], [4, 0, 7, 0], [nan, nan, 2, 1]]
    np.testing.assert_array_equal(dataset.train.x, expected)
    assert dataset.categories == {1: (0, 1), 2: (1, 2, 7), 3: (0, 1, 2)}
    assert dataset.feature_names == ("rooms", "street", "kind", "lift")


def test_a_table_of_plain_numbers_has_no_front_end_and_one_with_a_choice_has(tmp_path):
    path = write(tmp_path, "a,b,y\n1,2,0.5\n3,4,1.5\n")
    assert load(path).frontend is None
    assert load(path).categories == {}
    assert load(path, ignore=["a"]).frontend == Table(columns=(TableColumn(name="b"),))
    assert load(write(tmp_path, "a,y\n1,0.5\n-,1.5\n")).frontend is not None


def test_a_fitted_front_end_finds_its_columns_by_name_and_is_never_refitted(tmp_path):
    fitted = load(write(tmp_path, HOUSES), target="price", categorical=["kind"]).frontend
    other = "price,lift,more,kind,rooms,street\n2,yes,7,9,1,Oak\n3,maybe,8,1,?,Ash\n"
    dataset = load(write(tmp_path, other), target="price", frontend=fitted)
    np.testing.assert_array_equal(dataset.train.x, [[1, 1, np.nan, 2], [np.nan, np.nan, 1, np.nan]])
    assert dataset.frontend == fitted
    with pytest.raises(DataError, match="no column 'street' for the model, it has 'rooms'"):
        load(write(tmp_path, "rooms\n1\n"), frontend=fitted)
    with pytest.raises(DataError, match="the target 'rooms' is one of the model's inputs"):
        load(write(tmp_path, HOUSES), target="rooms", frontend=fitted)
    bad = write(tmp_path, HOUSES.replace("Oak,2", "Oak,2.5"))
    with pytest.raises(DataError, match=r"row 2 \(line 3\), column 'kind': '2.5' is no whole"):
        load(bad, target="price", frontend=fitted)
    with pytest.raises(DataError, match="leave out the others"):
        load(bad, frontend=fitted, ignore=["rooms"])


def test_texts_with_a_label_are_a_table_where_it_is_asked_for(tmp_path):
    path = write(tmp_path, "text,y\nred,1\nblue,0\nred,1\n")
    fitted = Table(columns=(TableColumn(name="text", texts=("blue", "red")),))
    assert load(path).frontend != fitted
    assert load(path, frontend=fitted).train.x.ravel().tolist() == [1, 0, 1]
    assert load(path, categorical=["text"]).frontend == fitted


@pytest.mark.parametrize(
    ("text", "choices", "message"),
    [
        (HOUSES, {"ignore": ["x"]}, "no column 'x' to ignore, it has 'rooms'"),
        (HOUSES, {"categorical": ["x"]}, "no column 'x' for the categories"),
        (HOUSES, {"ignore": ["price"]}, "the column 'price' to ignore is the target"),
        (HOUSES, {"ignore": ["kind"], "categorical": ["kind"]}, "is named as categorical"),
        (HOUSES, {"ignore": ["rooms", "street", "kind", "lift"]}, "every column is ignored"),
        ("a,price\n1.5,2\n2,3\n", {"categorical": ["a"]}, r"row 1 \(line 2\), column 'a': '1.5'"),
        ("a,price\n?,2\n,3\n", {"categorical": ["a"]}, "column 'a' is empty"),
        (HOUSES, {"image_size": "64"}, "holds no image files"),
        (HOUSES, {"frontend": "words:9"}, "is for texts and sounds"),
        ("a,price\n1,2\n2,\n", {}, r"row 2 \(line 3\), column 'price': missing value ''"),
    ],
)
def test_choices_that_do_not_fit_are_told(tmp_path, text, choices, message):
    with pytest.raises(DataError, match=message):
        load(write(tmp_path, text), target="price", **choices)


@pytest.mark.parametrize(
    ("n_rows", "n_values", "is_refused"),
    [(20, 20, False), (30, 21, True), (60, 30, False), (600, 256, False), (600, 257, True)],
)
def test_too_many_texts_to_be_categories_are_refused(tmp_path, n_rows, n_values, is_refused):
    cells = [f"n{i % n_values},{i % 2}" for i in range(n_rows)]
    path = write(tmp_path, "name,y\n" + "\n".join(cells) + "\n")
    if not is_refused:
        assert len(load(path, ignore=[]).categories[0]) == n_values
        return
    with pytest.raises(DataError, match=rf"column 'name' holds {n_values} .*--ignore 'name'"):
        load(path)


def test_columns_are_refused_for_data_that_are_no_table(tmp_path):
    np.savez(tmp_path / "x.npz", x=np.zeros((2, 2)))
    for where in ("digits", tmp_path / "x.npz"):
        with pytest.raises(DataError, match="is no CSV table, so it has no column 'a'"):
            load(where, ignore=["a"])


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
        (
            "a,b\n1,2\n1,3\n1,1_000\n",
            None,
            r"row 3 \(line 4\), column 'b': '1_000' is not a number",
        ),
        ("a,b\n1,1\n2,2\n3,x y\n", None, "--categorical 'b'"),
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
        load(write(tmp_path, 'a,y\n1,"two\nlines"\ninf,z\n'))


def test_wrong_encoding_names_the_line_and_the_way_out(tmp_path):
    path = write(tmp_path, "a,y\n1,caf\n2,café\n", "latin-1")
    with pytest.raises(DataError, match=r"line 3 is not UTF-8.*iconv"):
        load(path)


@pytest.mark.parametrize(
    ("hospital", "n_rows", "n_gaps"),
    [("cleveland", 303, 6), ("hungarian", 294, 782), ("switzerland", 123, 273), ("va", 200, 698)],
)
def test_heart_disease_is_read_with_its_gaps(tmp_path, hospital, n_rows, n_gaps):
    source = SHARED / "data" / "heart-disease" / f"processed.{hospital}.data"
    if not source.is_file():
        pytest.skip(f"no file '{source}'; HLSERVE_SHARED names its root")
    dataset = load(write(tmp_path, source.read_text(encoding="utf-8")), target="target")
    assert dataset.train.x.shape == (n_rows, 13)
    assert int(np.isnan(dataset.train.x).sum()) == n_gaps
    assert dataset.frontend is not None
    assert dataset.categories == {}
