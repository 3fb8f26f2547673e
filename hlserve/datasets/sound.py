"""Sounds in class folders, or in a zip archive of them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from hlserve.datasets.class_folders import ClassFile, Part, classified, contents
from hlserve.datasets.dataset import Dataset
from hlserve.datasets.raw_items import RawItems, made_dataset
from hlserve.frontend import FrontEnd

_SPOKEN_DIGIT = re.compile(r"(?:.*/)?[0-9]_([a-z]+)_([0-9]+)\.wav")
_SPEAKERS = frozenset({"george", "jackson", "lucas", "nicolas", "theo", "yweweler"})
_TEST_TAKES = 5


def read_sounds(
    path: Path, names: Sequence[str], frontend: FrontEnd | str | None = None
) -> Dataset:
    """Features of the sounds in a folder or zip archive, by class.

    The class is the folder's name, or the file name's part ahead of the first ``_`` where all lie
    side by side; ``train`` and ``test`` folders above the classes are the two parts. The Free
    Spoken Digit Dataset is known by its file names and gets its official split: the takes 0 to 4
    of each digit and speaker are the test part.

    Args:
        path: the folder or archive.
        names: its sound files.
        frontend: see ``load``; ``log-mel`` by default.

    Raises:
        DataError: the files lie in no such form, or one is no sound.
        MissingDependencyError: a format needs ``soundfile``.
    """
    files = classified(path, names, by_file_name=True)
    is_spoken_digits = _are_spoken_digits(names)
    if is_spoken_digits:
        files = [replace(file, part=_official_part(file.name)) for file in files]
    train = _part(path, [file for file in files if file.part == "train"])
    test = _part(path, [file for file in files if file.part == "test"])
    dataset = made_dataset(path, "sound", train, test, frontend)
    if not is_spoken_digits:
        return dataset
    return replace(
        dataset,
        name="fsdd",
        licence="CC-BY-SA-4.0",
        source="Free Spoken Digit Dataset, https://github.com/Jakobovski/free-spoken-digit-dataset",
    )


def _part(path: Path, files: Sequence[ClassFile]) -> RawItems:
    names = [file.name for file in files]
    items: list[Path] | list[bytes]
    items = contents(path, names) if path.is_file() else [path / name for name in names]
    return RawItems(items, [f"'{name}'" for name in names], [file.label for file in files])


def _are_spoken_digits(names: Sequence[str]) -> bool:
    found = [_SPOKEN_DIGIT.fullmatch(name) for name in names]
    return all(match is not None and match.group(1) in _SPEAKERS for match in found)


def _official_part(name: str) -> Part:
    match = _SPOKEN_DIGIT.fullmatch(name)
    assert match is not None
    return "test" if int(match.group(2)) < _TEST_TAKES else "train"
