"""Images in class folders: classes, parts, sizes and colours."""

import zipfile
from pathlib import Path

import numpy as np
import pytest

from hlserve.datasets import load
from hlserve.errors import DataError
from hlserve.frontend import Image, Words
from tests.frontend.pictures import encoded, turned

GREY = np.arange(0, 240, 10, dtype=np.uint8).reshape(4, 6)
COLOUR = np.stack([GREY, GREY[::-1], 255 - GREY], axis=-1)


def put(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def test_folders_name_the_classes_and_images_of_one_size_stay_as_they_are(tmp_path):
    files = {"dog/1.png": encoded(GREY), "cat/b.BMP": encoded(255 - GREY, "BMP")}
    files |= {"cat/a.gif": encoded(GREY, "GIF"), "cat/.hidden.png": b"", "cat/notes.md": b"x"}
    dataset = load(put(tmp_path / "pets", files))
    assert (dataset.name, dataset.task, dataset.test) == ("pets", "classification", None)
    assert dataset.class_labels == ("cat", "dog")
    assert dataset.units == "pixel intensity 0..255"
    assert dataset.frontend == Image(height=4, width=6, channels=1)
    assert dataset.train.x.dtype == np.uint8
    np.testing.assert_array_equal(dataset.train.x, [[GREY], [255 - GREY], [GREY]])  # by name
    np.testing.assert_array_equal(dataset.train.y, [0, 0, 1])


def test_parts_and_archives_are_read_alike(tmp_path):
    files = {
        f"p/{part}/{label}/1.png": encoded(GREY) for part in ("train", "test") for label in "ab"
    }
    folder = put(tmp_path / "whole", files)
    with zipfile.ZipFile(tmp_path / "whole.zip", "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    for where in (folder, tmp_path / "whole.zip"):
        dataset = load(where)
        assert dataset.test is not None
        assert (len(dataset.train), len(dataset.test)) == (2, 2)
        np.testing.assert_array_equal(dataset.test.y, [0, 1])


def test_one_image_in_colour_makes_all_of_them_so(tmp_path):
    folder = put(
        tmp_path, {"a/1.png": encoded(GREY, mode="RGB"), "b/1.webp": encoded(GREY, "WEBP")}
    )
    assert load(folder).train.x.shape == (2, 1, 4, 6)
    put(tmp_path, {"b/2.png": encoded(COLOUR)})
    assert load(folder).train.x.shape == (3, 3, 4, 6)


def test_the_size_is_that_of_the_upright_image(tmp_path):
    lying = turned(np.ascontiguousarray(np.rot90(GREY, 1)), 6)
    x = load(put(tmp_path, {"a/1.png": encoded(GREY), "b/1.png": lying})).train.x
    np.testing.assert_array_equal(x[1], x[0])


@pytest.mark.parametrize(
    ("size", "shape"), [("8", (8, 8)), ("3x5", (3, 5)), ((5, 3), (5, 3)), ("4x6", (4, 6))]
)
def test_images_are_stretched_to_the_size_asked_for(tmp_path, size, shape):
    files = {"a/1.png": encoded(GREY), "b/1.png": encoded(np.full((9, 9), 50, np.uint8))}
    dataset = load(put(tmp_path, files), image_size=size)
    assert dataset.train.x.shape == (2, 1, *shape)
    assert (dataset.train.x[1] == 50).all()


def test_images_of_many_sizes_need_one_to_be_named(tmp_path):
    folder = put(tmp_path, {"a/1.png": encoded(GREY), "b/1.png": encoded(GREY.T.copy())})
    with pytest.raises(DataError, match=r"2 sizes \(4x6, 6x4, height x width\).*--image-size 64"):
        load(folder)
    more = {f"a/{n}.png": encoded(np.zeros((n, 20 - n), np.uint8)) for n in (2, 9)}
    with pytest.raises(DataError, match=r"4 sizes \(2 to 9 high and 4 to 18 wide"):
        load(put(tmp_path, more))


def test_a_fitted_front_end_decides_size_and_colours(tmp_path):
    folder = put(tmp_path, {"a/1.png": encoded(COLOUR), "b/1.png": encoded(GREY)})
    fitted = Image(height=2, width=3, channels=1)
    dataset = load(folder, frontend=fitted)
    assert dataset.train.x.shape == (2, 1, 2, 3)
    assert dataset.frontend == fitted
    with pytest.raises(DataError, match="leave the other out"):
        load(folder, frontend=fitted, image_size="8")
    with pytest.raises(DataError, match="holds image, the model's front end takes text"):
        load(folder, frontend=Words.fit(["a b", "a b"]))
    with pytest.raises(DataError, match="takes something else"):
        load(folder, frontend="words")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a/bad.png", b"no image", r"'a/bad.png' is no PNG, JPEG, BMP, GIF or WebP image"),
        ("a/bad.jpg", b"", r"'a/bad.jpg' is empty"),
        ("a/cut.png", encoded(GREY)[:-20], r"'a/cut.png' is a damaged image"),
        ("loose.png", encoded(GREY), r"'loose.png' tells no class, expected <class>/<file>"),
    ],
)
@pytest.mark.parametrize("size", [None, "8"])
def test_the_file_that_is_wrong_is_named(tmp_path, name, content, message, size):
    folder = put(tmp_path, {"a/1.png": encoded(GREY), "b/2.png": encoded(GREY), name: content})
    with pytest.raises(DataError, match=message):
        load(folder, image_size=size)


@pytest.mark.parametrize("size", ["", "0", "8x0", "8x", "x8", "8.5", "-8", "999999", "8x8x8"])
def test_a_size_that_is_none_is_told(tmp_path, size):
    with pytest.raises(DataError, match="expected pixels, as in 64, or height x width: 48x64"):
        load(put(tmp_path, {"a/1.png": encoded(GREY)}), image_size=size)
    with pytest.raises(DataError, match="holds no image files"):
        load("digits", image_size="8")
