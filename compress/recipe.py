"""Recipes: techniques in order, then steps on the exported file; as Python objects and as TOML.

[[step]]
technique = "PruneChannels"
ratio = 0.5

[[step]]
technique = "Distill"
epochs = 6

[[step]]
technique = "Simplify"
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from numbers import Integral
from pathlib import Path
from typing import Any, final

import msgspec

from compress.distillation import Distill, FineTune
from compress.factorization import FactorizeLinear
from compress.folding import FoldBatchNorm, FoldScale
from compress.graph_step import GraphStep
from compress.pruning import PruneChannels
from compress.quantization import QuantizeStatic
from compress.quantization.blocks import BlockWeights
from compress.quantization.half import ToHalf
from compress.quantization.post_training import PostTraining
from compress.simplify import Simplify
from compress.technique import Compressed, Data, Report, Technique
from hlserve.errors import CompressionError, ConfigError, SchemaVersionError
from hlserve.nn.network import Network

SCHEMA_VERSION = 2  # of recipe.lock
MADE_WITH = "made_with"  # its table of what went in, which a recipe has not

TECHNIQUES: tuple[type[Technique], ...] = (
    Distill,
    FactorizeLinear,
    FineTune,
    FoldBatchNorm,
    FoldScale,
    PruneChannels,
    QuantizeStatic,
)

GRAPH_STEPS: tuple[type[GraphStep], ...] = (
    BlockWeights,
    PostTraining,
    Simplify,
    ToHalf,
)


@final
@dataclass(frozen=True, slots=True)
class Recipe(Technique):
    """Techniques one after another; a technique itself, with a report row for every step.

    Attributes:
        steps: what is done to the network.
        endings: what is done to the file it is exported to; not a part of ``apply``, see
            ``compress.remake``.
    """

    steps: tuple[Technique, ...]
    endings: tuple[GraphStep, ...] = ()

    def transform(self, network: Network, data: Data) -> Compressed:
        """See Technique."""
        reports: list[Report] = []
        current = network.copy()
        for number, step in enumerate(self.steps, start=1):
            try:
                result = step.apply(current, data)
            except CompressionError as error:
                raise CompressionError(f"step {number} of {len(self.steps)}: {error}") from error
            current, reports = result.network, [*reports, *result.reports]
        return Compressed(current, tuple(reports))

    def to_toml(self) -> str:
        """The recipe as ``from_toml`` reads it."""
        every: tuple[Technique | GraphStep, ...] = (*self.steps, *self.endings)
        return "\n".join(
            table_to_toml("[[step]]", {"technique": type(step).__name__, **step.settings()})
            for step in every
        )

    @classmethod
    def from_toml(cls, text: str, *, name: str = "recipe") -> Recipe:
        """The recipe that a TOML text describes; a recipe.lock is one too.

        Raises:
            SchemaVersionError: a newer hlserve wrote the lock.
            ConfigError: no TOML, an unknown technique or setting, or a value out of range.
        """
        try:
            content = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(f"{name} is no TOML: {error}") from error
        unknown = sorted(content.keys() - {"step", MADE_WITH})
        if unknown:
            raise ConfigError(f"{name}: unknown key {unknown[0]!r}, expected tables [[step]]")
        _require_known_schema(name, content.get(MADE_WITH))
        steps = content.get("step", [])
        if not isinstance(steps, list) or not steps:
            raise ConfigError(f"{name}: no steps; write one or more tables [[step]]")
        found = [_step(f"{name}, step {n}", table) for n, table in enumerate(steps, start=1)]
        endings = tuple(step for step in found if isinstance(step, GraphStep))
        for n, step in enumerate(found[: len(found) - len(endings)], start=1):
            if isinstance(step, GraphStep):
                raise ConfigError(
                    f"{name}, step {n}: {type(step).__name__} works on the exported file; "
                    "techniques that work on the network come before it"
                )
        techniques = tuple(step for step in found if isinstance(step, Technique))
        return cls(techniques, endings)

    @classmethod
    def read(cls, path: Path) -> Recipe:
        """The recipe in a file.

        Raises:
            ConfigError: it cannot be read, or see ``from_toml``.
        """
        name = f"recipe {path}"
        return cls.from_toml(read_text(path, name=name), name=name)


def read_text(path: Path, *, name: str) -> str:
    """The text of a recipe or a lock.

    Raises:
        ConfigError: it cannot be read; calls it by ``name``.
    """
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{name} cannot be read: {error}") from error


def table_to_toml(header: str, content: Mapping[str, Any]) -> str:
    """One TOML table; what is None is left out."""
    lines = [f"{key} = {_toml(value)}" for key, value in content.items() if value is not None]
    return "\n".join([header, *lines]) + "\n"


# ----- below


def _require_known_schema(name: str, made_with: object) -> None:
    version = made_with.get("schema_version", 1) if isinstance(made_with, dict) else 1
    if not isinstance(version, int) or version > SCHEMA_VERSION:
        raise SchemaVersionError(
            f"{name} has schema version {version!r}, this hlserve reads up to {SCHEMA_VERSION}: "
            "upgrade hlserve"
        )


def _step(where: str, content: object) -> Technique | GraphStep:
    if not isinstance(content, dict) or not isinstance(content.get("technique"), str):
        raise ConfigError(f'{where}: expected a table with technique = "..."')
    known: dict[str, type[Technique] | type[GraphStep]] = {t.__name__: t for t in TECHNIQUES}
    known |= {step.__name__: step for step in GRAPH_STEPS}
    name = content["technique"]
    if name not in known:
        raise ConfigError(f"{where}: unknown technique {name!r}; there are {', '.join(known)}")
    settings = {key: value for key, value in content.items() if key != "technique"}
    allowed = [f.name for f in fields(known[name]) if f.init]  # type: ignore[arg-type]  # each is a dataclass
    unknown = sorted(settings.keys() - set(allowed))
    if unknown:
        expected = f"it takes {', '.join(allowed)}" if allowed else "it takes none"
        raise ConfigError(f"{where}: {name} has no setting {unknown[0]!r}; {expected}")
    try:
        return msgspec.convert(settings, type=known[name])
    except msgspec.ValidationError as error:
        raise ConfigError(f"{where}: {name}: {error}") from error


def _toml(value: Any) -> str:
    """A setting: text, number, truth, or a list or table of them."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        # A JSON string is a TOML basic string, but for one sign that TOML wants escaped.
        return msgspec.json.encode(value).decode().replace("\x7f", "\\u007f")
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{_toml(str(k))} = {_toml(v)}" for k, v in value.items()) + " }"
    if isinstance(value, Sequence):
        return f"[{', '.join(_toml(v) for v in value)}]"
    return repr(int(value)) if isinstance(value, Integral) else repr(float(value))
