"""Small ONNX models for the serving tests, and repositories made of them."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Array = NDArray[Any]

ONNX_TYPES = {
    "BOOL": TensorProto.BOOL,
    "UINT8": TensorProto.UINT8,
    "UINT16": TensorProto.UINT16,
    "UINT32": TensorProto.UINT32,
    "UINT64": TensorProto.UINT64,
    "INT8": TensorProto.INT8,
    "INT16": TensorProto.INT16,
    "INT32": TensorProto.INT32,
    "INT64": TensorProto.INT64,
    "FP16": TensorProto.FLOAT16,
    "BF16": TensorProto.BFLOAT16,
    "FP32": TensorProto.FLOAT,
    "FP64": TensorProto.DOUBLE,
    "BYTES": TensorProto.STRING,
}

Shape = Sequence[int | str | None]


def model_bytes(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, tuple[int, Shape]],
    outputs: Mapping[str, tuple[int, Shape]],
    initializers: Mapping[str, Array] | None = None,
    domains: Sequence[str] = (),
) -> bytes:
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info(name, *kind) for name, kind in inputs.items()],
        [helper.make_tensor_value_info(name, *kind) for name, kind in outputs.items()],
        [numpy_helper.from_array(a, name) for name, a in (initializers or {}).items()],
    )
    opsets = [helper.make_opsetid("", 21), *(helper.make_opsetid(d, 1) for d in domains)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    return model.SerializeToString()


def identity(datatype: str) -> bytes:
    kind = (ONNX_TYPES[datatype], ["batch", "n"])
    return model_bytes([helper.make_node("Identity", ["x"], ["y"])], {"x": kind}, {"y": kind})


def mlp(seed: int = 0, inputs: int = 8, hidden: int = 16, classes: int = 3) -> bytes:
    rng = np.random.default_rng(seed)
    weights = {
        "w1": rng.standard_normal((inputs, hidden)).astype(np.float32),
        "w2": rng.standard_normal((hidden, classes)).astype(np.float32),
    }
    nodes = [
        helper.make_node("MatMul", ["input", "w1"], ["h"]),
        helper.make_node("Relu", ["h"], ["a"]),
        helper.make_node("MatMul", ["a", "w2"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=-1),
    ]
    return model_bytes(
        nodes,
        {"input": (TensorProto.FLOAT, ["batch", inputs])},
        {
            "probabilities": (TensorProto.FLOAT, ["batch", classes]),
            "logits": (TensorProto.FLOAT, ["batch", classes]),
        },
        weights,
    )


def add_and_subtract() -> bytes:
    kind = (TensorProto.FLOAT, ["batch", "n"])
    nodes = [
        helper.make_node("Add", ["a", "b"], ["sum"]),
        helper.make_node("Sub", ["a", "b"], ["difference"]),
    ]
    return model_bytes(nodes, {"a": kind, "b": kind}, {"sum": kind, "difference": kind})


def lookup(rows: int = 4) -> bytes:
    """Fails for the rows whose index is out of the table: a bad row among good ones."""
    table = np.arange(rows * 2, dtype=np.float32).reshape(rows, 2)
    return model_bytes(
        [helper.make_node("Gather", ["table", "index"], ["y"])],
        {"index": (TensorProto.INT64, ["batch"])},
        {"y": (TensorProto.FLOAT, ["batch", 2])},
        {"table": table},
    )


def minus_batch_mean() -> bytes:
    kind = (TensorProto.FLOAT, ["batch", 4])
    nodes = [
        helper.make_node("ReduceMean", ["x", "axes"], ["mean"], keepdims=1),
        helper.make_node("Sub", ["x", "mean"], ["y"]),
    ]
    return model_bytes(nodes, {"x": kind}, {"y": kind}, {"axes": np.array([0], np.int64)})


def time_major() -> bytes:
    return model_bytes(
        [helper.make_node("Transpose", ["x"], ["y"], perm=[1, 0, 2])],
        {"x": (TensorProto.FLOAT, ["batch", "time", 2])},
        {"y": (TensorProto.FLOAT, ["time", "batch", 2])},
    )


def row_count() -> bytes:
    """An output of shape (1,) that says how many rows there were."""
    nodes = [helper.make_node("Shape", ["x"], ["y"], end=1)]
    return model_bytes(
        nodes, {"x": (TensorProto.FLOAT, ["batch", 2])}, {"y": (TensorProto.INT64, ["n"])}
    )


def fixed_batch() -> bytes:
    kind = (TensorProto.FLOAT, [1, 4])
    return model_bytes([helper.make_node("Neg", ["x"], ["y"])], {"x": kind}, {"y": kind})


def dynamic_quantization() -> bytes:
    """One scale over all rows: a row's answer depends on the rows beside it."""
    kind = (TensorProto.FLOAT, ["batch", 4])
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "scale", "zero"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["y"]),
    ]
    return model_bytes(nodes, {"x": kind}, {"y": kind})


def slow(size: int = 256) -> bytes:
    """As long as its input ``steps`` says: a loop of matrix products, about 10 us a step."""
    w = np.eye(size, dtype=np.float32)
    body = helper.make_graph(
        [
            helper.make_node("MatMul", ["state", "w"], ["next"]),
            helper.make_node("Identity", ["go"], ["go_on"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("step", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, None),
        ],
    )
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["start"]),
        helper.make_node("Loop", ["steps", "", "start"], ["y"], body=body),
    ]
    kind = (TensorProto.FLOAT, ["batch", size])
    steps = (TensorProto.INT64, [])
    return model_bytes(nodes, {"x": kind, "steps": steps}, {"y": kind}, {"w": w})


def slow_inputs(steps: int, size: int = 256) -> dict[str, Array]:
    return {"x": np.ones((8, size), np.float32), "steps": np.array(steps, np.int64)}


def put(
    root: Path,
    name: str,
    model: bytes,
    *,
    version: int = 1,
    config: Mapping[str, Any] | None = None,
) -> Path:
    """Writes a version as a user would by hand: no metadata."""
    folder = root / name / str(version)
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(model)
    if config is not None:
        (root / name / "config.json").write_text(json.dumps(config))
    return folder


def unknown_operator() -> bytes:
    kind = (TensorProto.FLOAT, ["batch", 4])
    node = helper.make_node("Mystery", ["x"], ["y"], domain="elsewhere")
    return model_bytes([node], {"x": kind}, {"y": kind}, domains=["elsewhere"])


def external_data(location: str, size: int = 4096) -> bytes:
    """Adds a tensor that lies in another file: ``size`` float32."""
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[size])
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", str(4 * size))):
        tensor.external_data.add(key=key, value=value)
    kind = (TensorProto.FLOAT, ["batch", size])
    model = onnx.load_from_string(
        model_bytes([helper.make_node("Add", ["x", "w"], ["y"])], {"x": kind}, {"y": kind})
    )
    model.graph.initializer.append(tensor)
    return model.SerializeToString()


def no_inputs() -> bytes:
    node = helper.make_node("Identity", ["c"], ["y"])
    constant = {"c": np.ones((1, 2), np.float32)}
    return model_bytes([node], {}, {"y": (TensorProto.FLOAT, [1, 2])}, constant)


def needs_five_columns() -> bytes:
    """Declares any number of columns and runs with five only."""
    return model_bytes(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        {"x": (TensorProto.FLOAT, ["batch", "n"])},
        {"y": (TensorProto.FLOAT, ["batch", 2])},
        {"w": np.ones((5, 2), np.float32)},
    )


def float8() -> bytes:
    kind = (TensorProto.FLOAT8E4M3FN, ["batch"])
    return model_bytes([helper.make_node("Identity", ["x"], ["y"])], {"x": kind}, {"y": kind})
