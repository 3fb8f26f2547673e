"""What this machine makes fast: measured, not guessed from a table.

Small models are built, run in turns and compared: a product and a convolution in floats and in
three kinds of 8-bit integers, and a model that does nothing, whose time is the floor of a call.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from compress.latency import Latency, batch_sizes, measure
from compress.machine import cores, processor
from compress.session import Session, optimized_operators, runtime
from hlserve.errors import DataError
from hlserve.nn.param import Array

OPSET, IR_VERSION = 21, 10
BUDGET_S = 1.5  # of measuring one set of models
FLOATS = "float32"
FORMATS = {  # activations, weights
    "U8S8": (TensorProto.UINT8, TensorProto.INT8),
    "U8U8": (TensorProto.UINT8, TensorProto.UINT8),
    "S8S8": (TensorProto.INT8, TensorProto.INT8),
}
DIMENSION = 8  # that a free dimension other than the batch gets
_UNFUSED = ("QuantizeLinear", "DequantizeLinear")
_INTEGERS = ("QGemm", "QLinear", "Integer", "DynamicQuantize", "NBits")


@dataclass(frozen=True, slots=True)
class Machine:
    """This machine.

    Attributes:
        cpu, flags: the processor, and what it can do that decides formats.
        usable_cores: that this process may use.
        onnxruntime, providers: the installed runtime.
        floor_s: the median of a call that computes nothing, seconds.
        gains: for a product and a convolution, how many times as fast as floats each 8-bit
            format is; below 1 it is slower.
    """

    cpu: str
    flags: tuple[str, ...]
    usable_cores: int
    onnxruntime: str
    providers: tuple[str, ...]
    floor_s: float
    gains: dict[str, dict[str, float]]

    def described(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class ModelFindings:
    """A model on this machine.

    Attributes:
        latency: by threads, then by batch size.
        operators: how many of each stand in the graph that ONNX Runtime really runs.
        advice: in plain words.
    """

    latency: dict[int, dict[int, Latency]]
    operators: dict[str, int]
    advice: tuple[str, ...]

    def described(self) -> dict[str, Any]:
        """As JSON can hold it, latencies in seconds."""
        latency = {
            str(threads): {str(b): {"p50": t.p50_s, "p95": t.p95_s} for b, t in found.items()}
            for threads, found in self.latency.items()
        }
        return {"latency_s": latency, "operators": self.operators, "advice": list(self.advice)}


def examine_machine() -> Machine:
    """The machine, with what was measured on it in some seconds."""
    cpu, (version, providers) = processor(), runtime()
    floor = _medians({"nothing": _nothing()})["nothing"]
    gains = {}
    for kind in ("Gemm", "Conv"):
        models = {FLOATS: _layer(kind, None)}
        models |= {name: _layer(kind, types) for name, types in FORMATS.items()}
        times = _medians(models)
        gains[kind] = {name: times[FLOATS] / times[name] for name in FORMATS}
    return Machine(
        cpu.model, tuple(cpu.flags or ()), cores().usable, version, providers, floor, gains
    )


def examine_model(
    model: onnx.ModelProto, batches: tuple[int, ...], floor_s: float
) -> ModelFindings:
    """A model's latency by threads, and what the runtime makes of it.

    Args:
        model: any; its rows are made up.
        batches: rows a run.
        floor_s: of a call that computes nothing.

    Raises:
        DataError: it does not run on rows that are made up.
    """
    content = model.SerializeToString()
    latency: dict[int, dict[int, Latency]] = {}
    for threads in _thread_counts(cores().usable):
        session = Session(content, threads=threads)
        feeds = _made_up(session)
        sizes = batch_sizes(session, batches)
        found = measure({"model": session}, feeds, sizes, budget_s=BUDGET_S)
        latency[threads] = found["model"]
    operators = dict(optimized_operators(content).most_common())
    return ModelFindings(latency, operators, tuple(_advice(latency, operators, floor_s)))


# ----- below


def _thread_counts(usable: int) -> list[int]:
    return [n for n in (1, 2, 4, 8, 16, 32, 64) if n <= usable]


def _made_up(session: Session) -> dict[str, Array]:
    rng = np.random.default_rng(0)
    feeds: dict[str, Array] = {}
    for port in session.inputs:
        if port.dtype == "object":
            raise DataError(f"input {port.name!r} takes text, for which no rows can be made up")
        shape = [size if isinstance(size, int) else DIMENSION for size in port.shape[1:]]
        whole = (DIMENSION, *shape)
        is_float = port.dtype.startswith("float")
        # Of ids and masks zero and one are known to every model.
        values: Array = rng.standard_normal(whole) if is_float else rng.integers(0, 2, whole)
        feeds[port.name] = values.astype(port.dtype)
    return feeds


def _medians(models: Mapping[str, onnx.ModelProto]) -> dict[str, float]:
    sessions = {name: Session(model.SerializeToString()) for name, model in models.items()}
    feeds = _made_up(next(iter(sessions.values())))
    found = measure(sessions, feeds, (1,), budget_s=BUDGET_S)
    return {name: by_batch[1].p50_s for name, by_batch in found.items()}


def _nothing() -> onnx.ModelProto:
    return _model([helper.make_node("Identity", ["x"], ["y"])], [], (8,), (8,))


def _layer(kind: str, types: tuple[int, int] | None) -> onnx.ModelProto:
    """One large layer, its values in floats or between quantizers of these types."""
    rng = np.random.default_rng(0)
    is_gemm = kind == "Gemm"
    shapes = (
        ((512,), (512, 512), (512,)) if is_gemm else ((32, 32, 32), (32, 32, 3, 3), (32, 30, 30))
    )
    x_shape, w_shape, y_shape = shapes
    weight = rng.standard_normal(w_shape).astype(np.float32)
    if types is None:
        node = helper.make_node(kind, ["x", "w"], ["y"])
        return _model([node], [numpy_helper.from_array(weight, "w")], x_shape, y_shape)
    activation, stored = types
    centre = 128 if stored == TensorProto.UINT8 else 0
    integers = np.clip(np.rint(weight / 0.03) + centre, centre - 127, centre + 127)
    dtype = helper.tensor_dtype_to_np_dtype
    middle = 128 if activation == TensorProto.UINT8 else 0
    tensors = [
        numpy_helper.from_array(integers.astype(dtype(stored)), "w8"),
        numpy_helper.from_array(np.array(0.03, np.float32), "s"),
        numpy_helper.from_array(np.array(centre, dtype(stored)), "zw"),
        numpy_helper.from_array(np.array(middle, dtype(activation)), "zx"),
        numpy_helper.from_array(np.array(1.0, np.float32), "sy"),
    ]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "zx"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "s", "zx"], ["xd"]),
        helper.make_node("DequantizeLinear", ["w8", "s", "zw"], ["wd"]),
        helper.make_node(kind, ["xd", "wd"], ["h"]),
        helper.make_node("QuantizeLinear", ["h", "sy", "zx"], ["hq"]),
        helper.make_node("DequantizeLinear", ["hq", "sy", "zx"], ["y"]),
    ]
    return _model(nodes, tensors, x_shape, y_shape)


def _model(
    nodes: list[onnx.NodeProto],
    tensors: list[onnx.TensorProto],
    x_shape: tuple[int, ...],
    y_shape: tuple[int, ...],
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "layer",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", *x_shape])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", *y_shape])],
        tensors,
    )
    opset = [helper.make_opsetid("", OPSET)]
    return helper.make_model(graph, opset_imports=opset, ir_version=IR_VERSION)


def _advice(
    latency: Mapping[int, Mapping[int, Latency]], operators: Mapping[str, int], floor_s: float
) -> list[str]:
    found = []
    smallest = min(latency[1])
    if latency[1][smallest].p50_s < 2 * floor_s:
        found.append(
            f"batch {smallest} takes less than twice the floor of a call: smaller models hardly "
            "answer faster, larger batches do"
        )
    best = min(latency, key=lambda threads: latency[threads][smallest].p50_s)
    found.append(f"at batch {smallest} {best} thread{'s' if best > 1 else ''} answer fastest")
    n_integer = sum(n for kind, n in operators.items() if any(w in kind for w in _INTEGERS))
    loose = sum(operators.get(kind, 0) for kind in _UNFUSED)
    if n_integer:
        found.append(f"{n_integer} operators run in integers; {loose} quantizers stand between")
    if {"GRU", "RNN"} & operators.keys():
        found.append("GRU and RNN have no integer form in ONNX Runtime; pruning makes them smaller")
    if "LSTM" in operators:
        found.append("LSTM has a dynamic int8 form, which `hlserve compress` tries")
    return found
