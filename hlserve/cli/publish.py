"""``hlserve publish``: an ONNX file or a checkpoint into the repository, as it is."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from numpy.typing import NDArray

from hlserve import __version__
from hlserve.cli.model_rows import ModelFacts, facts_of
from hlserve.errors import ConfigError, HlserveError, ModelFileError
from hlserve.frontend import from_json, to_json
from hlserve.repository import Metadata, TensorSpec, publish

if TYPE_CHECKING:
    from hlserve.serving.session import Session, TensorInfo

Array = NDArray[Any]


@click.command(name="publish")
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, help="The model's folder: ROOT/NAME."
)
@click.option(
    "--class-labels",
    type=click.Path(path_type=Path),
    help="A text file, one label a line in the order of the classes.",
)
@click.option(
    "--frontend",
    type=click.Path(path_type=Path),
    help="JSON of what makes the inputs of texts, images or others. A checkpoint has its own.",
)
def command(model: Path, out: Path, class_labels: Path | None, frontend: Path | None) -> None:
    """Publish MODEL, an ONNX file or a checkpoint, unchanged as the next version at --out.

    It is loaded and run once first, and what it answered is kept as a golden sample, which the
    server replays before it takes requests.

    \b
    Examples:
      hlserve publish model.onnx --out models/mine
      hlserve publish model.onnx --out models/mine --class-labels labels.txt
      hlserve publish runs/sentiment.safetensors --out models/sentiment
    """  # noqa: D301 - click's mark for a block that keeps its lines
    source = _source(model)
    facts = _facts(model, class_labels, frontend)
    labels = facts.class_labels
    try:
        session, golden = _checked(source.content)
    except HlserveError as error:
        raise ModelFileError(f"{model} is not published: {error}") from error
    _check_labels(labels, session)
    metadata = Metadata(
        inputs=tuple(_spec(tensor, source.units) for tensor in session.inputs),
        outputs=tuple(_spec(tensor, source.units) for tensor in session.outputs),
        task=source.task if labels is None else "classification",
        class_labels=labels,
        producer=f"hlserve {__version__}",
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        sha256=hashlib.sha256(source.content).hexdigest(),
        source={"file": model.name},
        frontend=None if facts.frontend is None else to_json(facts.frontend),
    )
    version = publish(out, model=source.content, metadata=metadata, golden=golden)
    click.echo(f"published {out / str(version)}")


@dataclass(frozen=True, slots=True)
class _Source:
    """The ONNX file, and what only a checkpoint says of it."""

    content: bytes
    task: str | None = None
    units: Mapping[str, str] = field(default_factory=dict)


def _source(model: Path) -> _Source:
    if model.suffix != ".safetensors":
        return _Source(_read(model))
    from compress.export import to_onnx
    from hlserve.nn import checkpoint

    network = checkpoint.load(model)
    units = {entry.name: entry.units for entry in network.inputs if entry.units}
    return _Source(to_onnx(network).SerializeToString(), network.task, units)


def _facts(model: Path, class_labels: Path | None, frontend: Path | None) -> ModelFacts:
    """What the options say, else what the checkpoint does."""
    own = facts_of(model) if model.suffix == ".safetensors" else ModelFacts()
    return ModelFacts(
        own.frontend if frontend is None else from_json(_read(frontend), where=str(frontend)),
        own.class_labels if class_labels is None else _read_labels(class_labels),
    )


def _checked(content: bytes) -> tuple[Session, dict[str, Array] | None]:
    """The session, and the golden sample; None where the model answers differently each time."""
    from hlserve.serving.batchability import first_sample_that_runs
    from hlserve.serving.session import Session

    session = Session(content)
    inputs = first_sample_that_runs(session)
    names = [tensor.name for tensor in session.outputs]
    first, second = session.run(inputs, names), session.run(inputs, names)
    arrays = {f"input:{name}": array for name, array in inputs.items()}
    arrays |= {f"output:{name}": array for name, array in first.items()}
    is_repeatable = all(first[name].tobytes() == second[name].tobytes() for name in names)
    is_numeric = all(array.dtype.kind != "O" for array in arrays.values())
    return session, arrays if is_repeatable and is_numeric else None


def _check_labels(labels: tuple[str, ...] | None, session: Session) -> None:
    widths = {tensor.name: tensor.shape[-1] for tensor in session.outputs if tensor.shape}
    if labels is not None and not {len(labels), -1} & set(widths.values()):
        raise ConfigError(f"{len(labels)} class labels came for outputs of the widths {widths}")


def _spec(tensor: TensorInfo, units: Mapping[str, str]) -> TensorSpec:
    return TensorSpec(tensor.name, tensor.datatype.name, tensor.shape, units.get(tensor.name))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ModelFileError(f"cannot read {path}: {error.strerror}") from error


def _read_labels(path: Path) -> tuple[str, ...]:
    try:
        labels = tuple(line.strip() for line in path.read_text().splitlines())
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the class labels in {path}: {error}") from error
    if not labels or not all(labels):
        raise ConfigError(f"{path} holds an empty class label, expected one a line")
    return labels
