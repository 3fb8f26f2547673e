"""recipe.lock: what went into a version, on what machine, and the steps, to make it again.

[made_with]
schema_version = 2
model = "runs/net.safetensors"
...

[[step]]
technique = "PruneChannels"
"""

from __future__ import annotations

import platform
import tomllib
from dataclasses import asdict, dataclass
from importlib import metadata as packages
from pathlib import Path
from typing import Self

import msgspec

from compress.machine import blas, processor
from compress.recipe import MADE_WITH, SCHEMA_VERSION, Recipe, read_text, table_to_toml
from hlserve import __version__
from hlserve.errors import ConfigError, SchemaVersionError

# ONNX Runtime is one import under two names of packages.
_RUNTIMES = ("onnxruntime", "onnxruntime-gpu")
_MISSING = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """What made a version: another one may come to other last bits.

    Attributes:
        cpu_flags: those that decide which kernels run; None where they are not known.
        blas: the library and the kernels that it chose.
        blas_threads: at work outside of training, which brings its own number.
    """

    hlserve: str
    python: str
    numpy: str
    onnx: str
    onnxruntime: str
    machine: str
    cpu: str
    blas: str
    blas_threads: int
    cpu_flags: tuple[str, ...] | None = None

    @classmethod
    def here(cls, *, blas_threads: int | None = None) -> Self:
        """This machine with what is installed.

        Args:
            blas_threads: that the version was made with; None takes those that are set now.
        """
        cpu = processor()
        name, threads = blas()
        return cls(
            hlserve=__version__,
            python=platform.python_version(),
            numpy=_version("numpy"),
            onnx=_version("onnx"),
            onnxruntime=next((v for v in map(_version, _RUNTIMES) if v != _MISSING), _MISSING),
            machine=platform.machine(),
            cpu=cpu.model,
            blas=name,
            blas_threads=threads if blas_threads is None else blas_threads,
            cpu_flags=cpu.flags,
        )

    def differences(self, other: Environment) -> list[str]:
        """What another one has that this one has not: ``numpy 2.1, now 2.2``."""
        then, now = asdict(self), asdict(other)
        return [
            f"{name} {_told(then[name])}, now {_told(now[name])}"
            for name in then
            if then[name] != now[name] and name != "blas_threads"  # which a replay sets itself
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ingredients:
    """What a version was made of, and what was asked for.

    Attributes:
        model, model_sha256: the source's path, and the digest of the file's bytes.
        data, data_sha256: name or path; the digest, see ``rows_sha256``, of the rows that were
            learned from.
        target: the labels' column or array; None for the usual one.
        rows_apart, split_seed: how many of the data's training rows were set apart to judge
            with, and the seed of that choice; 0 where others were given.
        evaluation, evaluation_sha256: the rows that judged; None where they came with the data.
        seed: of every random choice.
        teacher, teacher_sha256: a model file; None where the source itself taught.
        student: the architecture that was distilled into.
        output: of an ONNX file, that was judged.
        metric: its name, or ``module:function``.
        max_drop, minimize, batches, provider: what was asked for.
        trials: how many candidates were tried.
        result_sha256: of the ONNX file that came out.
    """

    model: str = ""
    model_sha256: str = ""
    data: str = ""
    data_sha256: str = ""
    result_sha256: str = ""
    seed: int = 0
    split_seed: int = 0
    rows_apart: int = 0
    target: str | None = None
    evaluation: str | None = None
    evaluation_sha256: str | None = None
    teacher: str | None = None
    teacher_sha256: str | None = None
    student: str | None = None
    output: str | None = None
    metric: str | None = None
    max_drop: float | None = None
    minimize: str | None = None
    batches: tuple[int, ...] = ()
    provider: str = "cpu"
    trials: int = 0


@dataclass(frozen=True, slots=True)
class Lock:
    """A recipe with all that it takes to follow it again."""

    environment: Environment
    ingredients: Ingredients
    recipe: Recipe

    def to_toml(self) -> str:
        """The lock as ``from_toml`` reads it, and as ``Recipe.from_toml`` does too."""
        head = {"schema_version": SCHEMA_VERSION, **asdict(self.environment)}
        head |= asdict(self.ingredients)
        return f"{table_to_toml(f'[{MADE_WITH}]', head)}\n{self.recipe.to_toml()}"

    @classmethod
    def from_toml(cls, text: str, *, name: str = "recipe.lock") -> Self:
        """The lock that a TOML text describes.

        Raises:
            SchemaVersionError: a newer hlserve wrote it, or one so old that it says too little.
            ConfigError: no TOML, no table ``[made_with]``, or see ``Recipe.from_toml``.
        """
        recipe = Recipe.from_toml(text, name=name)
        head = tomllib.loads(text).get(MADE_WITH)
        if not isinstance(head, dict):
            raise ConfigError(
                f"{name} has no table [{MADE_WITH}]: it is a recipe; "
                "follow it with `hlserve compress --recipe`"
            )
        version = head.get("schema_version", 1)
        if version < SCHEMA_VERSION:
            raise SchemaVersionError(
                f"{name} has schema version {version}, which does not say which rows were learned "
                "from; its steps can still be followed with `hlserve compress --recipe`"
            )
        try:
            return cls(
                msgspec.convert(head, Environment), msgspec.convert(head, Ingredients), recipe
            )
        except msgspec.ValidationError as error:
            raise ConfigError(f"{name}: [{MADE_WITH}]: {error}") from error

    @classmethod
    def read(cls, path: Path) -> Self:
        """The lock in a file.

        Raises:
            ConfigError: it cannot be read, or see ``from_toml``.
        """
        name = f"lock {path}"
        return cls.from_toml(read_text(path, name=name), name=name)


# ----- below


def _version(package: str) -> str:
    try:
        return packages.version(package)
    except packages.PackageNotFoundError:
        return _MISSING


def _told(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
