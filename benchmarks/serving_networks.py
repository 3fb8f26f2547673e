"""The small network that the serving benchmarks serve, as a version of a repository."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def two_layers(
    columns: int, hidden: int, classes: int, *, seed: int = 0, input_name: str = "x"
) -> bytes:
    """A network of float32 rows: dense, ReLU, dense; its output is ``y``."""
    rng = np.random.default_rng(seed)
    weights = {
        "w1": rng.standard_normal((columns, hidden), dtype=np.float32) / columns**0.5,
        "w2": rng.standard_normal((hidden, classes), dtype=np.float32) / hidden**0.5,
    }
    nodes = [
        helper.make_node("MatMul", [input_name, "w1"], ["h"]),
        helper.make_node("Relu", ["h"], ["a"]),
        helper.make_node("MatMul", ["a", "w2"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "two_layers",
        [helper.make_tensor_value_info(input_name, TensorProto.FLOAT, ["batch", columns])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", classes])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    model: onnx.ModelProto = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10
    )
    return model.SerializeToString()


def put(models: Path, name: str, content: bytes) -> None:
    """Version 1 of a model, as a user would lay it there by hand."""
    folder = models / name / "1"
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(content)
