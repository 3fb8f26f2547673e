"""What ``hlserve predict`` does: asks a server, and puts its answer in words."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hlserve.cli.connecting import Connecting
from hlserve.cli.prediction_input import fit_inputs, read_input
from hlserve.cli.prediction_items import is_array_file, read_items
from hlserve.client import InferenceClient, InferResult, ModelMetadata, frontend_of
from hlserve.errors import ConfigError, DataError
from hlserve.frontend import FrontEnd, item_kind

Array = NDArray[Any]

# How the exporter names the output that holds a probability a class.
_PROBABILITIES = "probabilities"
_MAX_VALUES_SHOWN = 10


@dataclass(frozen=True, slots=True)
class _Question:
    """What to ask: an array or arrays by name, and the true label where it is known."""

    values: Any
    true_label: str | None = None


def ask(
    address: str,
    model: str,
    version: str,
    *,
    source: str | None,
    data: str | None,
    row: int,
    target: str | None,
    top: int,
    timeout_s: float,
    as_json: bool,
    connecting: Connecting,
) -> list[str]:
    """The answer's lines; arguments as the command's options.

    Raises:
        ConfigError: neither or both of ``source`` and ``data``.
        DataError: the input cannot be read, or does not fit the model.
        ServerError: what the server answered.
    """
    if (source is None) == (data is None):
        raise ConfigError("give either --input or --data")
    with InferenceClient(address, timeout_s=timeout_s, **connecting) as client:
        facts = client.model_metadata(model, version)
        front_end = frontend_of(facts)
        if source is not None:
            question = _Question(input_values(source, front_end))
        else:
            question = _row_of(str(data), row, target, front_end)
        result = client.infer(model, fit_inputs(question.values, facts.inputs), version)
    labels = _class_labels(facts)
    if as_json:
        return [json.dumps(_as_json(result, labels, question, top), indent=2)]
    lines = [f"{result.model_name} version {result.model_version}"]
    lines += _lines(result, labels, facts, top)
    if question.true_label is not None:
        lines.append(f"true label: {question.true_label}")
    return lines


def input_values(source: str, front_end: FrontEnd | None) -> Any:
    """An array or arrays by name of what ``--input`` gave.

    Raises:
        DataError: it cannot be read, or the front end refuses it.
    """
    if front_end is None or is_array_file(source, item_kind(front_end)):
        return read_input(source, sys.stdin)
    return front_end.apply(read_items(source, front_end, sys.stdin))


def _row_of(data: str, row: int, target: str | None, front_end: FrontEnd | None) -> _Question:
    from hlserve.cli.model_rows import ModelFacts, load_for

    dataset = load_for(ModelFacts(front_end), data, target=target)
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
