"""The models that the soak serves, and what each must answer.

Six networks that differ in what a batcher can get wrong: two inputs, a variable length, rows that
fail, a fixed batch, a wide layer and a small one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from benchmarks.serving_networks import put, two_layers

Array = NDArray[Any]

FLOAT = TensorProto.FLOAT
RELOADED, COMES_AND_GOES = "mlp", "extra"


@dataclass(frozen=True, slots=True)
class Case:
    """One model: its inputs for so many rows, made from ``rng``."""

    name: str
    content: bytes
    max_rows: int

    def inputs(self, rng: np.random.Generator) -> dict[str, Array]:
        """Random rows that the model takes."""
        rows = int(rng.integers(1, self.max_rows + 1))
        if self.name == "lookup":
            return {"index": rng.integers(0, 16, size=rows).astype(np.int64)}
        if self.name == "two":
            shape = (rows, int(rng.integers(1, 5)))
            return {name: rng.standard_normal(shape, dtype=np.float32) for name in ("a", "b")}
        columns = {"mlp": 8, "extra": 8, "wide": 256, "fixed": 4}[self.name]
        return {"x": rng.standard_normal((rows, columns), dtype=np.float32)}


def cases() -> tuple[Case, ...]:
    """Every model."""
    return (
        Case(RELOADED, two_layers(8, 16, 10, seed=0), 4),
        Case(COMES_AND_GOES, two_layers(8, 32, 10, seed=1), 4),
        Case("wide", two_layers(256, 512, 10, seed=2), 8),
        Case("two", _two(), 4),
        Case("lookup", _lookup(), 4),
        Case("fixed", _fixed(), 1),
    )


def write(root: Path) -> None:
    """The repository ``root/models``."""
    for case in cases():
        put(root / "models", case.name, case.content)


def _model(
    nodes: list[onnx.NodeProto],
    inputs: Mapping[str, tuple[int, list[str | int]]],
    constants: Mapping[str, Array],
    columns: str | int,
) -> bytes:
    rows = next(iter(inputs.values()))[1][0]
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info(name, *kind) for name, kind in inputs.items()],
        [helper.make_tensor_value_info("y", FLOAT, [rows, columns])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return model.SerializeToString()


def _two() -> bytes:
    kind = (FLOAT, ["batch", "n"])
    return _model([helper.make_node("Sub", ["a", "b"], ["y"])], {"a": kind, "b": kind}, {}, "n")


def _lookup() -> bytes:
    table = np.arange(64, dtype=np.float32).reshape(16, 4)
    node = helper.make_node("Gather", ["table", "index"], ["y"])
    return _model([node], {"index": (TensorProto.INT64, ["batch"])}, {"table": table}, 4)


def _fixed() -> bytes:
    return _model([helper.make_node("Neg", ["x"], ["y"])], {"x": (FLOAT, [1, 4])}, {}, 4)
