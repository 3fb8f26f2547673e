"""What lies in a file or a folder, told apart from what lay there before without reading it."""

from __future__ import annotations

import os
import stat
from pathlib import Path

# A file: path in the model's folder, bytes, nanoseconds of its last change, inode.
FileStamps = tuple[tuple[str, int, int, int], ...]


# One file by itself: nanoseconds of its last change, bytes, inode.
FileStamp = tuple[int, int, int]


def file_stamp(path: Path) -> FileStamp | None:
    """What changes when a file does; None where there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def file_stamps(version_dir: Path) -> FileStamps:
    """The files of a version, and those of its model: configuration, labels, warm-up."""
    model_dir = version_dir.parent
    folders = (model_dir, model_dir / "warmup", version_dir)
    return tuple(stamp for folder in folders for stamp in folder_stamps(folder))


def folder_stamps(folder: Path) -> FileStamps:
    """The files of one folder, sorted; none where it is gone."""
    try:
        with os.scandir(folder) as entries:
            found = [(entry.name, entry.stat()) for entry in entries]
    except OSError:  # it, or a file in it, went away in between
        return ()
    return tuple(
        (f"{folder.name}/{name}", s.st_size, s.st_mtime_ns, s.st_ino)
        for name, s in sorted(found)
        if stat.S_ISREG(s.st_mode)
    )
