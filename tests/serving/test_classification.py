"""The classification extension: the largest values by row, with places and labels."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from hlserve import datatypes
from hlserve.errors import InvalidRequestError
from hlserve.repository import Metadata, TensorSpec, publish
from hlserve.serving.classification import classify
from tests.serving import models
from tests.serving.running import running_server

ROWS = np.array([[0.5, 2, -1], [3, 3, 4]], np.float32)


def test_texts_are_tritons() -> None:
    assert classify(ROWS, 2, labels=("a", "b", "c"), has_rows=True).tolist() == [
        [b"2.000000:1:b", b"0.500000:0:a"],
        [b"4.000000:2:c", b"3.000000:0:a"],
    ]
    assert classify(ROWS, 1, labels=None, has_rows=True).tolist() == [
        [b"2.000000:1"],
        [b"4.000000:2"],
    ]


def test_more_classes_than_there_are_gives_all() -> None:
    assert classify(ROWS, 2**31 - 1, labels=None, has_rows=True).shape == (2, 3)


def test_without_rows_all_values_are_classes() -> None:
    found = classify(ROWS, 2, labels=None, has_rows=False)
    assert found.tolist() == [b"4.000000:5", b"3.000000:3"]
    scalar = classify(np.array(7, np.int64), 1, labels=None, has_rows=True)
    assert scalar.tolist() == [b"7:0"]


def test_labels_of_another_number_of_classes_are_left_out() -> None:
    assert classify(ROWS, 1, labels=("a", "b"), has_rows=True)[0, 0] == b"2.000000:1"


def test_integers_are_written_whole_and_exactly() -> None:
    array = np.array([[2**64 - 1, 2**64 - 2]], np.uint64)
    found = classify(array[:, ::-1], 2, labels=None, has_rows=True)
    assert found.tolist() == [[b"18446744073709551615:1", b"18446744073709551614:0"]]


def test_bf16_counts_as_numbers() -> None:
    found = classify(datatypes.round_to_bf16(ROWS), 1, labels=None, has_rows=True)
    assert found.tolist() == [[b"2.000000:1"], [b"4.000000:2"]]


def test_no_rows_give_no_rows_and_no_classes_none() -> None:
    empty = np.empty((0, 3), np.float32)
    assert classify(empty, 2, labels=None, has_rows=True).shape == (0, 2)
    assert classify(empty.T, 2, labels=None, has_rows=True).shape == (3, 0)


def test_text_has_no_classes() -> None:
    with pytest.raises(InvalidRequestError, match="no numbers"):
        classify(np.array([[b"a"]], object), 1, labels=None, has_rows=True)


@settings(deadline=None)
@given(
    hnp.arrays(np.float64, hnp.array_shapes(min_dims=2, max_dims=2, max_side=6)),
    st.integers(1, 7),
)
def test_it_is_a_stable_sort_by_value_with_nan_last(array: np.ndarray, count: int) -> None:
    found = classify(array, count, labels=None, has_rows=True)
    for row, texts in zip(array.tolist(), found.tolist(), strict=True):
        keys = [-np.inf if np.isnan(value) else value for value in row]
        order = sorted(range(len(row)), key=lambda place: -keys[place])[:count]
        assert [int(text.split(b":")[1]) for text in texts] == order


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A model ``m`` whose version names its classes."""
    content = models.mlp()
    metadata = Metadata(
        inputs=(TensorSpec("input", "FP32", (-1, 8)),),
        outputs=(
            TensorSpec("probabilities", "FP32", (-1, 3)),
            TensorSpec("logits", "FP32", (-1, 3)),
        ),
        task="classification",
        class_labels=("ärmel", "b", "c"),
        producer="test",
        created="2026-01-01T00:00:00Z",
        sha256=hashlib.sha256(content).hexdigest(),
    )
    publish(tmp_path / "m", model=content, metadata=metadata)
    return tmp_path


def top_of(root: Path, output: str, transport: str) -> tuple[list[list[str]], np.ndarray]:
    """Labels of the two top classes of four rows, and the rows' logits."""
    triton = pytest.importorskip("tritonclient.grpc")
    array = np.random.default_rng(0).standard_normal((4, 8)).astype(np.float32)
    with (
        running_server(root, transport=transport) as server,
        triton.InferenceServerClient(server.address) as client,
    ):
        tensor = triton.InferInput("input", [4, 8], "FP32")
        tensor.set_data_from_numpy(array)
        classes = [triton.InferRequestedOutput(output, class_count=2)]
        found = client.infer("m", [tensor], outputs=classes).as_numpy(output)
        logits = client.infer("m", [tensor]).as_numpy("logits")
    assert found.shape == (4, 2)
    return [[text.decode().split(":")[2] for text in row] for row in found], logits


def test_a_client_gets_the_labels_of_the_version(root: Path, transport: str) -> None:
    top, logits = top_of(root, "probabilities", transport)
    assert [row[0] for row in top] == [("ärmel", "b", "c")[n] for n in logits.argmax(axis=1)]


@pytest.mark.parametrize(
    ("output", "labels"),
    [("probabilities", ("eins", "zwei", "drei")), ("logits", ("ärmel", "b", "c"))],
)
def test_a_label_file_of_an_output_goes_before_the_labels_of_the_version(
    root: Path, output: str, labels: tuple[str, ...], transport: str
) -> None:
    (root / "m" / "classes.txt").write_text("eins\nzwei\ndrei\n")
    (root / "m" / "config.pbtxt").write_text(
        'output { name: "probabilities" label_filename: "classes.txt" }\n'
        'output { name: "logits" }\n'
    )
    top, logits = top_of(root, output, transport)
    assert [row[0] for row in top] == [labels[n] for n in logits.argmax(axis=1)]
