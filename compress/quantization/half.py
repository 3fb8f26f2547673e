"""fp16 for graphics processors: layers with weights, and what follows them, in half the bits.

Integers have no kernels in ONNX Runtime's CUDA provider; half floats run there at twice the speed
or more. Every value keeps its name and its float32 form wherever something asks for it, so inputs
and outputs stay as they are.

ONNX Runtime's own converter (onnxruntime.transformers.float16) sends every input through fp16
first, which a column beyond 65,504 does not survive, and cuts such weights off.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import final

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from compress.graph_step import GraphStep
from compress.integrity import graphs
from compress.model_file import is_quantized
from compress.quantization.calibration import activations
from compress.quantization.graph_form import (
    drop_unread,
    free_name,
    ready,
    set_nodes,
    taken_names,
    weights,
)
from hlserve.errors import CompressionError, DataError, ModelFileError
from hlserve.nn.param import Array

# As PyTorch's autocast decides: what multiplies matrices runs in half, what sums or exponentiates
# many values (Softmax, normalization, reductions) in full.
LAYERS = ("Conv", "ConvTranspose", "GRU", "Gemm", "LSTM", "MatMul", "RNN")
FOLLOWERS = (
    *("Add", "AveragePool", "Clip", "Concat", "Elu", "Flatten", "Gelu", "GlobalAveragePool"),
    *("GlobalMaxPool", "HardSigmoid", "HardSwish", "Identity", "LeakyRelu", "MaxPool", "Mul"),
    *("PRelu", "Pad", "Relu", "Reshape", "Sigmoid", "Slice", "Squeeze", "Sub", "Tanh"),
    *("Transpose", "Unsqueeze"),
)

ROWS = 64  # that are looked at: all values of a large network take their time
MOST = float(np.finfo(np.float16).max) / 2  # other rows may have larger values than those seen
LEAST = float(np.finfo(np.float16).tiny)  # values that stay below it all have lost digits
ROUNDING = 2.0**-10  # of fp16, as a share of a layer's largest weight


@final
@dataclass(frozen=True, slots=True)
class ToHalf(GraphStep):
    """fp16 where weights and values fit into it; inputs, outputs and the rest stay float32.

    A layer stays in float32 where a weight is beyond fp16, or all are too small for its digits,
    or where on the rows its values come near either end.

    Source: Micikevicius et al. 2018, arXiv:1710.03740, section 3, for what is safe in half.
    """

    name: str = field(default="fp16", init=False)

    def apply(
        self, model: onnx.ModelProto, feeds: Mapping[str, Array], *, batch: int | None = None
    ) -> onnx.ModelProto:
        """See GraphStep; bodies of If, Loop and Scan stay in float32."""
        if is_quantized(model):
            raise CompressionError("fp16: the file is quantized already; its integers stay")
        if not len(next(iter(feeds.values()), ())):
            raise CompressionError("fp16 needs rows, to see that values stay inside its range")
        form = ready(model)
        types = _types(form)
        chosen = _chosen(form, types, _largest(form, types, feeds, batch))
        if not any(node.op_type in LAYERS for node in chosen):
            raise CompressionError(
                f"fp16: no {', '.join(LAYERS[:-1])} or {LAYERS[-1]} is there whose weights and "
                "values fit into half the bits"
            )
        return _written(form, chosen, types)


# ----- below


def _types(model: onnx.ModelProto) -> dict[str, int]:
    """What values and weights are of, as far as it can be told."""
    inferred = onnx.shape_inference.infer_shapes(model).graph
    entries = (*inferred.input, *inferred.output, *inferred.value_info)
    found = {entry.name: entry.type.tensor_type.elem_type for entry in entries}
    return found | {tensor.name: tensor.data_type for tensor in model.graph.initializer}


def _largest(
    model: onnx.ModelProto, types: Mapping[str, int], feeds: Mapping[str, Array], batch: int | None
) -> dict[str, float]:
    """The largest finite size that every float32 value has on some rows."""
    names = [entry.name for entry in model.graph.input]
    names += [name for node in model.graph.node for name in node.output]
    floats = [name for name in names if types.get(name) == TensorProto.FLOAT]
    some = {name: array[:ROWS] for name, array in feeds.items()}
    found: dict[str, float] = {}
    try:
        for values in activations(model, floats, some, batch=batch):
            for name, array in values.items():
                size = float(np.abs(array[np.isfinite(array)]).max(initial=0.0))
                found[name] = max(found.get(name, 0.0), size)
    except (DataError, ModelFileError) as error:
        raise CompressionError(f"fp16: the values cannot be looked at: {error}") from error
    return found


def _chosen(
    model: onnx.ModelProto, types: Mapping[str, int], largest: Mapping[str, float]
) -> list[onnx.NodeProto]:
    """The nodes to compute in half: layers that fit, and what reads nothing but their values."""
    constant = weights(model.graph)
    fits = {name for name, size in largest.items() if size == 0 or LEAST <= size <= MOST}
    fits |= {name for name, tensor in constant.items() if _is_kept_by_half(tensor)}
    in_half: set[str] = set()
    chosen = []
    for node in model.graph.node:
        used = [name for name in (*node.input, *node.output) if name]
        floats = [name for name in used if types.get(name) == TensorProto.FLOAT]
        if not _is_known(node) or not fits.issuperset(floats) or not types.keys() >= set(used):
            continue
        computed = [name for name in node.input if name in floats and name not in constant]
        if node.op_type in LAYERS or (computed and all(name in in_half for name in computed)):
            chosen.append(node)
            in_half.update(node.output)
    return chosen


def _is_known(node: onnx.NodeProto) -> bool:
    return node.domain in ("", "ai.onnx") and node.op_type in (*LAYERS, *FOLLOWERS)


def _is_kept_by_half(tensor: onnx.TensorProto) -> bool:
    """Whether rounding costs no weight more than it costs the largest at most."""
    if tensor.data_type != TensorProto.FLOAT:
        return False
    values = numpy_helper.to_array(tensor)
    largest = float(np.abs(values).max(initial=0.0))
    with np.errstate(over="ignore", invalid="ignore"):
        lost = np.abs(values - values.astype(np.float16).astype(np.float32))
    return bool(np.all(lost <= ROUNDING * largest))  # NaN, of infinite weights, is never below


def _written(
    model: onnx.ModelProto, chosen: Sequence[onnx.NodeProto], types: Mapping[str, int]
) -> onnx.ModelProto:
    """The graph with these nodes in half; changes and hands back the model."""
    graph, names = model.graph, {node.name for node in chosen}
    floats = {name for name, kind in types.items() if kind == TensorProto.FLOAT}
    writer = _Writer(floats, weights(graph), taken_names(graph))
    for node in graph.node:
        writer.add(node, in_half=node.name in names)
    for entry in graph.output:
        writer.require_full(entry.name)
    set_nodes(graph, writer.nodes)
    graph.initializer.extend(writer.weights.values())
    drop_unread(graph)
    del graph.value_info[:]  # hints, which name values that are gone
    return model


class _Writer:
    """Writes nodes in order; turns a value into the other form where it is first asked for."""

    def __init__(
        self, floats: set[str], constant: Mapping[str, onnx.TensorProto], taken: set[str]
    ) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: dict[str, onnx.TensorProto] = {}  # in half, by their name in full
        self._floats, self._constant, self._taken = floats, constant, taken
        self._half: dict[str, str] = {}  # the half form of a value, where there is one
        self._only_half: set[str] = set()

    def add(self, node: onnx.NodeProto, *, in_half: bool) -> None:
        """The node, and ahead of it what turns values into the form that it reads."""
        if not in_half:
            for name in _read(node):
                self.require_full(name)
            self.nodes.append(node)
            return
        copy = onnx.NodeProto.FromString(node.SerializeToString())
        copy.input[:] = [self._in_half(n) if n in self._floats else n for n in node.input]
        for name in [name for name in node.output if name in self._floats]:
            self._half[name] = free_name(f"{name}_half", self._taken)
            self._only_half.add(name)
        copy.output[:] = [self._half.get(n, n) for n in node.output]
        self.nodes.append(copy)

    def require_full(self, name: str) -> None:
        """Makes the float32 form of a value, where it has none yet."""
        if name in self._only_half:
            self._only_half.remove(name)
            self._cast(self._half[name], name, TensorProto.FLOAT)

    # ----- below

    def _in_half(self, name: str) -> str:
        if name not in self._half:
            self._half[name] = free_name(f"{name}_half", self._taken)
            if name in self._constant:
                values = numpy_helper.to_array(self._constant[name]).astype(np.float16)
                self.weights[name] = numpy_helper.from_array(values, self._half[name])
            else:
                self._cast(name, self._half[name], TensorProto.FLOAT16)
        return self._half[name]

    def _cast(self, source: str, target: str, to: int) -> None:
        self.nodes.append(helper.make_node("Cast", [source], [target], f"to_{target}", to=to))


def _read(node: onnx.NodeProto) -> list[str]:
    """What a node reads, in its bodies too."""
    bodies = [a.g for a in node.attribute if a.HasField("g")]
    bodies += [graph for a in node.attribute for graph in a.graphs]
    inner = [graph for body in bodies for graph in graphs(body)]
    read = [name for graph in inner for n in graph.node for name in n.input]
    read += [entry.name for graph in inner for entry in graph.output]
    return [*node.input, *read]
