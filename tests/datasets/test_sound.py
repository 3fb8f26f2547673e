"""Sounds as rows: class folders, archives, file names, and the spoken digits' official split."""

import os
import zipfile
from pathlib import Path

import numpy as np
import pytest

from hlserve.datasets import load
from hlserve.errors import DataError
from hlserve.frontend import LogMel
from tests.frontend.sounds import tone, wav

SHARED = Path(os.environ.get("HLSERVE_SHARED", Path(__file__).parents[3] / "shared"))


def write(folder, names):
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(wav(tone(200 + 100 * number, seconds=0.1)))
    return folder


def zipped(folder):
    path = folder.with_suffix(".zip")
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*.wav")):
            archive.write(file, file.relative_to(folder.parent))
    return path


@pytest.mark.parametrize(
    "names",
    [
        ["no/1.wav", "no/2.wav", "yes/1.wav"],
        ["train/no/1.wav", "train/no/2.wav", "train/yes/1.wav"],
        ["no_anna_1.wav", "no_bert_1.wav", "yes_anna_1.wav"],
        ["clips/no_anna_1.WAV", "clips/no_bert_1.WAV", "clips/yes_anna_1.WAV"],
    ],
)
def test_the_class_is_the_folders_or_the_names_first_part(names, tmp_path):
    folder = write(tmp_path / "words", names)
    dataset = load(folder)
    assert dataset.class_labels == ("no", "yes")
    np.testing.assert_array_equal(dataset.train.y, [0, 0, 1])
    assert dataset.test is None
    assert dataset.frontend == LogMel(sample_rate=8000, max_frames=8, fmax=4000.0)
    assert dataset.train.x.shape == (3, 8, 40)
    assert dataset.train.inputs["mask"].shape == (3, 8)
    assert dataset.units == "ln of the energy in a mel band"


def test_parts_come_from_folders_and_archives_alike(tmp_path):
    folder = write(tmp_path / "w", ["train/a/1.wav", "train/b/1.wav", "test/b/2.wav"])
    for dataset in (load(folder), load(zipped(folder))):
        assert (dataset.name, len(dataset.train), dataset.test is None) == ("w", 2, False)
        np.testing.assert_array_equal(dataset.test.y, [1])
    np.testing.assert_array_equal(load(folder).test.x, load(zipped(folder)).test.x)


def test_a_front_end_that_is_given_is_not_fitted_again(tmp_path):
    folder = write(tmp_path, ["a/1.wav", "b/1.wav"])
    given = LogMel(sample_rate=16000, max_frames=3, fmax=8000.0, n_mels=7, with_mask=False)
    dataset = load(folder, frontend=given)
    assert dataset.frontend == given
    assert {name: array.shape for name, array in dataset.train.inputs.items()} == {
        "input": (2, 3, 7)
    }
    assert load(folder, frontend="log-mel:20").train.x.shape[2] == 20


def test_what_is_wrong_names_the_file(tmp_path):
    folder = write(tmp_path / "w", ["a/1.wav", "b/1.wav"])
    (folder / "b" / "2.wav").write_bytes(b"no sound")
    with pytest.raises(DataError, match=r"b/2\.wav'?: no sound file"):
        load(folder)
    with pytest.raises(DataError, match=r"w\.zip': 'w/b/2\.wav': no sound file"):
        load(zipped(folder))
    with pytest.raises(DataError, match="holds sound, the front end 'words'"):
        load(folder, frontend="words")
    with pytest.raises(DataError, match="has its own labels, but the target 'y'"):
        load(folder, target="y")


def test_files_that_tell_no_class_and_broken_archives_are_told(tmp_path):
    folder = write(tmp_path / "w", ["one.wav", "two.wav"])
    with pytest.raises(DataError, match="or files named <class>_<anything>"):
        load(folder)
    (tmp_path / "x.zip").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(DataError, match="not a whole zip archive"):
        load(tmp_path / "x.zip")
    with zipfile.ZipFile(tmp_path / "y.zip", "w") as archive:
        archive.writestr("readme.md", "hello")
    with pytest.raises(DataError, match="holds no sounds"):
        load(tmp_path / "y.zip")
    content = bytearray(zipped(write(tmp_path / "z", ["a/1.wav", "b/1.wav"])).read_bytes())
    content[200] ^= 0xFF
    (tmp_path / "z.zip").write_bytes(content)
    with pytest.raises(DataError, match=r"not a whole zip archive \(Bad CRC"):
        load(tmp_path / "z.zip")


def test_an_archive_that_unpacks_to_too_much_is_refused_unread(tmp_path, monkeypatch):
    path = zipped(write(tmp_path / "w", ["a/1.wav", "b/1.wav"]))
    monkeypatch.setattr("hlserve.datasets.class_folders.MAX_ARCHIVE_BYTES", 1000)
    with pytest.raises(DataError, match="bytes unpacked, expected at most 1,000"):
        load(path)


def test_spoken_digits_get_their_official_split():
    path = SHARED / "data" / "fsdd" / "recordings.zip"
    if not path.is_file():
        pytest.skip(f"no file '{path}'; HLSERVE_SHARED names its root")
    dataset = load(path, frontend=LogMel(sample_rate=8000, max_frames=20, fmax=4000.0))
    assert (dataset.name, dataset.licence) == ("fsdd", "CC-BY-SA-4.0")
    assert dataset.class_labels == tuple("0123456789")
    assert dataset.test is not None
    assert np.bincount(dataset.train.y).tolist() == [270] * 10
    assert np.bincount(dataset.test.y).tolist() == [30] * 10
