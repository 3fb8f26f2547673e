"""What an interrupted training needs to go on bit-equal: one file, safetensors with JSON.

Tensors: ``value``, ``statistics``, ``best.value``, ``best.statistics``, ``best.rank``,
``optimizer.<name>`` and ``schedule.<name>``. The header's metadata holds a ``Progress`` under the
key ``hlserve_training``.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import msgspec
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as to_safetensors

from hlserve import __version__
from hlserve.errors import ConfigError, ModelFileError, SchemaVersionError
from hlserve.nn.atomic_file import write_atomically
from hlserve.nn.history import History
from hlserve.nn.network import Network
from hlserve.nn.param import Array

SCHEMA_VERSION = 1
METADATA_KEY = "hlserve_training"


@runtime_checkable
class AdaptiveSchedule(Protocol):
    """A schedule that looks at the loss, such as ``schedules.Plateau``."""

    def observe(self, loss: float) -> None:
        """Takes the validation loss of an epoch, or the training loss without validation."""

    def state(self) -> dict[str, Array]:
        """All that the next steps depend on."""

    def load_state(self, state: Mapping[str, Array]) -> None:
        """Goes on from what ``state`` gave."""


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """Where a run stands, all that is not a tensor.

    Attributes:
        fingerprint: what the run was asked for; see ``fingerprint``.
        epoch: the current one, from 1.
        epoch_step: steps of it that were made.
        step: steps of the run that were made.
        loss_sum, weight_sum: over the rows of the epoch so far.
        seconds: of the epoch so far.
        shuffling: the generator's state at the epoch's start; all three as JSON text, because
            they hold integers of 128 bits.
        augmenting: the generator's state now.
        dropping: that of every shard's generator now.
        best_epoch: its number, or None.
    """

    schema_version: int = SCHEMA_VERSION
    hlserve_version: str = __version__
    fingerprint: dict[str, str]
    epoch: int
    epoch_step: int
    step: int
    loss_sum: float
    weight_sum: float
    seconds: float
    shuffling: str
    augmenting: str
    dropping: tuple[str, ...]
    best_epoch: int | None
    history: History


def require_writable(path: Path) -> None:
    """Finds out before the work that a state can be written there; leaves nothing behind.

    Raises:
        ModelFileError: it cannot.
    """
    try:
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise ModelFileError(
            f"training state {path}: cannot be written there: {error.strerror}; make the folder "
            "first, or name another"
        ) from error


def write_state(path: Path, progress: Progress, tensors: Mapping[str, Array]) -> None:
    """Writes the state; a reader sees the old file or the whole new one.

    Raises:
        ModelFileError: the file cannot be written.
    """
    text = msgspec.json.encode(progress).decode()
    try:
        write_atomically(path, to_safetensors(dict(tensors), metadata={METADATA_KEY: text}))
    except OSError as error:
        raise ModelFileError(
            f"training state {path}: cannot be written: {error.strerror}"
        ) from error


def read_state(path: Path) -> tuple[Progress, dict[str, Array]]:
    """What ``write_state`` wrote.

    Raises:
        ModelFileError: there is no such file, or it is something else.
        SchemaVersionError: a newer hlserve wrote it.
    """
    if not path.is_file():
        raise ModelFileError(
            f"training state {path}: there is no such file, so there is nothing to resume; "
            "only an interrupted training leaves one"
        )
    try:
        with safe_open(path, framework="numpy") as file:
            text = (file.metadata() or {}).get(METADATA_KEY, "")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # safetensors' own
    except (SafetensorError, OSError, TypeError, AttributeError) as error:
        # The last two are what safetensors raises for types that NumPy does not have.
        raise ModelFileError(f"training state {path}: not a whole file: {error}") from error
    try:
        version = msgspec.json.decode(text, type=_Version).schema_version
        if version > SCHEMA_VERSION:
            raise SchemaVersionError(
                f"training state {path}: schema_version is {version}, this hlserve {__version__} "
                f"reads up to {SCHEMA_VERSION}; upgrade hlserve"
            )
        return msgspec.json.decode(text, type=Progress), tensors
    except msgspec.MsgspecError as error:
        raise ModelFileError(f"training state {path}: {error}") from error


class _Version(msgspec.Struct, frozen=True):
    schema_version: int


def prefixed(prefix: str, arrays: Mapping[str, Array]) -> dict[str, Array]:
    """The arrays under ``<prefix>.<name>``."""
    return {f"{prefix}.{name}": array for name, array in arrays.items()}


def without_prefix(prefix: str, tensors: Mapping[str, Array]) -> dict[str, Array]:
    """The arrays that stand under ``<prefix>.<name>``, by name."""
    start = f"{prefix}."
    return {n.removeprefix(start): a for n, a in tensors.items() if n.startswith(start)}


def generator_state(rng: np.random.Generator) -> str:
    """The generator's state as JSON text."""
    return json.dumps(rng.bit_generator.state)


def set_generator_state(rng: np.random.Generator, text: str) -> None:
    """Puts the generator where ``generator_state`` saw it.

    Raises:
        ModelFileError: the text is no state of this kind of generator.
    """
    try:
        rng.bit_generator.state = json.loads(text)
    except (KeyError, TypeError, ValueError) as error:
        raise ModelFileError(f"training state: a generator's state is damaged: {error}") from error


# ----- whether it is the same run


def require_same_run(path: Path, found: Mapping[str, str], wanted: Mapping[str, str]) -> None:
    """Refuses to go on with another run's state.

    Raises:
        ConfigError: names what differs.
    """
    for name in {**wanted, **found}:
        was, now = found.get(name, "nothing"), wanted.get(name, "nothing")
        if was != now:
            raise ConfigError(
                f"training state {path}: this is another run: {name} then: {was}; now: {now}; "
                "resume with the same arguments, or begin anew without resuming"
            )


def told(value: Any) -> str:
    """What a setting is, in words that stay the same from process to process.

    Objects tell their class and public attributes; what starts with an underscore is state.
    """
    if isinstance(value, np.ndarray):
        return f"array {value.shape} {value.dtype} {digest([value])}"
    if isinstance(value, str | int | float | bool | None | np.generic | Path):
        return str(value)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{k}: {told(v)}" for k, v in value.items()) + "}"
    if isinstance(value, Sequence):
        return "[" + ", ".join(told(v) for v in value) + "]"
    if isinstance(value, type) or (callable(value) and hasattr(value, "__qualname__")):
        return f"{value.__module__}.{value.__qualname__}"
    if dataclasses.is_dataclass(value):
        public = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    else:
        public = dict(getattr(value, "__dict__", {}))
    shown = (f"{n}={told(v)}" for n, v in public.items() if not n.startswith("_"))
    return f"{type(value).__name__}({', '.join(shown)})"


def told_network(network: Network) -> str:
    """The network's layers and masks, not its values."""
    lines = [
        f"{n.name}: {type(n.layer).__name__}{n.layer.config()}{n.inputs}" for n in network.nodes
    ]
    masks = [p.mask for p in network.params().values() if p.mask is not None]
    text = "\n".join([str(network.inputs), *lines, str(network.outputs), str(network.dtype)])
    layers = hashlib.sha256(text.encode()).hexdigest()[:12]
    return f"{len(lines)} layers, {network.n_parameters} parameters, {layers}-{digest(masks)}"


def told_rows(n_rows: int, sample: Mapping[str, Array]) -> str:
    """How many rows there are, and what some of them hold."""
    shapes = ", ".join(f"{name} {array.shape[1:]} {array.dtype}" for name, array in sample.items())
    return f"{n_rows} rows of {shapes}, {digest(sample.values())}"


def digest(arrays: Any) -> str:
    """The first 12 digits of the SHA-256 of the arrays' bytes, one after the other."""
    content = hashlib.sha256()
    for array in arrays:
        content.update(np.ascontiguousarray(array).view(np.uint8).data if array.size else b"")
    return content.hexdigest()[:12]
