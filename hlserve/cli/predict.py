"""``hlserve predict``: one input to a running server, its answer in words."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from hlserve.cli.prediction_input import fit_inputs, read_input
from hlserve.client import InferenceClient, InferResult, ModelMetadata
from hlserve.errors import ConfigError, DataError

Array = NDArray[Any]

# How the exporter names the output that holds a probability a class.
_PROBABILITIES = "probabilities"
_MAX_VALUES_SHOWN = 10


@dataclass(frozen=True, slots=True)
class _Question:
    """What to ask: an array or arrays by name, and the true label where it is known."""

    values: Any
    true_label: str | None = None


@click.command(name="predict")
@click.argument("address")
@click.argument("model")
@click.option("--input", "source", help="A .png, .csv, .json, .npy or .npz file; - is stdin.")
@click.option("--data", help="A data set by name or path, in place of --input.")
@click.option("--row", type=click.IntRange(0), default=0, help="Which of its (test) rows.")
@click.option("--target", help="Its label column or array, where not y.")
@click.option("--version", default="", help="The model's version; without one, the latest.")
@click.option("--top", type=click.IntRange(1), default=3, show_default=True, help="Classes shown.")
@click.option("--timeout-s", type=click.FloatRange(0), default=60.0, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with all outputs.")
def command(address: str, model: str, version: str, as_json: bool, **options: Any) -> None:
    """Ask the server at ADDRESS what MODEL says to an input.

    An image must have the size that the model takes; nothing is resized.

    \b
    Examples:
      hlserve predict localhost:8001 fashion --input shoe.png
      hlserve predict localhost:8001 fashion --data fashion-mini --row 0
      echo '[[5.1, 3.5, 1.4, 0.2]]' | hlserve predict localhost:8001 iris --input - --json
    """  # noqa: D301 - click's mark for a block that keeps its lines
    question = _question(options["source"], options["data"], options["row"], options["target"])
    with InferenceClient(address, timeout_s=options["timeout_s"]) as client:
        facts = client.model_metadata(model, version)
        result = client.infer(model, fit_inputs(question.values, facts.inputs), version)
    labels = _class_labels(facts)
    if as_json:
        click.echo(json.dumps(_as_json(result, labels, question, options["top"]), indent=2))
        return
    click.echo(f"{result.model_name} version {result.model_version}")
    for line in _lines(result, labels, facts, options["top"]):
        click.echo(line)
    if question.true_label is not None:
        click.echo(f"true label: {question.true_label}")


def _question(source: str | None, data: str | None, row: int, target: str | None) -> _Question:
    if (source is None) == (data is None):
        raise ConfigError("give either --input or --data")
    if source is not None:
        return _Question(read_input(source, sys.stdin))
    from hlserve.datasets import load

    dataset = load(str(data), target=target)
    rows = dataset.train if dataset.test is None else dataset.test
    if row >= len(rows):
        raise DataError(f"{data} has {len(rows)} rows, row {row} is not among them")
    picked = rows.take(slice(row, row + 1))
    values = {name: np.asarray(array) for name, array in picked.inputs.items()}
    return _Question(values, _true_label(picked.y, dataset.class_labels))


def _true_label(y: Array | None, labels: Sequence[str] | None) -> str | None:
    if y is None:
        return None
    value = y[0].item() if y[0].ndim == 0 else y[0].tolist()
    return labels[value] if labels is not None and isinstance(value, int) else str(value)


def _class_labels(facts: ModelMetadata) -> list[str] | None:
    text = facts.properties.get("class_labels")
    return None if text is None else [str(label) for label in json.loads(text)]


def _probabilities(result: InferResult, labels: Sequence[str] | None) -> Array | None:
    """The output that holds a value a class: (rows, classes); None if there is none."""
    outputs = result.outputs
    named = outputs.get(_PROBABILITIES)
    candidates = [named] if named is not None else list(outputs.values()) if labels else []
    for array in candidates:
        is_table = array.ndim == 2 and array.dtype.kind == "f"
        if is_table and (labels is None or array.shape[1] == len(labels)):
            return array
    return None


def _top(row: Array, labels: Sequence[str] | None, count: int) -> list[tuple[str, float]]:
    order = np.argsort(-row, kind="stable")[:count].tolist()
    return [(labels[i] if labels else f"class {i}", float(row[i])) for i in order]


def _lines(
    result: InferResult, labels: Sequence[str] | None, facts: ModelMetadata, count: int
) -> list[str]:
    probabilities = _probabilities(result, labels)
    if probabilities is None:
        units = json.loads(facts.properties.get("units", "{}"))
        return [_shown(name, array, units.get(name)) for name, array in result.outputs.items()]
    is_share = result.outputs.get(_PROBABILITIES) is probabilities
    lines = []
    for number, row in enumerate(probabilities):
        if len(probabilities) > 1:
            lines.append(f"row {number}")
        for label, value in _top(row, labels, count):
            lines.append(f"  {label:<20} {f'{value:.1%}' if is_share else f'{value:.4g}':>8}")
    return lines


def _shown(name: str, array: Array, units: str | None) -> str:
    values = array.ravel()[:_MAX_VALUES_SHOWN].tolist()
    shown = ", ".join(_shown_value(value) for value in values)
    more = ", ..." if array.size > _MAX_VALUES_SHOWN else ""
    suffix = f" {units}" if units else ""
    return f"  {name} {list(array.shape)}: {shown}{more}{suffix}"


def _shown_value(value: object) -> str:
    if isinstance(value, bytes):
        return repr(value.decode(errors="replace"))
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _as_json(
    result: InferResult, labels: Sequence[str] | None, question: _Question, count: int
) -> dict[str, Any]:
    content: dict[str, Any] = {
        "model": result.model_name,
        "version": result.model_version,
        "outputs": {name: _plain(array) for name, array in result.outputs.items()},
    }
    probabilities = _probabilities(result, labels)
    if probabilities is not None:
        content["top"] = [
            [{"label": label, "value": value} for label, value in _top(row, labels, count)]
            for row in probabilities
        ]
    if question.true_label is not None:
        content["true_label"] = question.true_label
    return content


def _plain(array: Array) -> Any:
    if array.dtype.kind != "O":
        return array.tolist()
    return (
        np.array([value.decode(errors="replace") for value in array.ravel()], dtype=object)
        .reshape(array.shape)
        .tolist()
    )
