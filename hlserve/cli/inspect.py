"""``hlserve inspect``: what was done to each layer of a published version, and why."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hlserve.errors import RepositoryError

if TYPE_CHECKING:
    from compress.inspection import GraphLayer
    from compress.report.compression import CompressionReport, LayerState
    from hlserve.repository import Metadata


@click.command(name="inspect")
@click.argument("path", metavar="MODELS/NAME[/VERSION]", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def command(path: Path, as_json: bool) -> None:
    """Tell what a published version is made of: its steps, its layers, what it was measured at.

    Without a version it is the latest. A model that `hlserve compress` did not make is listed
    layer by layer.

    \b
    Examples:
      hlserve inspect models/fashion
      hlserve inspect models/fashion/1 --json
    """  # noqa: D301 - click's mark for a block that keeps its lines
    from compress.inspection import graph_layers, report_of
    from hlserve.repository import read_metadata

    folder = _version_folder(path)
    metadata, found = read_metadata(folder), report_of(folder)
    if as_json:
        import msgspec

        content = found[1] if found else {"layers": graph_layers(folder)}
        click.echo(msgspec.json.encode(content).decode())
        return
    click.echo(_heading(folder, metadata))
    if found is None:
        click.echo(_graph_table(graph_layers(folder)))
        return
    click.echo(_told(found[0]))


def _version_folder(path: Path) -> Path:
    """The version's folder itself, or the latest of a model's.

    Raises:
        RepositoryError: it is neither.
    """
    from hlserve.repository import MODEL_FILE, Repository, parse_version

    if not path.is_dir():
        raise RepositoryError(f"{path} is no folder; name MODELS/NAME or MODELS/NAME/VERSION")
    path = path.resolve()
    if parse_version(path.name) is not None and (path / MODEL_FILE).is_file():
        return path
    versions = Repository(path.parent).versions(path.name)
    if not versions:
        raise RepositoryError(f"{path} holds no version; expected folders 1, 2, ... with a model")
    return path / str(versions[-1])


def _heading(folder: Path, metadata: Metadata | None) -> str:
    told = f"{folder.parent.name}, version {folder.name}"
    if metadata is None:
        return f"{told}: without metadata, made elsewhere"
    source = (metadata.source or {}).get("file", "")
    made = f" from {source}" if source else ""
    return f"{told}: made{made} by {metadata.producer}, {metadata.created}"


def _told(report: CompressionReport) -> str:
    from compress.report.verdict import short_form

    return "\n".join([*short_form(report), "", _steps_table(report), "", _layers_table(report)])


def _steps_table(report: CompressionReport) -> str:
    from compress.report.wording import count, size

    rows = [["original", *_sizes(report.original, count, size)]]
    steps = report.best.steps if report.best is not None else ()
    rows += [[step.technique, *_sizes(step, count, size)] for step in steps]
    return _table(rows, ["step", "parameters", "MACs", "file"])


def _sizes(row: Any, count: Any, size: Any) -> list[str]:
    return [count(row.parameters), count(row.macs), size(row.size_bytes)]


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
    rows = [[g.name, g.operator, "x".join(map(str, g.shape)), g.number_format] for g in layers]
    return _table(rows, ["layer", "operator", "weight", "format"])


def _table(rows: list[list[str]], headers: list[str]) -> str:
    from tabulate import tabulate

    return tabulate(rows, headers=headers, disable_numparse=True)
