"""Images in class folders, or in a zip archive of them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from hlserve.datasets.class_folders import ClassFile, classified, contents
from hlserve.datasets.dataset import Dataset
from hlserve.datasets.raw_items import RawItems, made_dataset
from hlserve.errors import DataError
from hlserve.frontend import FrontEnd, Image
from hlserve.frontend.image import is_grey, size_of

Size = tuple[int, int]  # height and width in pixels

_SIZE = re.compile(r"([0-9]{1,5})(?:x([0-9]{1,5}))?")


def read_images(
    path: Path,
    names: Sequence[str],
    frontend: FrontEnd | None = None,
    size: Size | None = None,
) -> Dataset:
    """Pixels uint8 (rows, channels, height, width) of the images in a folder or zip archive.

    The class is the folder's name; ``train`` and ``test`` folders above the classes are the two
    parts. Images are grey where all of the training part are, else in colour.

    Args:
        path: the folder or archive.
        names: its image files.
        frontend: ``Image``, where a model was trained before; it says size and channels.
        size: to stretch the images to; None where all have one size already.

    Raises:
        DataError: the files lie in no such form, one is no image or damaged, or they differ in
            size and none was asked for.
        MissingDependencyError: Pillow is not installed.
    """
    files = classified(path, names, by_file_name=False)
    train = _part(path, [file for file in files if file.part == "train"])
    test = _part(path, [file for file in files if file.part == "test"])
    if frontend is None:
        fitted_on = train if train.items else test
        frontend = _fitted(path, fitted_on, size or _common_size(path, train, test))
    return made_dataset(path, "image", train, test, frontend)


def parse_size(text: str) -> Size:
    """Height and width from ``64`` or ``48x64``.

    Raises:
        DataError: it is neither.
    """
    match = _SIZE.fullmatch(text)
    if match is None or 0 in (int(number) for number in match.groups() if number):
        raise DataError(f"image size {text!r}: expected pixels, as in 64, or height x width: 48x64")
    height = int(match.group(1))
    return height, int(match.group(2) or height)


# ----- below


def _part(path: Path, files: Sequence[ClassFile]) -> RawItems:
    names = [file.name for file in files]
    items: list[Path] | list[bytes]
    items = contents(path, names) if path.is_file() else [path / name for name in names]
    return RawItems(items, [f"'{name}'" for name in names], [file.label for file in files])


def _fitted(path: Path, part: RawItems, size: Size) -> Image:
    pairs = zip(part.items, part.names, strict=True)
    try:
        channels = 1 if all(is_grey(item, name) for item, name in pairs) else 3
    except DataError as error:
        raise DataError(f"'{path}': {error}") from error
    return Image(height=size[0], width=size[1], channels=1 if channels == 1 else 3)


def _common_size(path: Path, *parts: RawItems) -> Size:
    counts: Counter[Size] = Counter()
    try:
        for part in parts:
            for item, name in zip(part.items, part.names, strict=True):
                counts[size_of(item, name)] += 1
    except DataError as error:
        raise DataError(f"'{path}': {error}") from error
    if len(counts) > 1:
        heights, widths = zip(*counts, strict=True)
        told = (
            f"{min(heights)} to {max(heights)} high and {min(widths)} to {max(widths)} wide"
            if len(counts) > 3
            else ", ".join(f"{h}x{w}" for h, w in sorted(counts))
        )
        raise DataError(
            f"'{path}': images of {len(counts)} sizes ({told}, height x width), but a network takes"
            " one; say to which they are stretched, such as --image-size 64 or 48x64"
        )
    return next(iter(counts))
