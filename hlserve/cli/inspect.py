"""``hlserve inspect``: what was done to each layer of a published version, and why."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from hlserve.errors import RepositoryError, UsageError

if TYPE_CHECKING:
    from compress.inspection import GraphLayer, Making
    from compress.report.compression import CompressionReport, LayerState
    from hlserve.repository import Metadata


@click.command(name="inspect")
@click.argument("path", metavar="MODELS/NAME[/VERSION]", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def command(path: Path, as_json: bool) -> None:
    """Tell what a published version is made of: its steps, its layers, what it was measured at.

    Without a version it is the latest. A model that `hlserve compress` did not make is listed
    layer by layer. From recipe.lock come the recipe, the seed, the versions of the libraries, and
    whether this machine differs from the one that it was made on.

    \b
    Examples:
      hlserve inspect models/fashion
      hlserve inspect models/fashion/1 --json
    """  # noqa: D301 - click's mark for a block that keeps its lines
    from compress.inspection import graph_layers, report_of
    from hlserve.repository import read_metadata

    folder = _version_folder(path)
    metadata, found = read_metadata(folder), report_of(folder)
    making, refusal = _making(folder)
    if as_json:
        import msgspec

        content = found[1] if found else {"layers": graph_layers(folder)}
        made = None if making is None else making.described()
        click.echo(msgspec.json.encode(content | {"recipe_lock": made}).decode())
        return
    parts = [_heading(folder, metadata)]
    if found is not None:
        parts += [*_told(found[0], with_settings=making is None), ""]
    if found is not None and found[0].layers:
        parts.append(_layers_table(found[0]))
    else:
        parts.append(_graph_table(graph_layers(folder)))
    parts += ["", *(refusal if making is None else _made_with(making))]
    click.echo("\n".join(parts).rstrip())


def _version_folder(path: Path) -> Path:
    """The version's folder itself, or the latest of a model's.

    Raises:
        RepositoryError: it is neither; says what is there.
    """
    from hlserve.repository import MODEL_FILE, Repository, parse_version

    path = path.resolve()
    if parse_version(path.name) is not None and (path / MODEL_FILE).is_file():
        return path
    versions = Repository(path.parent).versions(path.name) if path.is_dir() else []
    if not versions:
        raise RepositoryError(_what_is_there(path))
    return path / str(versions[-1])


def _what_is_there(path: Path) -> str:
    """Why a path is no model, with what its neighbourhood offers."""
    from hlserve.repository import MODEL_FILE, Repository, parse_version

    is_version = parse_version(path.name) is not None
    if path.is_dir():
        here = Repository(path)
        models = [name for name in here.names() if here.versions(name)]
        if models:
            return f"{path} is a folder of models; name one of them: {', '.join(models)}"
        if is_version:
            return f"{path} holds no {MODEL_FILE}: it is no version of a model"
        return f"{path} holds no version; expected folders 1, 2, ... with a model"
    if is_version and path.parent.is_dir():
        there = Repository(path.parent.parent).versions(path.parent.name)
        if there:
            return f"{path.parent} has no version {path.name}; it has {', '.join(map(str, there))}"
    return f"{path} is no folder; name MODELS/NAME or MODELS/NAME/VERSION"


def _making(folder: Path) -> tuple[Making | None, list[str]]:
    """How the version was made, or a line that says why that is not known."""
    from compress.inspection import making_of

    try:
        making = making_of(folder)
    except UsageError as error:
        return None, [f"note: {error}"]
    return making, ["no recipe.lock: how it was made is not known"]


def _heading(folder: Path, metadata: Metadata | None) -> str:
    told = f"{folder.parent.name}, version {folder.name}"
    if metadata is None:
        return f"{told}: no metadata.json, so made elsewhere or by hand"
    source = (metadata.source or {}).get("file", "")
    made = f" from {source}" if source else ""
    return f"{told}: made{made} by {metadata.producer}, {metadata.created}"


def _told(report: CompressionReport, *, with_settings: bool) -> list[str]:
    from compress.report.verdict import short_form

    return [*short_form(report), "", _steps_table(report, with_settings=with_settings)]


def _steps_table(report: CompressionReport, *, with_settings: bool) -> str:
    """The settings, which the recipe of a lock tells too, come last: they are the widest."""
    from compress.report.steps import STEPS_HEAD, step_lines

    lines = [STEPS_HEAD, *step_lines(report)]
    head, *rows = [[line[0], *line[2:], *([line[1]] if with_settings else [])] for line in lines]
    return _table(rows, head)


def _layers_table(report: CompressionReport) -> str:
    rows = [
        [layer.name, layer.kind, _state(layer.before), _state(layer.after), layer.why]
        for layer in report.layers
    ]
    return _table(rows, ["layer", "kind", "before", "after", "why"])


def _state(state: LayerState | None) -> str:
    if state is None:
        return "-"
    shape = "x".join(map(str, state.shape))
    return f"{shape} {state.format}" if state.format else shape


def _graph_table(layers: tuple[GraphLayer, ...]) -> str:
    if not layers:
        return "no operator of the graph has weights"
    rows = [[g.name, g.operator, "x".join(map(str, g.shape)), g.number_format] for g in layers]
    return _table(rows, ["layer", "operator", "weight", "format"])


def _made_with(making: Making) -> list[str]:
    """The recipe with what went in, and whether a replay here would give the same bytes."""
    from compress.report.tables import settings_in_words

    made_of, then = making.lock.ingredients, making.lock.environment
    lines = [f"recipe       seed {made_of.seed}, data {made_of.data}, {made_of.trials} tried"]
    for number, step in enumerate(making.steps, start=1):
        told = f"{step['technique']} {settings_in_words(step['settings'])}"
        lines.append(f"             {number}. {told}".rstrip())
    lines += [
        f"made with    hlserve {then.hlserve}, Python {then.python}, NumPy {then.numpy}, "
        f"onnx {then.onnx}, ONNX Runtime {then.onnxruntime}",
        f"made on      {then.cpu} ({then.machine}), BLAS {then.blas}",
    ]
    if not making.differences:
        return [*lines, "here         the same: `hlserve replay` gives the same bytes"]
    lines.append("here         differs, so that the last bits of a replay may:")
    return lines + [f"             {difference}" for difference in making.differences]


def _table(rows: list[list[str]], headers: list[str]) -> str:
    from tabulate import tabulate

    return tabulate(rows, headers=headers, disable_numparse=True)
