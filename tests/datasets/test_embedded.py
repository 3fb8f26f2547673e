import hashlib
import os
from importlib import resources
from pathlib import Path

import numpy as np
import pytest

from hlserve.datasets import KNOWN, load
from hlserve.errors import DataError

SHARED = Path(os.environ.get("HLSERVE_SHARED", Path(__file__).parents[2].parent / "shared"))
EMBEDDED = [known for known in KNOWN if known.embedded]
BY_FOLDER = [known for known in KNOWN if not known.embedded]


def _name(known):
    return known.name


def _load(known):
    if known.embedded:
        return load(known.name)
    folder = SHARED / "data" / known.name
    if not folder.is_dir():
        pytest.skip(f"no folder '{folder}'; HLSERVE_SHARED names its root")
    return load(folder)


@pytest.mark.parametrize("known", KNOWN, ids=_name)
def test_known_set_is_what_its_row_says(known):
    dataset = _load(known)
    assert dataset.test is not None
    for rows, count in ((dataset.train, known.train_rows), (dataset.test, known.test_rows)):
        assert rows.x.shape == (count, *known.shape)
        assert rows.x.dtype == np.uint8
        assert rows.y.dtype == np.int64
        assert set(np.unique(rows.y)) == set(range(len(known.class_labels)))
    assert (dataset.name, dataset.licence) == (known.name, known.licence)
    assert (dataset.class_labels, dataset.task) == (known.class_labels, "classification")


@pytest.mark.parametrize("known", EMBEDDED, ids=_name)
def test_embedded_set_ships_its_licence(known):
    text = resources.files("hlserve.datasets") / "embedded" / f"{known.name}.LICENSE"
    word = {"MIT": "The MIT License", "CC-BY-4.0": "CC BY 4.0"}[known.licence]
    assert word in text.read_text(encoding="utf-8")


@pytest.mark.parametrize("known", EMBEDDED, ids=_name)
def test_no_training_row_is_a_test_row(known):
    dataset = load(known.name)
    train = {row.tobytes() for row in dataset.train.x}
    shared = sum(row.tobytes() in train for row in dataset.test.x)
    assert shared == 0


def test_fashion_mini_holds_every_class_equally():
    dataset = load("fashion-mini")
    assert set(np.bincount(dataset.train.y)) == {500}
    assert set(np.bincount(dataset.test.y)) == {100}


def test_fashion_mini_rows_are_rows_of_fashion_mnist_with_their_labels():
    folder = SHARED / "data" / "fashion-mnist"
    if not folder.is_dir():
        pytest.skip(f"no folder '{folder}'; HLSERVE_SHARED names its root")
    mini, whole = load("fashion-mini"), load(folder)
    for part in ("train", "test"):
        rows, source = getattr(mini, part), getattr(whole, part)
        label_of = {_digest(x): y for x, y in zip(source.x, source.y, strict=True)}
        assert all(label_of[_digest(x)] == y for x, y in zip(rows.x, rows.y, strict=True))


def _digest(image):
    return hashlib.blake2b(image.tobytes(), digest_size=16).digest()


def test_digits_pixels_span_their_stated_units():
    assert load("digits").units == "pixel intensity 0..16"
    assert load("digits").train.x.max() == 16


def test_unknown_name_names_the_known_ones_and_a_near_one():
    with pytest.raises(DataError, match=r"did you mean 'fashion-mini'.*digits, fashion-mini"):
        load("fashion_mini")


def test_target_for_an_embedded_set_is_refused():
    with pytest.raises(DataError, match="'digits' has its own labels, but the target 'y'"):
        load("digits", target="y")


def test_unknown_kind_of_file_says_what_is_read(tmp_path):
    path = tmp_path / "rows.parquet"
    path.write_bytes(b"")
    with pytest.raises(DataError, match=r"unknown kind of file '\.parquet', expected a folder"):
        load(path)


def test_a_path_that_is_a_known_name_is_read_as_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits").mkdir()
    with pytest.raises(DataError, match="folder 'digits' holds no 'train-images-idx3-ubyte'"):
        load("./digits")
