import struct
from pathlib import Path

import numpy as np
import pytest

from hlserve.datasets import load
from hlserve.errors import DataError
from hlserve.row_blocks import MAPPED_FROM_BYTES, is_mapped

X = np.arange(24, dtype=np.float32).reshape(6, 4)
Y = np.array([0, 1, 2, 0, 1, 2])


def save(folder: Path, **arrays: np.ndarray) -> Path:
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    return folder


def sparse_npy(path: Path, dtype: type, shape: tuple[int, ...]) -> None:
    """A file of zeros that takes no room on the disk."""
    with path.open("wb") as file:
        header = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        file.truncate(file.tell() + np.dtype(dtype).itemsize * int(np.prod(shape)))


def test_a_folder_of_npy_files_is_a_dataset(tmp_path: Path) -> None:
    dataset = load(save(tmp_path, x=X, y=Y, x_test=X[:2], y_test=Y[:2]))
    np.testing.assert_array_equal(dataset.train.x, X)
    np.testing.assert_array_equal(dataset.train.y, Y)
    assert dataset.train.y is not None
    assert dataset.train.y.dtype == np.int64
    assert dataset.test is not None
    np.testing.assert_array_equal(dataset.test.x, X[:2])
    assert (dataset.name, dataset.task) == (tmp_path.name, "classification")
    assert not is_mapped(dataset.train.x)


@pytest.mark.parametrize(
    ("y", "task", "class_labels"),
    [
        (Y.astype(np.float64), "regression", None),
        (np.array(list("abcabc")), "classification", ("a", "b", "c")),
    ],
)
def test_labels_decide_the_task_as_in_an_npz(
    y: np.ndarray, task: str, class_labels: tuple[str, ...] | None, tmp_path: Path
) -> None:
    dataset = load(save(tmp_path, x=X, y=y))
    assert (dataset.task, dataset.class_labels) == (task, class_labels)
    assert dataset.test is None


def test_rows_alone_are_rows_without_a_task(tmp_path: Path) -> None:
    dataset = load(save(tmp_path, x=X))
    assert (dataset.task, dataset.train.y) == (None, None)


def test_large_files_are_mapped_with_their_labels(tmp_path: Path) -> None:
    n = MAPPED_FROM_BYTES // 784
    sparse_npy(tmp_path / "x.npy", np.uint8, (n + 1, 784))
    save(tmp_path, y=np.zeros(n + 1, np.int32), x_test=np.zeros((3, 784), np.uint8))
    dataset = load(tmp_path)
    assert is_mapped(dataset.train.x)
    assert dataset.train.y is not None
    assert is_mapped(dataset.train.y)
    assert dataset.task == "classification"
    assert dataset.test is not None
    assert not is_mapped(dataset.test.x)


def test_large_idx_files_are_mapped_and_checked(tmp_path: Path) -> None:
    n = MAPPED_FROM_BYTES // 784 + 1
    images = tmp_path / "train-images-idx3-ubyte"
    with images.open("wb") as file:
        file.write(struct.pack(">BBBB3I", 0, 0, 8, 3, n, 28, 28) + bytes([7]))
        file.truncate(16 + n * 784)
    labels = struct.pack(">BBBBI", 0, 0, 8, 1, n) + bytes(n)
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(labels)
    x = load(tmp_path).train.x
    assert is_mapped(x)
    assert (x.shape, x[0, 0, 0, 0], x[-1, 0, 27, 27]) == ((n, 1, 28, 28), 7, 0)
    with images.open("r+b") as file:
        file.truncate(16 + n * 784 - 1)
    with pytest.raises(DataError, match=r"bytes follow the header, expected"):
        load(tmp_path)


BROKEN = {
    "lengths": ({"x": X, "y": Y[:-1]}, "differ in their number of rows: 'x' has 6, 'y' has 5"),
    "nan": ({"x": X, "y": np.where(Y[0] == Y, np.nan, Y)}, "NaN in row 0"),
    "text": ({"x": X.astype(str), "y": Y}, "expected numbers"),
    "negative": ({"x": X, "y": Y - 1}, "class number -1"),
    "objects": ({"x": X, "y": np.array([{}] * 6)}, "holds Python objects, which could run code"),
    "test labels": ({"x": X, "y": Y, "y_test": Y}, "but not both x_test.npy and y.npy"),
    "scalar": ({"x": np.array(1.0), "y": Y}, "expected an array of rows"),
}


@pytest.mark.parametrize(("arrays", "message"), BROKEN.values(), ids=BROKEN)
def test_what_is_wrong_is_told(arrays: dict[str, np.ndarray], message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        load(save(tmp_path, **arrays))


def test_a_damaged_file_is_told(tmp_path: Path) -> None:
    save(tmp_path, x=X, y=Y)
    (tmp_path / "x.npy").write_bytes((tmp_path / "x.npy").read_bytes()[:-5])
    with pytest.raises(DataError, match=r"x\.npy': not a whole \.npy file"):
        load(tmp_path)
    n = MAPPED_FROM_BYTES // 8
    sparse_npy(tmp_path / "x.npy", np.float64, (n, 1))
    sparse_npy(tmp_path / "y.npy", np.int8, (n,))
    with (tmp_path / "y.npy").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\xff")
    with pytest.raises(DataError, match="class number -1, expected 0 or more"):
        load(tmp_path)
    with pytest.raises(DataError, match="has its own labels"):
        load(tmp_path, target="y")
