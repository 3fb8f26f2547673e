"""``load``: the one way from a name or a path to rows."""

from __future__ import annotations

import difflib
from pathlib import Path

from hlserve.datasets.class_folders import file_names
from hlserve.datasets.csv_table import read_csv
from hlserve.datasets.dataset import Dataset
from hlserve.datasets.idx import read_idx_folder
from hlserve.datasets.known import KNOWN, load_embedded
from hlserve.datasets.npy import is_npy_folder, read_npy_folder
from hlserve.datasets.npz import read_npz
from hlserve.datasets.sound import read_sounds
from hlserve.datasets.text import is_text_csv, read_text_csv, read_text_lines, read_texts
from hlserve.errors import DataError
from hlserve.frontend import SOUND_SUFFIXES, FrontEnd

_ACCEPTED = (
    "a folder of IDX files (MNIST names) or of x.npy and y.npy, a folder or .zip of sounds or "
    "texts in class folders, an .npz, .csv, .tsv or .txt file"
)


def load(
    name_or_path: str | Path,
    *,
    target: str | None = None,
    frontend: FrontEnd | str | None = None,
) -> Dataset:
    """Rows by the name of an embedded set, or by a path.

    Images are uint8 (rows, channels, height, width), tables float32 (rows, columns), arrays of an
    NPZ file what they are; texts and sounds what a front end makes of them, which the dataset
    then names. Class numbers are int64 (rows,), regression targets float32.

    Args:
        name_or_path: an embedded set's name (see ``KNOWN``), or the path of a folder of IDX
            files or of ``x.npy`` and ``y.npy``; of a folder or ``.zip`` of sounds or texts in
            class folders; of an ``.npz`` or ``.csv`` file; of a ``.tsv`` or ``.txt`` file of text,
            tab, label. A path that could be a name is written ``./digits``.
        target: which array (NPZ) or column (CSV) holds the labels; ``y`` where it is not given.
        frontend: for texts and sounds: a front end that was fitted before, such as a model's
            own; the path of its JSON; or a short text such as ``subwords:4000``. None fits
            ``words`` or ``log-mel`` on the training part. Rows that are numbers already need
            none: a front end leaves them as they are, a text is refused.

    Raises:
        DataError: nothing is there, it cannot be read, or its content does not fit its format.
        MissingDependencyError: the front end needs a library that is not installed.
    """
    raw = _load_raw(name_or_path, target, frontend)
    if raw is not None:
        return raw
    if isinstance(frontend, str):
        raise DataError(
            f"{name_or_path} holds numbers, the front end {frontend!r} is for texts and sounds"
        )
    return _load_numbers(name_or_path, target)


def _load_raw(
    name_or_path: str | Path, target: str | None, frontend: FrontEnd | str | None
) -> Dataset | None:
    """Texts or sounds; None where the rows are numbers, or nothing is there."""
    path = Path(name_or_path)
    if _embedded(name_or_path) or not path.exists():
        return None
    suffix = path.suffix.lower()
    if path.is_dir() or suffix == ".zip":
        return _load_files(path, target, frontend)
    if suffix in (".txt", ".tsv"):
        return read_text_lines(path, target=target, frontend=frontend)
    if suffix == ".csv" and is_text_csv(path):
        return read_text_csv(path, target=target, frontend=frontend)
    return None


def _load_files(path: Path, target: str | None, frontend: FrontEnd | str | None) -> Dataset | None:
    if path.is_dir() and any(path.glob("*-ubyte*")):
        return None  # IDX files, whatever lies below them
    sounds = file_names(path, SOUND_SUFFIXES)
    texts = [] if sounds else file_names(path, (".txt",))
    if sounds or any("/" in name for name in texts):
        _refuse_target(target, f"'{path}', where folders name the classes,")
        return read_sounds(path, sounds, frontend) if sounds else read_texts(path, texts, frontend)
    if texts:
        raise DataError(
            f"'{path}': texts lie in no class folders; name a file of them, such as "
            f"'{path / texts[0]}', or put each text into a folder named like its class"
        )
    if path.is_file():
        raise DataError(f"'{path}': holds no sounds ({', '.join(SOUND_SUFFIXES)}) and no .txt")
    return None


def _load_numbers(name_or_path: str | Path, target: str | None) -> Dataset:
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
    if path.suffix.lower() == ".csv":
        return read_csv(path, target=target)
    raise DataError(f"'{path}': unknown kind of file '{path.suffix}', expected {_ACCEPTED}")


def _embedded(name_or_path: str | Path) -> bool:
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
