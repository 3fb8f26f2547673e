"""What a user should know of a model before it is made faster, read from its graph.

Each piece of advice is one sentence with what to do about it; what makes a model needlessly slow
starts with ``WARNING``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from compress.integrity import tensors
from compress.model_file import (
    INTEGER_LAYERS,
    INTEGER_NEIGHBOURS,
    QUANTIZERS,
    attribute,
    is_quantized,
    nodes,
)
from hlserve.nn.param import Array

WIDTH = 8  # numbers of float32 in a vector register of AVX2; AVX-512 holds two of these
MOST_NAMED = 6
WARNING = "WARNING: "

_WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_RECURRENT = ("LSTM", "GRU", "RNN")
_FLOATS = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16)
_BYTES = (TensorProto.INT8, TensorProto.UINT8)

_Step = Callable[[onnx.NodeProto], Iterator[onnx.NodeProto]]
_Is = Callable[[onnx.NodeProto], bool]


@dataclass(frozen=True, slots=True)
class Quantizers:
    """What of a quantized graph the runtime did not take into integer operators.

    Attributes:
        n_between: quantizers between layers, each a pass over its numbers. Those that make
            integers of the inputs and floats of the answers are not counted: every model needs
            them.
        n_weights: weights that become floats again on every call.
    """

    n_between: int
    n_weights: int


def quantizers_left(optimized: onnx.ModelProto) -> Quantizers:
    """Counts them in the graph that ONNX Runtime runs, see ``session.optimized``."""
    wires = _Wires.of(optimized.graph)
    n_between = n_weights = 0
    for node in optimized.graph.node:
        if node.op_type not in QUANTIZERS[:2]:
            continue
        if node.input[0] in wires.weights:
            n_weights += 1
        elif node.op_type == "QuantizeLinear":
            n_between += not wires.is_first(node)
        else:
            n_between += not wires.is_last(node)
    return Quantizers(n_between, n_weights)


def integer_layers(operators: Mapping[str, int]) -> int:
    """How many operators with weights run in integers."""
    return sum(operators.get(kind, 0) for kind in INTEGER_LAYERS)


def graph_advice(model: onnx.ModelProto, optimized: onnx.ModelProto) -> list[str]:
    """All that the graph tells.

    Args:
        model: as it came.
        optimized: what the runtime makes of it.
    """
    operators = Counter(node.op_type for node in optimized.graph.node)
    return [
        *_about_integers(model, optimized, operators),
        *_about_shapes(model),
        *_about_widths(model),
        *_about_numbers(model),
        *_about_recurrence(operators),
    ]


# ----- below: how operators hang together


@dataclass(frozen=True, slots=True)
class _Wires:
    """A graph's tensors: what makes them, what takes them, and which are constants."""

    makers: dict[str, onnx.NodeProto] = field(default_factory=dict)
    takers: dict[str, list[onnx.NodeProto]] = field(default_factory=dict)
    weights: dict[str, onnx.TensorProto] = field(default_factory=dict)

    @classmethod
    def of(cls, graph: onnx.GraphProto) -> Self:
        """The wires of a graph; bodies of control flow are not looked into."""
        wires = cls()
        wires.weights.update({tensor.name: tensor for tensor in graph.initializer})
        for node in graph.node:
            wires.makers.update(dict.fromkeys(node.output, node))
            for name in node.input:
                wires.takers.setdefault(name, []).append(node)
            if node.op_type == "Constant" and node.attribute[0].HasField("t"):
                wires.weights[node.output[0]] = node.attribute[0].t
        return wires

    def is_first(self, node: onnx.NodeProto) -> bool:
        """Whether nothing before it computes with weights or integers."""
        return not self._meets(node, self._before, _computes)

    def is_last(self, node: onnx.NodeProto) -> bool:
        """Whether nothing behind it computes with weights or integers."""
        return not self._meets(node, self._behind, _computes)

    def is_last_layer(self, node: onnx.NodeProto) -> bool:
        """Whether no layer stands behind it; quantizers may."""
        return not self._meets(node, self._behind, _is_layer)

    def weight(self, node: onnx.NodeProto) -> onnx.TensorProto | None:
        """The constant that a layer multiplies with, seen through its quantizer."""
        if len(node.input) < 2:
            return None
        name = node.input[1]
        maker = self.makers.get(name)
        if maker is not None and maker.op_type == "DequantizeLinear":
            name = maker.input[0]
        return self.weights.get(name)

    def _before(self, node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
        for name in node.input:
            if name in self.makers and name not in self.weights:
                yield self.makers[name]

    def _behind(self, node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
        for name in node.output:
            yield from self.takers.get(name, ())

    def _meets(self, start: onnx.NodeProto, step: _Step, is_met: _Is) -> bool:
        """Whether a way from here comes to such a node."""
        waiting, seen = list(step(start)), set[int]()
        while waiting:
            node = waiting.pop()
            if id(node) in seen:
                continue
            seen.add(id(node))
            if is_met(node):
                return True
            waiting += step(node)
        return False


def _is_layer(node: onnx.NodeProto) -> bool:
    kind = node.op_type
    is_plain = kind in _WEIGHTED or kind in _RECURRENT or kind.startswith("Fused")
    return is_plain or kind in INTEGER_LAYERS


def _computes(node: onnx.NodeProto) -> bool:
    return _is_layer(node) or node.op_type in (*QUANTIZERS, *INTEGER_NEIGHBOURS)


# ----- below: integers


def _about_integers(
    model: onnx.ModelProto, optimized: onnx.ModelProto, operators: Mapping[str, int]
) -> Iterator[str]:
    if not is_quantized(model):
        return
    n_integer, left = integer_layers(operators), quantizers_left(optimized)
    if n_integer:
        yield (
            f"it is quantized already: layers that run in integers: {n_integer}, quantizers that "
            f"stand between layers: {left.n_between}; `hlserve compress` gets further from the "
            "float file"
        )
    else:
        reasons = "; ".join(_reasons(model)) or "the runtime has no integer form for its operators"
        yield (
            f"{WARNING}it is quantized, and no layer runs in integers, so that the quantizers only "
            f"cost time. Why: {reasons}. Give `hlserve compress` the float file with --data: it "
            "places quantizers so that whole layers fuse"
        )
    if left.n_weights and n_integer:
        yield (
            f"{WARNING}{left.n_weights} quantized weights become floats again on every call: "
            f"{'; '.join(_reasons(model)) or 'their layers did not fuse'}. Keep such layers in "
            "floats, or quantize what they read too"
        )


def _reasons(model: onnx.ModelProto) -> list[str]:
    """Why layers do not fuse, each reason once with the layers that it holds for."""
    wires = _Wires.of(model.graph)
    found: dict[str, list[str]] = {}
    for node in model.graph.node:
        if node.op_type in _WEIGHTED and wires.weight(node) is not None:
            reason = _reason(node, wires)
            if reason:
                found.setdefault(reason, []).append(_name(node))
    return [f"{reason} ({_few(names)})" for reason, names in found.items()]


def _reason(node: onnx.NodeProto, wires: _Wires) -> str:
    """Which part of the pattern that ONNX Runtime fuses is missing; empty where none is.

    The pattern: see its ``qdq_selector_action_transformer.cc``. Weights and a bias in floats it
    quantizes itself where both what the layer reads and what it answers are quantized.
    """
    makers = [wires.makers.get(name) for name in node.input]
    is_integer = [m is not None and m.op_type == "DequantizeLinear" for m in makers]
    behind = [taker.op_type for name in node.output for taker in wires.takers.get(name, ())]
    is_closed = behind == ["QuantizeLinear"]
    weight = wires.weight(node)
    if not any(is_integer[:2]):
        return "the layer stands in floats, without quantizers"
    if not is_integer[0]:
        return "only weights are quantized, what the layer reads is in floats"
    if is_integer[1] and weight is not None and weight.data_type not in _BYTES:
        return f"weights are {TensorProto.DataType.Name(weight.data_type)}, expected 8 bits"
    if node.op_type == "ConvTranspose":
        return "ConvTranspose has no integer form"
    if node.op_type == "Conv" and not is_closed:
        return "a Conv fuses only where one QuantizeLinear, and nothing else, takes its output"
    if not is_integer[1] and not is_closed:
        return "what the layer reads is quantized, its weights and its output are in floats"
    has_bias = len(node.input) > 2 and bool(node.input[2])
    if has_bias and not is_integer[2] and not is_closed:
        return "the bias and the output are in floats; a bias is 32-bit integers where one fuses"
    return ""


# ----- below: shapes


def _about_shapes(model: onnx.ModelProto) -> Iterator[str]:
    constants = {tensor.name for tensor in model.graph.initializer}
    free, fixed = [], []
    for port in model.graph.input:
        if port.name in constants or not port.type.tensor_type.HasField("shape"):
            continue
        batch, *inner = port.type.tensor_type.shape.dim or [onnx.TensorShapeProto.Dimension()]
        names = [d.dim_param or "?" for d in inner if not d.HasField("dim_value")]
        if names:
            free.append(f"{port.name}: {', '.join(names)}")
        if batch.HasField("dim_value"):
            fixed.append(f"{port.name}: {batch.dim_value}")
    if free:
        yield (
            f"free dimensions besides the batch ({_few(free, '; ')}): the figures hold for the "
            "size that was tried; export with fixed sizes where only one is served"
        )
    if fixed:
        yield (
            f"batches of one size only ({_few(fixed, '; ')}): calls cannot be joined; export with "
            "a free first dimension"
        )


def _about_widths(model: onnx.ModelProto) -> Iterator[str]:
    wires = _Wires.of(model.graph)
    odd = []
    for node in model.graph.node:
        weight = wires.weight(node) if node.op_type in _WEIGHTED else None
        if weight is None or wires.is_last_layer(
            node
        ):  # how many answers there are, nobody can choose
            continue
        width = _width(node, weight.dims)
        if width % WIDTH:
            odd.append(f"{_name(node)}: {width}")
    if odd:
        yield (
            f"widths that are no multiple of {WIDTH} leave lanes of the processor's vectors idle "
            f"({_few(odd)}): the next multiple, better one of 16, takes about the same time; "
            "`hlserve compress` prunes to multiples of 8"
        )


def _width(node: onnx.NodeProto, dims: Sequence[int]) -> int:
    """How many channels or units a layer answers with."""
    if node.op_type == "Conv":
        return int(dims[0])
    if node.op_type == "ConvTranspose":
        return int(dims[1]) * int(attribute(node, "group", 1))
    is_transposed = node.op_type == "Gemm" and attribute(node, "transB", 0)
    return int(dims[0] if is_transposed else dims[-1])


# ----- below: numbers


def _about_numbers(model: onnx.ModelProto) -> Iterator[str]:
    tiny: dict[str, int] = {}
    double: list[str] = []
    for tensor in tensors(model):
        if tensor.data_type == TensorProto.DOUBLE:
            double.append(tensor.name or "a constant")
        if tensor.data_type in _FLOATS[:2]:
            n = _n_denormal(numpy_helper.to_array(tensor))
            if n:
                tiny[tensor.name or "a constant"] = n
    ports = (*model.graph.input, *model.graph.output)
    double += [p.name for p in ports if p.type.tensor_type.elem_type == TensorProto.DOUBLE]
    casts = [node for node in nodes(model.graph) if node.op_type == "Cast"]
    double += [_name(n) for n in casts if attribute(n, "to", None) == TensorProto.DOUBLE]
    if double:
        yield (
            f"float64 at {_few(list(dict.fromkeys(double)))}: twice the bytes and half the speed "
            "of float32, and nothing of it can be quantized; export in float32"
        )
    if tiny:
        n, where = sum(tiny.values()), _few(list(tiny))
        yield (
            f"{WARNING}{n:,} denormal numbers among the weights ({where}): arithmetic with them "
            "may be many times slower; set them to zero, or train with less weight decay"
        )


def _n_denormal(array: Array) -> int:
    """How many are nearer to zero than the smallest number of full precision."""
    size = np.abs(array)
    return int(np.count_nonzero((size > 0) & (size < np.finfo(array.dtype).tiny)))


def _about_recurrence(operators: Mapping[str, int]) -> Iterator[str]:
    if {"GRU", "RNN"} & operators.keys():
        yield "GRU and RNN have no integer form in ONNX Runtime: they stay in floats"
    if "LSTM" in operators:
        yield "LSTM has a dynamic int8 form, which `hlserve compress` tries"


def _name(node: onnx.NodeProto) -> str:
    return node.name or f"{node.op_type} {node.output[0]}"


def _few(names: Sequence[str], between: str = ", ") -> str:
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return between.join(names[:MOST_NAMED]) + more
