import numpy as np
import pytest

from hlserve.datasets import load
from hlserve.errors import DataError


def save(folder, **arrays):
    path = folder / "rows.npz"
    np.savez_compressed(path, **arrays)
    return path


def test_integer_labels_are_classes(tmp_path):
    x = np.ones((3, 2), dtype=np.float32)
    dataset = load(save(tmp_path, x=x, y=np.array([0, 1, 1], dtype=np.int8)))
    assert (dataset.task, dataset.class_labels, dataset.test) == ("classification", None, None)
    assert dataset.train.y.dtype == np.int64
    np.testing.assert_array_equal(dataset.train.x, x)


def test_boolean_labels_are_classes(tmp_path):
    dataset = load(save(tmp_path, x=np.ones((2, 1)), y=np.array([True, False])))
    np.testing.assert_array_equal(dataset.train.y, [1, 0])


def test_float_labels_are_a_regression(tmp_path):
    dataset = load(save(tmp_path, x=np.ones((2, 1)), y=np.array([0.5, 2.0])))
    assert dataset.task == "regression"
    assert dataset.train.y.dtype == np.float32


def test_text_labels_become_class_labels_in_sorted_order(tmp_path):
    path = save(
        tmp_path, x=np.ones((3, 1)), y=["dog", "cat", "dog"], x_test=np.ones((1, 1)), y_test=["dog"]
    )
    dataset = load(path)
    assert dataset.class_labels == ("cat", "dog")
    np.testing.assert_array_equal(dataset.train.y, [1, 0, 1])
    np.testing.assert_array_equal(dataset.test.y, [1])


def test_inputs_keep_their_names_and_types(tmp_path):
    path = save(
        tmp_path, ids=np.zeros((2, 3), dtype=np.int64), mask=np.ones((2, 3), dtype=bool), y=[0, 1]
    )
    inputs = load(path).train.inputs
    assert {name: array.dtype.name for name, array in inputs.items()} == {
        "ids": "int64",
        "mask": "bool",
    }


def test_rows_without_labels_have_no_task(tmp_path):
    dataset = load(save(tmp_path, x=np.ones((2, 3), dtype=np.float32)))
    assert (dataset.train.y, dataset.task) == (None, None)


def test_target_names_the_labels_and_y_is_then_an_input(tmp_path):
    path = save(tmp_path, y=np.ones((2, 1)), outcome=[0, 1])
    train = load(path, target="outcome").train
    np.testing.assert_array_equal(train.y, [0, 1])
    assert list(train.inputs) == ["y"]


def test_test_part_is_read(tmp_path):
    path = save(tmp_path, x=np.ones((2, 1)), y=[0, 1], x_test=np.ones((1, 1)), y_test=[1])
    dataset = load(path)
    assert len(dataset.test) == 1
    np.testing.assert_array_equal(dataset.test.y, [1])


def test_name_ending_in_test_without_its_base_is_an_input(tmp_path):
    assert list(load(save(tmp_path, blood_test=np.ones((2, 1)))).train.inputs) == ["blood_test"]


@pytest.mark.parametrize(
    ("arrays", "target", "message"),
    [
        ({"x": np.ones((2, 1))}, "z", "no array 'z' for the labels, it holds 'x'"),
        ({"x": np.ones(3), "y": [0, 1]}, None, "'x' has 3, 'y' has 2"),
        ({"y": [0, 1]}, None, "no input array"),
        ({"x": np.ones(2), "y": [0, -1]}, None, "class number -1 in 'y', expected 0 or more"),
        ({"x": np.ones(2), "y": [[0], [1]]}, None, r"shape \(2, 1\), expected \(rows,\)"),
        ({"x": np.ones(2), "y": [1j, 2j]}, None, "of type complex128, expected"),
        ({"x": np.ones(2), "y": [1.0, np.nan]}, None, "targets 'y' have NaN in row 1"),
        ({"x": np.ones(2), "y": [0, 1], "x_test": np.ones(1)}, None, "without 'y_test'"),
        (
            {"x": np.ones(1), "y": ["a"], "x_test": np.ones(1), "y_test": ["b"]},
            None,
            "'y_test' has the class 'b', 'y' not",
        ),
        ({"x": np.float32(1.0)}, None, "'x' is a single value"),
    ],
)
def test_content_that_does_not_fit_says_where_and_why(tmp_path, arrays, target, message):
    with pytest.raises(DataError, match=f"rows.npz': .*{message}"):
        load(save(tmp_path, **arrays), target=target)


def test_python_objects_are_refused_unread(tmp_path):
    path = save(tmp_path, x=np.array([{"a": 1}, None], dtype=object))
    with pytest.raises(DataError, match="'x' holds Python objects, which could run code"):
        load(path)


@pytest.mark.parametrize("keep", [0, 10, 0.5, -30])
def test_truncated_file_is_a_data_error(tmp_path, keep):
    path = save(tmp_path, x=np.random.default_rng(0).random((200, 10)))
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * keep) if isinstance(keep, float) else keep])
    with pytest.raises(DataError, match=r"rows\.npz'"):
        load(path)


def test_damaged_array_is_a_data_error(tmp_path):
    path = save(tmp_path, x=np.random.default_rng(0).random((200, 10)))
    whole = bytearray(path.read_bytes())
    whole[500:600] = bytes(100)
    path.write_bytes(whole)
    with pytest.raises(DataError, match="not a whole NPZ file"):
        load(path)


def test_single_array_under_the_name_of_an_archive_is_refused(tmp_path):
    path = tmp_path / "rows.npz"
    with path.open("wb") as file:
        np.save(file, np.ones(3))
    with pytest.raises(DataError, match=r"a single array, expected an archive made by np\.savez"):
        load(path)


def test_gaps_in_an_input_are_read_as_they_are(tmp_path):
    np.savez(tmp_path / "rows.npz", x=np.array([[1.0, np.nan], [2.0, 3.0]]), y=np.array([0, 1]))
    np.testing.assert_array_equal(load(tmp_path / "rows.npz").train.x, [[1, np.nan], [2, 3]])
