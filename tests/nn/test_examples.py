import numpy as np
import pytest

from hlserve.errors import DataError
from hlserve.nn.architectures import build
from hlserve.nn.examples import Examples
from hlserve.nn.losses import Targets
from hlserve.nn.network import Network, Task
from hlserve.nn.param import Array
from hlserve.nn.workspace import Workspace

N = 6
X = np.random.default_rng(0).normal(size=(N, 3)).astype(np.float32)


def network_of(task: Task, n_outputs: int = 3) -> Network:
    return build("mlp:4", input_shape=(3,), n_outputs=n_outputs, task=task)


@pytest.mark.parametrize("dtype", [np.bool_, np.uint8, np.int64, np.float64])
def test_labels_of_0_and_1_are_taken_in_every_type(dtype: type) -> None:
    marks = np.random.default_rng(0).integers(0, 2, (N, 3)).astype(dtype)
    examples = Examples.checked(network_of("multilabel"), X, marks)
    assert isinstance(examples.targets, np.ndarray)
    assert examples.targets.dtype == np.float32
    np.testing.assert_array_equal(examples.targets, marks)


def test_one_label_a_row_may_come_flat() -> None:
    examples = Examples.checked(network_of("multilabel", 1), X, np.array([0, 1, 1, 0, 1, 0]))
    assert np.shape(examples.targets) == (N, 1)


def test_weights_come_along_row_by_row() -> None:
    network = network_of("classification")
    weights = np.arange(N)
    examples = Examples.checked(network, X, {"labels": np.arange(N) % 3, "weights": weights})
    _, taken = examples.take(np.array([4, 1]), Workspace())
    assert isinstance(taken, dict)
    np.testing.assert_array_equal(taken["labels"], [1, 1])
    np.testing.assert_array_equal(taken["weights"], [4.0, 1.0])
    assert taken["weights"].dtype == np.float32


def test_class_ids_are_those_of_classes_alone() -> None:
    labels = np.arange(N) % 3
    classifier = network_of("classification")
    for targets in (labels, {"labels": labels, "weights": np.ones(N)}):
        found = Examples.checked(classifier, X, targets).class_ids(classifier)
        assert found is not None
        np.testing.assert_array_equal(found, labels)
    soft = np.full((N, 3), 1 / 3)
    assert Examples.checked(classifier, X, soft).class_ids(classifier) is None
    several = network_of("multilabel")
    assert Examples.checked(several, X, np.ones((N, 3))).class_ids(several) is None


def test_other_named_targets_keep_their_shape() -> None:
    given = {"teacher": np.zeros((N, 7)), "labels": np.arange(N) % 3}
    examples = Examples.checked(network_of("classification"), X, given)
    assert isinstance(examples.targets, dict)
    assert examples.targets["teacher"].shape == (N, 7)


ONES = np.ones((N, 3), np.int64)
LABELS = np.arange(N) % 3


@pytest.mark.parametrize(
    ("task", "targets", "message"),
    [
        ("multilabel", ONES * 2, r"row 0 has labels .*, expected 0 or 1 .*; 6 rows"),
        ("multilabel", ONES * 0.5, "expected 0 or 1 for every label"),
        ("multilabel", ONES[:, :2], r"shape \(6, 2\), expected 0 or 1 .* \(rows, 3\)"),
        ("multilabel", LABELS, r"shape \(6,\), expected 0 or 1"),
        ("regression", ONES[:, :2], r"shape \(6, 2\), expected \(rows, 3\)"),
        ("regression", ONES[:, :, None], r"shape \(6, 3, 1\)"),
        (
            "classification",
            {"labels": LABELS, "weights": np.zeros(N)},
            "of all rows are 0, expected one",
        ),
        (
            "classification",
            {"labels": LABELS, "weights": np.arange(N) - 1.0},
            "row 0 has weight -1",
        ),
        ("classification", {"labels": LABELS, "weights": np.ones((N, 1))}, "one a row"),
        (
            "classification",
            {"labels": LABELS, "weights": np.array([1, np.nan, 1, 1, 1, 1])},
            "'weights': row 1 holds NaN",
        ),
        ("classification", {"labels": LABELS, "weights": np.ones(N - 1)}, "equally many"),
    ],
)
def test_targets_that_make_no_sense_are_refused(task: Task, targets: Targets, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Examples.checked(network_of(task), X, targets)


def test_taking_rows_uses_the_same_memory_again() -> None:
    examples = Examples.checked(
        network_of("multilabel"), X, {"labels": ONES, "weights": np.ones(N)}
    )
    buffers = Workspace()

    def taken() -> list[Array]:
        inputs, targets = examples.take(np.array([0, 1]), buffers)
        assert isinstance(targets, dict)
        return [*inputs.values(), *targets.values()]

    for first, second in zip(taken(), taken(), strict=True):
        assert np.shares_memory(first, second)
