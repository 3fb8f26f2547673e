"""What a published version is made of, from its folder: its report, its lock, the bare graph."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from typing import Any

import onnx

from compress.graph_step import GraphStep
from compress.lock import Environment, Lock
from compress.model_file import read_onnx
from compress.report.compression import SCHEMA_VERSION, CompressionReport, read_report
from compress.report.folder import DATA
from compress.report.schema_1 import upgraded
from compress.technique import Technique
from hlserve.errors import DataError, ModelFileError
from hlserve.repository import MODEL_FILE, RECIPE_FILE, REPORT_DIR


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

    Raises:
        ModelFileError: it is damaged, or a newer hlserve wrote it.
    """
    path = folder / REPORT_DIR / DATA
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_bytes())
        if not isinstance(content, dict):
            raise DataError("expected an object")
        version = content.get("schema_version", 1)
        if not isinstance(version, int) or version > SCHEMA_VERSION:
            raise DataError(
                f"schema version {version!r}, this hlserve reads up to {SCHEMA_VERSION}: "
                "upgrade hlserve"
            )
        return read_report(upgraded(content) if version == 1 else content), content
    except (OSError, ValueError, DataError) as error:
        raise ModelFileError(f"{path} cannot be read: {error}") from error


@dataclass(frozen=True, slots=True)
class Making:
    """How a version was made, from its recipe.lock.

    Attributes:
        lock: as it was read.
        differences: of this machine and its libraries to those that made the version; with none,
            a replay gives the same bytes.
    """

    lock: Lock
    differences: tuple[str, ...]

    @property
    def steps(self) -> list[dict[str, Any]]:
        """Technique and settings of each step of the recipe."""
        recipe = self.lock.recipe
        every: tuple[Technique | GraphStep, ...] = (*recipe.steps, *recipe.endings)
        return [{"technique": type(step).__name__, "settings": step.settings()} for step in every]

    def described(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return {
            "steps": self.steps,
            "environment": asdict(self.lock.environment),
            "ingredients": asdict(self.lock.ingredients),
            "differences": list(self.differences),
        }


def making_of(folder: Path) -> Making | None:
    """The lock of a version, compared with this machine; None without one.

    Raises:
        ConfigError, SchemaVersionError: see ``Lock.read``.
    """
    path = folder / RECIPE_FILE
    if not path.is_file():
        return None
    lock = Lock.read(path)
    return Making(lock, tuple(lock.environment.differences(Environment.here())))
