"""``load``: the one way from a name or a path to rows."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hlserve.datasets.class_folders import file_names
from hlserve.datasets.csv_table import read_csv
from hlserve.datasets.dataset import Dataset
from hlserve.datasets.idx import read_idx_folder
from hlserve.datasets.image_folder import Size, parse_size, read_images
from hlserve.datasets.known import KNOWN, load_embedded
from hlserve.datasets.npy import is_npy_folder, read_npy_folder
from hlserve.datasets.npz import read_npz
from hlserve.datasets.sound import read_sounds
from hlserve.datasets.text import is_text_csv, read_text_csv, read_text_lines, read_texts
from hlserve.errors import DataError
from hlserve.frontend import IMAGE_SUFFIXES, SOUND_SUFFIXES, FrontEnd, Table, from_json

_ACCEPTED = (
    "a folder of IDX files (MNIST names) or of x.npy and y.npy, a folder or .zip of sounds, images "
    "or texts in class folders, an .npz, .csv, .tsv or .txt file"
)


@dataclass(frozen=True, slots=True)
class _Choices:
    """What ``load`` was asked for beside the path."""

    target: str | None
    frontend: FrontEnd | str | None
    categorical: Sequence[str]
    ignore: Sequence[str]
    image_size: Size | None


def load(
    name_or_path: str | Path,
    *,
    target: str | None = None,
    frontend: FrontEnd | str | None = None,
    categorical: Sequence[str] = (),
    ignore: Sequence[str] = (),
    image_size: str | tuple[int, int] | None = None,
) -> Dataset:
    """Rows by the name of an embedded set, or by a path.

    Images are uint8 (rows, channels, height, width), tables float32 (rows, columns), arrays of an
    NPZ file what they are; texts and sounds what a front end makes of them, which the dataset
    then names, as it does for image files and for tables with gaps, categories or ignored
    columns. Class numbers are int64 (rows,), regression targets float32.

    Args:
        name_or_path: an embedded set's name (see ``KNOWN``), or the path of a folder of IDX
            files or of ``x.npy`` and ``y.npy``; of a folder or ``.zip`` of sounds, images or
            texts in class folders; of an ``.npz`` or ``.csv`` file; of a ``.tsv`` or ``.txt``
            file of text, tab, label. A path that could be a name is written ``./digits``.
        target: which array (NPZ) or column (CSV) holds the labels; ``y`` where it is not given.
        frontend: a front end that was fitted before, such as a model's own; the path of its
            JSON; or, for texts and sounds, a short text such as ``subwords:4000``. None fits
            one on the training part where the rows need it. Arrays of numbers need none: a front
            end leaves them as they are, a short text is refused.
        categorical: columns of a CSV file whose whole numbers are categories.
        ignore: columns of a CSV file to leave out.
        image_size: height and width that image files are stretched to, such as ``"48x64"``;
            needed where they differ.

    Raises:
        DataError: nothing is there, it cannot be read, its content does not fit its format, or
            an argument is for other data.
        MissingDependencyError: the data need a library that is not installed.
    """
    size = parse_size(image_size) if isinstance(image_size, str) else image_size
    given = _read_front_end(frontend)
    choices = _Choices(target, given, tuple(categorical), tuple(ignore), size)
    path = None if _is_embedded(name_or_path) else Path(name_or_path)
    found = None if path is None else _load_files(path, choices)
    if found is not None:
        return found
    if isinstance(given, str):
        raise DataError(
            f"{name_or_path} holds numbers, the front end {given!r} is for texts and sounds"
        )
    _refuse_image_size(choices, name_or_path)
    _refuse_columns(choices, name_or_path)
    return _load_arrays(name_or_path, target)


def _read_front_end(frontend: FrontEnd | str | None) -> FrontEnd | str | None:
    if not isinstance(frontend, str) or not frontend.endswith(".json"):
        return frontend
    try:
        return from_json(Path(frontend).read_bytes(), where=frontend)
    except OSError as error:
        raise DataError(f"'{frontend}': cannot be read: {error.strerror or error}") from error


def _load_files(path: Path, choices: _Choices) -> Dataset | None:
    """Texts, sounds, images or a table; None where the rows are arrays, or nothing is there."""
    if not path.exists():
        return None
    suffix = path.suffix.lower()
    if path.is_dir() or suffix == ".zip":
        return _load_class_folders(path, choices)
    if suffix == ".csv" and not (_is_plain(choices) and is_text_csv(path)):
        _refuse_image_size(choices, path)
        return _load_table(path, choices)
    if suffix not in (".txt", ".tsv", ".csv"):
        return None
    _refuse_image_size(choices, path)
    _refuse_columns(choices, path)
    read = read_text_csv if suffix == ".csv" else read_text_lines
    return read(path, target=choices.target, frontend=choices.frontend)


def _is_plain(choices: _Choices) -> bool:
    """Whether nothing says that a CSV file is a table."""
    is_for_tables = isinstance(choices.frontend, Table)
    return not (choices.categorical or choices.ignore or is_for_tables)


def _load_table(path: Path, choices: _Choices) -> Dataset:
    frontend = choices.frontend
    if isinstance(frontend, str):
        raise DataError(f"{path} holds a table, the front end {frontend!r} is for texts and sounds")
    if frontend is not None and (choices.categorical or choices.ignore):
        raise DataError(f"{path}: the front end says which columns are read, leave out the others")
    return read_csv(
        path,
        target=choices.target,
        frontend=frontend,
        categorical=choices.categorical,
        ignore=choices.ignore,
    )


def _load_class_folders(path: Path, choices: _Choices) -> Dataset | None:
    if path.is_dir() and any(path.glob("*-ubyte*")):
        return None  # IDX files, whatever lies below them
    sounds = file_names(path, SOUND_SUFFIXES)
    images = [] if sounds else file_names(path, IMAGE_SUFFIXES)
    texts = [] if sounds or images else file_names(path, (".txt",))
    if sounds or images or any("/" in name for name in texts):
        _refuse_target(choices.target, f"'{path}', where folders name the classes,")
        _refuse_columns(choices, path)
        if images:
            return _load_images(path, images, choices)
        _refuse_image_size(choices, path)
        read = read_sounds if sounds else read_texts
        return read(path, sounds or texts, choices.frontend)
    if texts:
        raise DataError(
            f"'{path}': texts lie in no class folders; name a file of them, such as "
            f"'{path / texts[0]}', or put each text into a folder named like its class"
        )
    if path.is_file():
        raise DataError(
            f"'{path}': holds no sounds ({', '.join(SOUND_SUFFIXES)}), no images "
            f"({', '.join(IMAGE_SUFFIXES)}) and no .txt"
        )
    return None


def _load_images(path: Path, images: Sequence[str], choices: _Choices) -> Dataset:
    frontend, size = choices.frontend, choices.image_size
    if isinstance(frontend, str):
        raise DataError(f"'{path}' holds image, the front end {frontend!r} takes something else")
    if frontend is not None and size is not None:
        raise DataError(f"'{path}': the front end says the images' size, leave the other out")
    return read_images(path, images, frontend, size)


def _load_arrays(name_or_path: str | Path, target: str | None) -> Dataset:
    path = Path(name_or_path)
    for known in KNOWN:
        if known.embedded and name_or_path == known.name:
            _refuse_target(target, f"the set '{name_or_path}'")
            return load_embedded(known)
    if path.is_dir():
        _refuse_target(target, f"the folder '{path}'")
        if is_npy_folder(path):
            return read_npy_folder(path)
        return read_idx_folder(path)
    if not path.exists():
        raise DataError(_not_found(str(name_or_path)))
    if path.suffix.lower() == ".npz":
        return read_npz(path, target=target)
    raise DataError(f"'{path}': unknown kind of file '{path.suffix}', expected {_ACCEPTED}")


def _refuse_columns(choices: _Choices, where: str | Path) -> None:
    if choices.categorical or choices.ignore:
        name = (*choices.categorical, *choices.ignore)[0]
        raise DataError(f"{where} is no CSV table, so it has no column '{name}'; leave it out")


def _refuse_image_size(choices: _Choices, where: str | Path) -> None:
    if choices.image_size is not None:
        raise DataError(f"{where} holds no image files, so there is no image size to choose")


def _is_embedded(name_or_path: str | Path) -> bool:
    return isinstance(name_or_path, str) and name_or_path in _embedded_names()


def _embedded_names() -> list[str]:
    return [known.name for known in KNOWN if known.embedded]


def _refuse_target(target: str | None, where: str) -> None:
    if target is not None:
        raise DataError(
            f"{where} has its own labels, but the target '{target}' was asked for; leave it out"
        )


def _not_found(asked: str) -> str:
    names = _embedded_names()
    near = difflib.get_close_matches(asked, names, n=1)
    hint = f"did you mean '{near[0]}'? " if near else ""
    known = ", ".join(names)
    return f"no data '{asked}': {hint}expected one of {known}, or the path of {_ACCEPTED}"
