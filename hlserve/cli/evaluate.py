"""``hlserve evaluate``: how good a model is on rows, whatever it is kept in."""

from __future__ import annotations

from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from hlserve.errors import ConfigError, DataError, ModelFileError

if TYPE_CHECKING:
    from hlserve.datasets import Rows


class Evaluation(msgspec.Struct, frozen=True, kw_only=True):
    """What the command says; ``--json`` prints it. The interval is at 95 %."""

    model: str
    data: str
    rows: int
    output: str
    metric: str
    value: float
    low: float | None
    high: float | None
    parameters: int
    size_bytes: int
    latency_s: dict[str, float]


@click.command(name="evaluate")
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--data", required=True, metavar="NAME|PATH", help="Rows with labels.")
@click.option("--target", metavar="NAME", help="Column or array that holds the labels.")
@click.option(
    "--split",
    type=click.Choice(["test", "train"]),
    help="Which rows of a set that has its own test rows.  [default: test]",
)
@click.option("--metric", help="As `hlserve compress` takes it.  [default: by the labels]")
@click.option("--output", help="Which output is judged.  [default: the class scores]")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(model: Path, data: str, target: str | None, as_json: bool, **options: Any) -> None:
    """Run MODEL on rows in ONNX Runtime and say how good and how fast it is.

    MODEL is a folder of the model repository (its latest version, or a version's own folder),
    an ONNX file, or a checkpoint of `hlserve train`. Texts, sounds, images and
    tables go through its own front end.

    \b
    Examples:
      hlserve evaluate models/fashion --data fashion-mini
      hlserve evaluate model.onnx --data rows.npz --json
      hlserve evaluate runs/price.safetensors --data houses.csv --target price
    """  # noqa: D301 - click's mark for a block that keeps its lines
    path = _file(model)
    rows = _rows(path, data, target, options["split"])
    found = _evaluate(path, data, rows, options["metric"], options["output"])
    click.echo(msgspec.json.encode(found).decode() if as_json else _as_text(found))


def _evaluate(
    path: Path, data: str, rows: Rows, metric_name: str | None, output: str | None
) -> Evaluation:
    from compress.evaluate import bind_rows, make_judge
    from compress.export import to_onnx
    from compress.job import read_model
    from compress.latency import batch_sizes, measure
    from compress.metric import metric_named
    from compress.model_file import parameter_count
    from compress.session import Session
    from hlserve.nn.network import Network

    metric = None if metric_name is None else metric_named(metric_name)
    source = read_model(path)
    graph = to_onnx(source) if isinstance(source, Network) else source
    content = graph.SerializeToString()
    session = Session(content, name=str(path))
    feeds = bind_rows(session, rows)
    judge = make_judge(graph, session, rows.y, metric=metric, output=output)
    if rows.y is None or not judge.metric.needs_labels:
        why = "have no labels" if rows.y is None else f"do not fit its outputs ({judge.note})"
        raise DataError(f"{data}: the rows {why}; name the labels with --target")
    answers = judge.answers(session, feeds)
    low, high = judge.interval(answers, rows.y)
    times = measure({"it": session}, feeds, batch_sizes(session, (1, 32)), budget_s=2.0)["it"]
    return Evaluation(
        model=str(path),
        data=data,
        rows=len(rows),
        output=judge.output,
        metric=judge.metric.name,
        value=judge.value(answers, rows.y),
        low=low if isfinite(low) else None,
        high=high if isfinite(high) else None,
        parameters=parameter_count(graph),
        size_bytes=len(content),
        latency_s={str(batch): latency.p50_s for batch, latency in times.items()},
    )


def _rows(path: Path, data: str, target: str | None, split: str | None) -> Rows:
    from hlserve.cli.model_rows import facts_of, load_for

    dataset = load_for(facts_of(path), data, target=target)
    if split == "test" and dataset.test is None:
        raise ConfigError(f"--split test: {data} has no test rows of its own")
    rows = dataset.train if split == "train" or dataset.test is None else dataset.test
    if len(rows) == 0:
        raise DataError(f"{data}: there are no rows to evaluate on")
    return rows


def _file(path: Path) -> Path:
    """The model file; of a repository's folder that of its latest version."""
    if not path.is_dir():
        return path
    from hlserve.repository import MODEL_FILE, Repository, parse_version

    if parse_version(path.name) is not None and (path / MODEL_FILE).is_file():
        return path / MODEL_FILE
    folder = path.resolve()
    repository = Repository(folder.parent)
    versions = repository.versions(folder.name) if folder.name in repository.names() else []
    if not versions:
        raise ModelFileError(f"{path} holds no version of a model, expected {path}/1/{MODEL_FILE}")
    return path / str(versions[-1]) / MODEL_FILE


def _as_text(found: Evaluation) -> str:
    is_share = found.metric in ("accuracy", "agreement", "f1", "roc_auc")
    unit, scale = (" %", 100) if is_share else ("", 1)
    value = f"{scale * found.value:.4g}{unit}"
    if found.low is not None and found.high is not None:
        value += f" (95 %: {scale * found.low:.4g} to {scale * found.high:.4g})"
    lines = [
        f"{found.metric:<12} {value} on {found.rows:,} rows, output {found.output!r}",
        f"parameters   {found.parameters:,}",
        f"file         {found.size_bytes:,} bytes as ONNX",
    ]
    lines += [
        f"latency      {1e6 * seconds:,.0f} us at batch {batch}"
        for batch, seconds in found.latency_s.items()
    ]
    return "\n".join(lines)
