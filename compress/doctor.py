"""What this machine makes fast: measured, not guessed from a table.

Small models are built, run in turns and compared: a product and a convolution in floats and in
three kinds of 8-bit integers, and a model that does nothing, whose time is the floor of a call.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from compress.advice import WARNING, Quantizers, graph_advice, integer_layers, quantizers_left
from compress.latency import Latency, batch_sizes, measure, speed_up
from compress.machine import Processor, cores, processor
from compress.session import Provider, Session, optimized, runtime
from hlserve.errors import ConfigError, DataError
from hlserve.nn.param import Array

OPSET, IR_VERSION = 21, 10
BUDGET_S = 1.5  # of measuring one set of models
FLOATS = "float32"
FORMATS = {  # activations, weights
    "U8S8": (TensorProto.UINT8, TensorProto.INT8),
    "U8U8": (TensorProto.UINT8, TensorProto.UINT8),
    "S8S8": (TensorProto.INT8, TensorProto.INT8),
}
WORTH_THREADS = 1.05  # times as fast; for less nobody gives another core
DIMENSION = 8  # that a free dimension other than the batch gets
_GPUS: Mapping[Provider, str] = {
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}


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
        advice: in plain words.
    """

    cpu: str
    flags: tuple[str, ...]
    usable_cores: int
    onnxruntime: str
    providers: tuple[str, ...]
    floor_s: float
    gains: dict[str, dict[str, float]]
    advice: tuple[str, ...] = ()

    def described(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class ModelFindings:
    """A model on this machine.

    Attributes:
        latency: by threads, then by batch size.
        operators: how many of each stand in the graph that ONNX Runtime really runs.
        integer_layers: how many operators with weights run in integers.
        quantizers: what of a quantized graph was not taken into such operators.
        advice: in plain words.
    """

    latency: dict[int, dict[int, Latency]]
    operators: dict[str, int]
    integer_layers: int
    quantizers: Quantizers
    advice: tuple[str, ...]

    def described(self) -> dict[str, Any]:
        """As JSON can hold it, latencies in seconds."""
        latency = {
            str(threads): {str(b): {"p50": t.p50_s, "p95": t.p95_s} for b, t in found.items()}
            for threads, found in self.latency.items()
        }
        return {
            "latency_s": latency,
            "operators": self.operators,
            "integer_layers": self.integer_layers,
            "quantizers": asdict(self.quantizers),
            "advice": list(self.advice),
        }


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
    advice = (*instruction_advice(cpu), *_about_gains(gains), *_about_gpus(providers))
    flags = tuple(cpu.flags or ())
    return Machine(cpu.model, flags, cores().usable, version, providers, floor, gains, advice)


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
    sessions = {n: Session(content, threads=n) for n in thread_counts(cores().threads)}
    feeds, sizes = _made_up(sessions[1]), batch_sizes(sessions[1], batches)
    named = {str(n): session for n, session in sessions.items()}
    times = measure(named, feeds, sizes, budget_s=BUDGET_S * len(named))  # all of them in turns
    latency = {n: times[str(n)] for n in sessions}
    runs = optimized(content)
    operators = dict(Counter(node.op_type for node in runs.graph.node).most_common())
    advice = (*graph_advice(model, runs), *_about_times(latency, floor_s))
    # What makes it needlessly slow comes first.
    advice = tuple(sorted(advice, key=lambda told: not told.startswith(WARNING)))
    return ModelFindings(
        latency, operators, integer_layers(operators), quantizers_left(runs), advice
    )


def thread_counts(usable: int) -> list[int]:
    """The numbers of threads to try: powers of two, half of what there is, and all of it."""
    powers = [2**k for k in range(7) if 2**k <= usable]
    return sorted({*powers, max(1, usable // 2), usable})


def instruction_advice(cpu: Processor) -> list[str]:
    """What the processor's 8-bit instructions mean, or that it has none."""
    flags = cpu.flags
    if flags is None:
        return ["which instructions the processor has is not known here: trust what was measured"]
    if "amx_int8" in flags:
        return [
            "int8 instructions: AMX, which multiplies whole tiles of U8S8; the larger the batch, "
            "the more it gains"
        ]
    if {"avx512_vnni", "avx_vnni", "avx_vnni_int8"} & set(flags):
        return [
            "int8 instructions: VNNI, which adds up products of 8 bits in 32 without overflow: "
            "U8S8 gains most"
        ]
    if {"i8mm", "asimddp"} & set(flags):
        return ["int8 instructions: dot products of ARM; S8S8 and U8U8 gain most"]
    if "avx2" in flags:
        return [
            f"{WARNING}no int8 instructions (VNNI, AMX): integers gain less here, and U8S8 adds up "
            "in 16 bits, where large sums are cut off; check the accuracy on this machine"
        ]
    return [f"{WARNING}no int8 instructions were found: integers make files smaller, not faster"]


# ----- below


def _about_gains(gains: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Kinds of layers for which no integers were measured to gain."""
    return [
        f"{WARNING}8-bit integers were not faster than floats for {kind}: smaller files only"
        for kind, by_format in gains.items()
        if max(by_format.values()) <= 1
    ]


def _about_gpus(providers: Sequence[str]) -> list[str]:
    """Each GPU provider that is installed, tried out; or how to get one."""
    installed = [provider for provider, name in _GPUS.items() if name in providers]
    if not installed:
        return [
            "no GPU provider in this ONNX Runtime; for an NVIDIA GPU type: "
            'pip install "hlserve[gpu]"'
        ]
    told = []
    for provider in installed:
        try:
            Session(_nothing().SerializeToString(), provider=provider)
            told.append(f"a GPU answers: `hlserve compress --provider {provider}` measures there")
        except ConfigError as error:
            told.append(f"{WARNING}{_GPUS[provider]} is installed, and does not run: {error}")
    return told


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


def _about_times(latency: Mapping[int, Mapping[int, Latency]], floor_s: float) -> list[str]:
    """What the figures say of calls and of threads; more of these only where surely faster."""
    found = []
    smallest = min(latency[1])
    if latency[1][smallest].p50_s < 2 * floor_s:
        found.append(
            f"batch {smallest} takes less than twice the floor of a call: smaller models hardly "
            "answer faster, larger batches do"
        )
    for batch, alone in latency[1].items():
        best = min(latency, key=lambda n: latency[n][batch].p50_s)
        gain = speed_up(alone, latency[best][batch])
        if best > 1 and gain.lower > 1 and gain.ratio >= WORTH_THREADS:
            found.append(
                f"at batch {batch} {best} threads answer fastest, {gain.ratio:.2f}x as fast as one"
            )
        else:
            found.append(f"at batch {batch} more threads than one are no gain worth a core")
    return found
