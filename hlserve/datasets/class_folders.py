"""Files whose folder names their class, in a folder or a zip archive."""

from __future__ import annotations

import os
import re
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal, final

from hlserve.errors import DataError

Part = Literal["train", "test"]

MAX_ARCHIVE_BYTES = 2**32  # unpacked: more than this does not fit into memory beside its rows
PARTS: tuple[Part, ...] = ("train", "test")
_NAME_LABEL = re.compile(r"([^_]+)_.+")


@final
@dataclass(frozen=True, slots=True)
class ClassFile:
    """One file.

    Attributes:
        name: its path in the folder or archive, with ``/``.
        part: which part it belongs to.
        label: its class.
    """

    name: str
    part: Part
    label: str


def file_names(path: Path, suffixes: Sequence[str]) -> list[str]:
    """The files with these endings below a folder or in a zip, sorted; hidden ones left out.

    Raises:
        DataError: the archive is damaged, or the folder cannot be read.
    """
    names = _names_in_zip(path) if path.is_file() else _names_in_folder(path)
    return sorted(name for name in names if name.lower().endswith(tuple(suffixes)))


def classified(path: Path, names: Sequence[str], *, by_file_name: bool) -> list[ClassFile]:
    """Every file with its part and class, from where it lies.

    ``train/<class>/<file>`` and ``test/<class>/<file>``; or ``<class>/<file>``, all for training;
    or, where files lie side by side, the class is the name's part ahead of the first ``_``.

    Args:
        path: the folder or archive, for messages.
        names: of the files; folders that all of them share are left out of account.
        by_file_name: whether the last form is allowed.

    Raises:
        DataError: the files lie in none of these forms.
    """
    paths = [PurePosixPath(name) for name in names]
    shared = _shared_depth(paths)
    files = []
    for whole, name in zip(paths, names, strict=True):
        found = _classify(whole.parts[shared:], by_file_name=by_file_name)
        if found is None:
            raise DataError(
                f"'{path}': '{name}' tells no class, expected <class>/<file>, "
                f"train/<class>/<file> and test/<class>/<file>{_or_by_name(by_file_name)}"
            )
        files.append(ClassFile(name, *found))
    if len({len(p.parts) for p in paths}) > 1:
        raise DataError(f"'{path}': files lie at different depths, such as '{names[0]}'")
    return files


def contents(path: Path, names: Sequence[str]) -> list[bytes]:
    """The files' bytes, in that order.

    Raises:
        DataError: a file cannot be read, or the archive is damaged or too large unpacked.
    """
    if not path.is_file():
        return [_read(path / name) for name in names]
    try:
        with zipfile.ZipFile(path) as archive:
            total = sum(archive.getinfo(name).file_size for name in names)
            if total > MAX_ARCHIVE_BYTES:
                raise DataError(
                    f"'{path}': {total:,} bytes unpacked, expected at most "
                    f"{MAX_ARCHIVE_BYTES:,}; unpack it into a folder"
                )
            # A member that unpacks to more than it says is cut by zipfile, and fails its CRC.
            return [archive.read(name) for name in names]
    except (OSError, RuntimeError, zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise DataError(f"'{path}': not a whole zip archive ({error})") from error


# ----- below


def _names_in_folder(path: Path) -> list[str]:
    names = []
    for folder, folders, files in os.walk(path):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        inside = Path(folder).relative_to(path)
        names += [(inside / name).as_posix() for name in files if not name.startswith(".")]
    return names


def _names_in_zip(path: Path) -> list[str]:
    try:
        with zipfile.ZipFile(path) as archive:
            listed = archive.namelist()
    except (OSError, zipfile.BadZipFile) as error:
        raise DataError(f"'{path}': not a whole zip archive ({error})") from error
    parts = [PurePosixPath(name).parts for name in listed]
    return [
        name
        for name, parts in zip(listed, parts, strict=True)
        if not any(part.startswith((".", "__MACOSX")) for part in parts)
    ]


def _shared_depth(paths: Sequence[PurePosixPath]) -> int:
    """How many folders all files share, from the top."""
    depth = 0
    for level in zip(*(path.parent.parts for path in paths), strict=False):
        if len(set(level)) > 1:
            break
        depth += 1
    return depth


def _classify(parts: tuple[str, ...], *, by_file_name: bool) -> tuple[Part, str] | None:
    if len(parts) == 3 and parts[0] in PARTS:
        return ("train" if parts[0] == "train" else "test"), parts[1]
    if len(parts) == 2:
        return "train", parts[0]
    match = _NAME_LABEL.fullmatch(parts[0]) if len(parts) == 1 and by_file_name else None
    return None if match is None else ("train", match.group(1))


def _or_by_name(by_file_name: bool) -> str:
    return ", or files named <class>_<anything>" if by_file_name else ""


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"'{path}': cannot be read: {error.strerror or error}") from error
