"""The model repository on disk: names, versions, metadata; reading and atomic publishing.

::

    <root>/<name>/<version>/model.onnx           the graph
                            metadata.json        what the version is; never edited
                            golden.safetensors   some inputs with their outputs
                            recipe.lock report/  how it was made
    <root>/<name>/config.json or config.pbtxt    how it is served; optional

A version folder appears whole or not at all, and never changes: publishing again is a new
number. Names from the network are never joined to a path; only names found on disk are.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import msgspec

from hlserve.errors import (
    MissingDependencyError,
    ModelFileError,
    ModelNotFoundError,
    RepositoryError,
    SchemaVersionError,
    VersionNotFoundError,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

SCHEMA_VERSION = 1
MODEL_FILE = "model.onnx"
METADATA_FILE = "metadata.json"
GOLDEN_FILE = "golden.safetensors"
RECIPE_FILE = "recipe.lock"
REPORT_DIR = "report"
CONFIG_FILE = "config.json"
CONFIG_TEXT_FILE = "config.pbtxt"

_VERSION = re.compile(r"[1-9][0-9]{0,17}")  # below 2**63: the protocol's clients parse int64
_MAX_NAME_BYTES = 255  # the file system's bound
_TEMPORARY_PREFIX = ".publish-"


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One input or output: datatype as in ``hlserve.datatypes``, -1 where the shape varies."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    units: str | None = None


@dataclass(frozen=True, slots=True)
class Metadata:
    """What a version is.

    Attributes:
        inputs, outputs: in the graph's order.
        task: ``classification``, ``multilabel``, ``regression`` or None where it is not known.
        class_labels: one a class, in the order of the output's last axis.
        producer: what wrote the version, such as ``hlserve 0.1.0``.
        created: ISO 8601, UTC.
        sha256: of model.onnx, hexadecimal.
        source, report: what the version was made from, and how.
        frontend: what makes the inputs of texts or sounds, as JSON that ``hlserve.frontend`` reads.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    task: str | None
    class_labels: tuple[str, ...] | None
    producer: str
    created: str
    sha256: str
    schema_version: int = SCHEMA_VERSION
    source: dict[str, Any] = field(default_factory=dict)
    report: dict[str, Any] = field(default_factory=dict)
    frontend: dict[str, Any] | None = None


class Repository:
    """Reads a model repository; raises RepositoryError where ``root`` is no readable folder."""

    def __init__(self, root: Path) -> None:
        if not root.is_dir():
            where = f"; give the folder of models{_parent_hint(root)}" if root.exists() else ""
            raise RepositoryError(f"model repository {root} is no folder{where}")
        self.root = root

    def names(self) -> list[str]:
        """The models' names, sorted; hidden folders, files and unusable names left out."""
        return [name for name, is_taken in self._folders() if is_taken]

    def refused_names(self) -> list[str]:
        """Folders that look like models and are not taken: a bad name, or a link out of here."""
        return [name for name, is_taken in self._folders() if not is_taken]

    def versions(self, name: str) -> list[int]:
        """The version numbers of a model, ascending: folders named by a plain positive integer.

        Raises:
            ModelNotFoundError: there is no such model.
        """
        return sorted(
            int(entry.name)
            for entry in _entries(self.model_dir(name))
            if _VERSION.fullmatch(entry.name) and entry.is_dir() and self._is_inside(entry)
        )

    def version_dir(self, name: str, version: int) -> Path:
        """The folder of a version.

        Raises:
            ModelNotFoundError: there is no such model.
            VersionNotFoundError: there is no such version of it.
        """
        if version not in self.versions(name):
            raise VersionNotFoundError(f"model {name!r} has no version {version} in {self.root}")
        return self.root / name / str(version)

    def metadata(self, name: str, version: int) -> Metadata | None:
        """What a version says it is; None where it has no metadata.json."""
        return read_metadata(self.version_dir(name, version))

    def hint(self) -> str:
        """What to give instead, where this is a model's own folder; else nothing."""
        root = self.root.resolve()
        if any(_VERSION.fullmatch(name) for name in self.names()):
            return f"; {self.root} looks like one model: give its parent, {root.parent}"
        if _VERSION.fullmatch(root.name) and (root / MODEL_FILE).exists():
            return f"; {self.root} looks like one version: give {root.parent.parent}"
        return ""

    def model_dir(self, name: str) -> Path:
        """The folder of a model; ModelNotFoundError where there is no such model."""
        if name not in self.names():
            raise ModelNotFoundError(f"model {name!r} is not in {self.root}")
        return self.root / name

    def config_file(self, name: str) -> Path | None:
        """The file that says how a model is served; None where it has none.

        Raises:
            ModelFileError: it has two.
            ModelNotFoundError: there is no such model.
        """
        folder = self.model_dir(name)
        found = [p for f in (CONFIG_TEXT_FILE, CONFIG_FILE) if (p := folder / f).exists()]
        if len(found) > 1:
            raise ModelFileError(
                f"{folder} holds {CONFIG_TEXT_FILE} and {CONFIG_FILE}, expected one of them"
            )
        return found[0] if found else None

    def _folders(self) -> list[tuple[str, bool]]:
        folders = [e for e in _entries(self.root) if e.is_dir() and not e.name.startswith(".")]
        return sorted((e.name, is_model_name(e.name) and self._is_inside(e)) for e in folders)

    def _is_inside(self, path: Path) -> bool:
        """Whether a path stays in the repository once links are followed."""
        return path.resolve().is_relative_to(self.root.resolve())


def _parent_hint(path: Path) -> str:
    """Where the repository of a model's file may be."""
    folder = path.resolve().parent
    is_version = bool(_VERSION.fullmatch(folder.name))
    return f", here perhaps {folder.parent.parent}" if is_version else ""


def is_model_name(name: str) -> bool:
    """Whether a folder of this name is a model: visible, printable, no separator, no blank end."""
    return (
        bool(name)
        and not name.startswith(".")
        and name == name.strip()
        and name.isprintable()
        and not {"/", "\\"} & set(name)
        and len(name.encode(errors="surrogateescape")) <= _MAX_NAME_BYTES
    )


def parse_version(text: str) -> int | None:
    """A version number written as the repository writes it; None if it is not one."""
    return int(text) if _VERSION.fullmatch(text) else None


def read_metadata(version_dir: Path) -> Metadata | None:
    """What a version says it is; None where it has no metadata.json.

    Raises:
        SchemaVersionError: a newer hlserve wrote it.
        ModelFileError: the file cannot be read.
    """
    path = version_dir / METADATA_FILE
    if not path.exists():
        return None
    content = _read_object(path)
    schema_version = content.get("schema_version", SCHEMA_VERSION)
    if not isinstance(schema_version, int) or schema_version > SCHEMA_VERSION:
        raise SchemaVersionError(
            f"{path} has schema version {schema_version!r}, this hlserve reads up to "
            f"{SCHEMA_VERSION}: upgrade hlserve"
        )
    try:
        return msgspec.convert(content, type=Metadata)
    except msgspec.ValidationError as error:
        raise ModelFileError(f"{path}: {error}") from error


def read_golden(version_dir: Path) -> dict[str, NDArray[Any]] | None:
    """Arrays by ``input:<name>`` and ``output:<name>``; None where the version has none.

    Raises:
        ModelFileError: the file cannot be read.
    """
    path = version_dir / GOLDEN_FILE
    if not path.exists():
        return None
    safetensors = _safetensors()
    try:
        return cast("dict[str, NDArray[Any]]", safetensors.numpy.load(path.read_bytes()))
    except (safetensors.SafetensorError, OSError, KeyError) as error:
        raise ModelFileError(f"{path}: {error}") from error


def publish(
    model_dir: Path,
    *,
    model: bytes,
    metadata: Metadata,
    golden: Mapping[str, NDArray[Any]] | None = None,
    recipe_lock: str | None = None,
    report: Mapping[str, bytes] | None = None,
) -> int:
    """Writes the next version of a model and answers its number; whole or not at all.

    Args:
        model_dir: ``<root>/<name>``; made if absent.
        model: the ONNX file.
        metadata: its ``sha256`` must be the model's.
        golden: ``input:<name>`` and ``output:<name>`` -> rows.
        recipe_lock: how the version was made.
        report: file name -> content, under ``report/``.

    Raises:
        RepositoryError: a name or checksum is wrong, or the disk refused (full, read-only); then
            nothing of the new version is left and older versions are as they were.
    """
    files = _version_files(model_dir, model, metadata, golden, recipe_lock, report or {})
    try:
        return _publish(model_dir, files)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise RepositoryError(
            f"cannot publish into {model_dir}: {reason}; nothing of the new version is left"
        ) from error


def _publish(model_dir: Path, files: Mapping[str, bytes]) -> int:
    with _made_dir(model_dir), _temporary_dir(model_dir) as temporary:
        for name, content in files.items():
            _write_durably(temporary / name, content)
        for folder in {(temporary / name).parent for name in files} | {temporary}:
            _fsync_dir(folder)
        version = _rename_to_next_version(temporary, model_dir)
        try:
            _fsync_dir(model_dir)
        except OSError:
            shutil.rmtree(model_dir / str(version), ignore_errors=True)
            raise
        return version


def _version_files(
    model_dir: Path,
    model: bytes,
    metadata: Metadata,
    golden: Mapping[str, NDArray[Any]] | None,
    recipe_lock: str | None,
    report: Mapping[str, bytes],
) -> dict[str, bytes]:
    """Content by relative path; model.onnx comes last, so a half-written folder holds none."""
    name = model_dir.resolve().name
    if not is_model_name(name):
        raise RepositoryError(f"{name!r} is no name for a model, expected such as 'fashion'")
    actual = hashlib.sha256(model).hexdigest()
    if metadata.sha256 != actual:
        raise RepositoryError(
            f"metadata for {model_dir} has sha256 {metadata.sha256!r}, the model's is {actual!r}"
        )
    encoded = msgspec.json.encode(metadata, order="deterministic")
    files = {METADATA_FILE: msgspec.json.format(encoded, indent=2) + b"\n"}
    if golden:
        files[GOLDEN_FILE] = _encode_golden(golden)
    if recipe_lock is not None:
        files[RECIPE_FILE] = recipe_lock.encode()
    for file_name, content in report.items():
        if not is_model_name(file_name):
            raise RepositoryError(f"report file {file_name!r} is no plain file name")
        files[f"{REPORT_DIR}/{file_name}"] = content
    files[MODEL_FILE] = model
    return files


def _encode_golden(golden: Mapping[str, NDArray[Any]]) -> bytes:
    for name, array in golden.items():
        if not name.startswith(("input:", "output:")):
            raise RepositoryError(f"golden key {name!r}, expected input:<name> or output:<name>")
        if array.dtype.kind not in "biuf":
            raise RepositoryError(f"golden {name!r} has dtype {array.dtype}, expected numbers")
    contiguous = {name: array.copy(order="C") for name, array in golden.items()}
    encoded: bytes = _safetensors().numpy.save(contiguous)
    return encoded


def _safetensors() -> Any:
    try:
        import safetensors.numpy
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            'golden samples need safetensors: pip install "hlserve[cpu]"'
        ) from error
    return safetensors


@contextmanager
def _made_dir(path: Path) -> Iterator[None]:
    """The folder, made if absent, and gone again if the body fails."""
    existed = path.is_dir()
    path.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        if not existed:
            with suppress(OSError):  # not empty: another publisher came in between
                path.rmdir()
        raise
    if not existed:
        _fsync_dir(path.parent)


@contextmanager
def _temporary_dir(model_dir: Path) -> Iterator[Path]:
    """A folder beside the versions (one file system), hidden, gone at the end if still there."""
    temporary = Path(tempfile.mkdtemp(prefix=_TEMPORARY_PREFIX, dir=model_dir))
    temporary.chmod(0o755)  # mkdtemp is private; the server may run as another user
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write_durably(path: Path, content: bytes) -> None:
    path.parent.mkdir(exist_ok=True)
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _fsync_dir(path: Path) -> None:
    """Makes names in a folder durable; without it a rename can be lost with the power."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _rename_to_next_version(temporary: Path, model_dir: Path) -> int:
    """Tries numbers upward from the highest: another publisher may take one in between."""
    taken = (int(e.name) for e in _entries(model_dir) if _VERSION.fullmatch(e.name))
    version = 1 + max(taken, default=0)
    while True:
        try:
            # A non-empty folder is never replaced by a rename, so an older version is safe.
            temporary.rename(model_dir / str(version))
        except OSError as error:
            if error.errno not in {errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR}:
                raise
            version += 1
        else:
            return version


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError as error:
        raise RepositoryError(f"cannot read {folder}: {error.strerror}") from error


def _read_object(path: Path) -> dict[str, Any]:
    try:
        content = msgspec.json.decode(path.read_bytes())
    except OSError as error:
        raise ModelFileError(f"cannot read {path}: {error.strerror}") from error
    except (msgspec.DecodeError, RecursionError) as error:
        raise ModelFileError(f"{path} is no JSON: {error}") from error
    if not isinstance(content, dict):
        raise ModelFileError(f"{path} holds {type(content).__name__}, expected a JSON object")
    return content
