"""What a published version is made of, from its folder: its report, or the bare graph."""

from __future__ import annotations

import json
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import onnx

from compress.model_file import read_onnx
from compress.report.compression import SCHEMA_VERSION, CompressionReport, read_report
from compress.report.folder import DATA
from hlserve.errors import DataError, ModelFileError
from hlserve.repository import MODEL_FILE

REPORT = "report"


@dataclass(frozen=True, slots=True)
class GraphLayer:
    """An operator with weights.

    Attributes:
        name: of the node, or of its first output.
        operator: its type.
        shape: of its largest weight.
        number_format: of that weight in the file, such as ``FLOAT`` or ``INT8``.
    """

    name: str
    operator: str
    shape: tuple[int, ...]
    number_format: str


def graph_layers(folder: Path) -> tuple[GraphLayer, ...]:
    """The operators with weights of the model in a version's folder, in graph order.

    Raises:
        ModelFileError: there is no model, or it cannot be read.
    """
    graph = read_onnx(folder / MODEL_FILE).graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:  # a weight in integers stands behind what makes a float of it
        if node.op_type == "DequantizeLinear" and node.input[0] in weights:
            weights[node.output[0]] = weights[node.input[0]]
    found = []
    for node in graph.node:
        own = [weights[name] for name in node.input if name in weights]
        large = [tensor for tensor in own if len(tensor.dims) > 1]
        if large and node.op_type != "DequantizeLinear":
            tensor = max(large, key=lambda tensor: prod(tensor.dims))
            kind = onnx.TensorProto.DataType.Name(tensor.data_type)
            name = node.name or node.output[0]
            found.append(GraphLayer(name, node.op_type, tuple(tensor.dims), kind))
    return tuple(found)


def report_of(folder: Path) -> tuple[CompressionReport, dict[str, Any]] | None:
    """The compression report of a version, read and as it stands in the file; None without one.

    A report of an older version, which tells of no layers, counts as none.

    Raises:
        ModelFileError: it is damaged.
    """
    path = folder / REPORT / DATA
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_bytes())
        if not isinstance(content, dict):
            raise DataError("expected an object")
        if content.get("schema_version", 1) != SCHEMA_VERSION:
            return None
        return read_report(content), content
    except (OSError, ValueError, DataError) as error:
        raise ModelFileError(f"{path} cannot be read: {error}") from error
