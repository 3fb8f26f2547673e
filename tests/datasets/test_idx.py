import gzip
import struct

import numpy as np
import pytest

from hlserve.datasets import load
from hlserve.errors import DataError

IMAGES = np.arange(3 * 4 * 5, dtype=np.uint8).reshape(3, 4, 5)
LABELS = np.array([0, 2, 1], dtype=np.uint8)


def idx_bytes(array, *, type_code=8):
    header = struct.pack(">BBBB", 0, 0, type_code, array.ndim)
    return header + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def write_part(folder, part="train", images=IMAGES, labels=LABELS):
    (folder / f"{part}-images-idx3-ubyte").write_bytes(idx_bytes(images))
    (folder / f"{part}-labels-idx1-ubyte").write_bytes(idx_bytes(labels))


def test_plain_files_become_images_with_a_channel_axis(tmp_path):
    write_part(tmp_path)
    dataset = load(tmp_path)
    np.testing.assert_array_equal(dataset.train.x, IMAGES[:, np.newaxis])
    np.testing.assert_array_equal(dataset.train.y, LABELS)
    assert dataset.test is None
    assert dataset.class_labels == ("0", "1", "2")
    assert dataset.licence == "unknown"
    assert dataset.name == tmp_path.name


def test_gzipped_files_and_the_dotted_spelling_are_read_alike(tmp_path):
    (tmp_path / "train-images.idx3-ubyte.gz").write_bytes(gzip.compress(idx_bytes(IMAGES)))
    (tmp_path / "train-labels.idx1-ubyte").write_bytes(idx_bytes(LABELS))
    np.testing.assert_array_equal(load(tmp_path).train.x, IMAGES[:, np.newaxis])


def test_test_part_may_have_a_class_more(tmp_path):
    write_part(tmp_path)
    write_part(tmp_path, "t10k", labels=np.array([3, 0, 0], dtype=np.uint8))
    dataset = load(tmp_path)
    assert dataset.test is not None
    assert dataset.class_labels == ("0", "1", "2", "3")


def test_no_row_at_all_is_an_empty_set(tmp_path):
    write_part(tmp_path, images=IMAGES[:0], labels=LABELS[:0])
    assert len(load(tmp_path).train) == 0


def test_target_for_a_folder_is_refused(tmp_path):
    with pytest.raises(DataError, match="has its own labels, but the target 'label'"):
        load(tmp_path, target="label")


def test_missing_labels_are_named(tmp_path):
    (tmp_path / "train-images-idx3-ubyte").write_bytes(idx_bytes(IMAGES))
    with pytest.raises(DataError, match="holds no train labels"):
        load(tmp_path)


def test_unequal_counts_name_both_files(tmp_path):
    write_part(tmp_path, labels=LABELS[:2])
    with pytest.raises(DataError, match="3 images, 'train-labels-idx1-ubyte' 2 labels"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "starts with '', expected '00000803'"),
        (b"PK\x03\x04" + bytes(20), "starts with '504b0304', expected '00000803'"),
        (idx_bytes(IMAGES, type_code=13), "starts with '00000d03', expected '00000803'"),
        (idx_bytes(LABELS), "starts with '00000801', expected '00000803'"),
        (idx_bytes(IMAGES)[:10], "ends inside its header, after 10 bytes"),
        (idx_bytes(IMAGES)[:-1], r"59 bytes follow the header, expected 60 \(3 x 4 x 5\)"),
        (idx_bytes(IMAGES) + b"\0", "61 bytes follow the header, expected 60"),
    ],
)
def test_damaged_image_file_says_what_came(tmp_path, content, message):
    write_part(tmp_path)
    (tmp_path / "train-images-idx3-ubyte").write_bytes(content)
    with pytest.raises(DataError, match=f"train-images-idx3-ubyte': {message}"):
        load(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        gzip.compress(idx_bytes(IMAGES))[:-12],
        b"not gzip at all",
        gzip.compress(idx_bytes(IMAGES))[:20] + b"\xff" * 40,
    ],
    ids=["truncated", "another format", "damaged"],
)
def test_damaged_gzip_file_is_a_data_error(tmp_path, content):
    write_part(tmp_path)
    (tmp_path / "train-images-idx3-ubyte").unlink()
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(content)
    with pytest.raises(DataError, match="damaged or incomplete gzip file"):
        load(tmp_path)
