"""A model that a call brings along: its configuration, its files, or both."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from hlserve.errors import InvalidRequestError
from hlserve.repository import is_model_name, parse_version

_FILE_PREFIX = "file:"


@dataclass(frozen=True, slots=True)
class Overrides:
    """What takes the place of what lies in the repository, for one load; the disk stays as it is.

    Attributes:
        config: a ModelConfig as JSON; None: the model's own.
        files: content by path, such as ``1/model.onnx``; then they are the whole model.
    """

    config: str | None = None
    files: Mapping[str, bytes] = field(default_factory=dict)


def make_overrides(config: str | None, files: Mapping[str, bytes]) -> Overrides | None:
    """Checked overrides; None where there are none.

    Args:
        config: a ModelConfig as JSON; None or empty: none.
        files: content by path, with or without Triton's ``file:`` before it.

    Raises:
        InvalidRequestError: files without a configuration, or a path that is not
            ``<version>/<file>``.
    """
    if files and not config:
        raise InvalidRequestError("files override a model only beside a config, and none came")
    paths = {path.removeprefix(_FILE_PREFIX): content for path, content in files.items()}
    for path in paths:
        _check_path(path)
    return Overrides(config, paths) if config else None


@contextmanager
def private_folder(name: str, files: Mapping[str, bytes]) -> Iterator[Path]:
    """A folder that only this process' user can read, with ``<name>/<files>``; then gone again."""
    with tempfile.TemporaryDirectory(prefix="hlserve-load-") as root:
        for path, content in files.items():
            target = Path(root, name, path)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
        yield Path(root)


def _check_path(path: str) -> None:
    parts = PurePosixPath(path).parts
    is_plain = path == "/".join(parts) and all(is_model_name(part) for part in parts)
    if not is_plain or len(parts) < 2 or parse_version(parts[0]) is None:
        raise InvalidRequestError(
            f"file override {path!r}, expected a path such as 'file:1/model.onnx'"
        )
