import numpy as np
import pytest

from hlserve.datasets import Dataset, Rows
from hlserve.errors import DataError


def test_x_is_the_only_input():
    rows = Rows({"ids": np.arange(3)})
    assert rows.x is rows.inputs["ids"]
    assert len(rows) == 3


def test_x_of_several_inputs_is_refused():
    rows = Rows({"left": np.zeros(2), "right": np.zeros(2)})
    with pytest.raises(DataError, match="2 inputs \\('left', 'right'\\), expected one"):
        rows.x  # noqa: B018  # a property that raises


def test_take_keeps_inputs_and_labels_together():
    rows = Rows({"x": np.arange(5) * 10, "z": np.arange(5) * 100}, np.arange(5))
    taken = rows.take(np.array([4, 0, 4]))
    assert taken.y is not None
    np.testing.assert_array_equal(taken.y, [4, 0, 4])
    np.testing.assert_array_equal(taken.inputs["x"], [40, 0, 40])
    np.testing.assert_array_equal(taken.inputs["z"], [400, 0, 400])


def test_take_of_no_rows_is_empty():
    assert len(Rows({"x": np.zeros((3, 2))}).take(np.array([], dtype=np.int64))) == 0


@pytest.mark.parametrize(
    ("inputs", "y", "message"),
    [
        ({}, None, "no input array"),
        ({"x": np.float32(1.0)}, None, "'x' is a single value"),
        ({"x": np.zeros(3)}, np.zeros(2), "'x' has 3, 'y' has 2"),
        ({"a": np.zeros(3), "b": np.zeros(4)}, None, "'a' has 3, 'b' has 4"),
    ],
)
def test_rows_that_do_not_fit_are_refused(inputs, y, message):
    with pytest.raises(DataError, match=message):
        Rows(inputs, y)


def test_x_does_not_count_a_mask_and_a_model_takes_its_inputs_by_name():
    rows = Rows({"input": np.zeros((3, 2)), "mask": np.ones((3, 2))})
    assert rows.x is rows.inputs["input"]
    assert rows.inputs_for(["input"]).keys() == {"input"}
    assert rows.inputs_for(["mask", "input"]).keys() == {"mask", "input"}
    assert rows.inputs_for(["pixels"])["pixels"] is rows.x
    with pytest.raises(DataError, match=r"takes \['input', 'state'\]; the rows hold .*'state'"):
        rows.inputs_for(["input", "state"])


def test_classes_are_renumbered_to_a_models_by_their_labels():
    facts = {"units": None, "feature_names": None, "licence": "", "source": ""}
    rows = Rows({"x": np.zeros(3)}, np.array([0, 1, 1]))
    dataset = Dataset("pets", rows, rows, "classification", ("cat", "dog"), **facts)
    other = dataset.in_classes(["dog", "bird", "cat"])
    assert other.class_labels == ("dog", "bird", "cat")
    assert other.train.y.tolist() == other.test.y.tolist() == [2, 0, 0]
    assert dataset.in_classes(None) is dataset
    assert dataset.in_classes(("cat", "dog")) is dataset
    with pytest.raises(DataError, match="pets: the class 'dog' is none of the model's: 'cat'"):
        dataset.in_classes(["cat"])
