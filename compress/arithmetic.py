"""How many multiply-accumulates a file costs, and how many of them ONNX Runtime does in int8.

Both are read from the graph that ONNX Runtime made of the file, whoever wrote it: what it could
not fuse into an integer operator stands there as floats, with rounding around it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod

import numpy as np
import onnx

from compress.evaluate import fixed_batch, take_rows
from compress.integrity import graphs
from compress.model_file import attribute
from compress.session import Session, optimized, shapes_inside
from hlserve.errors import DataError, ModelFileError
from hlserve.nn.param import Array

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Inputs:
    """Where an operator reads its data and its weights; whether they are multiplied in int8."""

    data: int
    weights: int
    is_integer: bool = False


_CONVOLUTIONS = {
    "Conv": _Inputs(0, 1),
    "FusedConv": _Inputs(0, 1),
    "NhwcFusedConv": _Inputs(0, 1),
    "ConvInteger": _Inputs(0, 1, is_integer=True),
    "QLinearConv": _Inputs(0, 3, is_integer=True),
}
_PRODUCTS = {
    "Gemm": _Inputs(0, 1),
    "FusedGemm": _Inputs(0, 1),
    "MatMul": _Inputs(0, 1),
    "FusedMatMul": _Inputs(0, 1),
    "MatMulNBits": _Inputs(0, 1),
    "DynamicQuantizeMatMul": _Inputs(0, 1, is_integer=True),
    "MatMulInteger": _Inputs(0, 1, is_integer=True),
    "MatMulIntegerToFloat": _Inputs(0, 1, is_integer=True),
    "QGemm": _Inputs(0, 3, is_integer=True),
    "QLinearMatMul": _Inputs(0, 3, is_integer=True),
}
_RECURRENT = {
    "GRU": _Inputs(0, 1),
    "LSTM": _Inputs(0, 1),
    "RNN": _Inputs(0, 1),
    "DynamicQuantizeLSTM": _Inputs(0, 1, is_integer=True),
}
_COUNTED = _CONVOLUTIONS | _PRODUCTS | _RECURRENT

# Also multiply and sum, in ways that are not counted here.
_NOT_COUNTED = frozenset(
    {
        *("Attention", "ConvTranspose", "DecoderMaskedMultiHeadAttention", "DeformConv", "Einsum"),
        *("GroupQueryAttention", "MultiHeadAttention", "PackedAttention", "QAttention"),
        *("QLinearConvTranspose", "QOrderedMatMul", "ConvTransposeWithDynamicPads"),
    }
)


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """Multiply-accumulates of one row, by what multiplies."""

    in_floats: int
    in_integers: int

    @property
    def int8_share(self) -> float | None:
        """The share in int8; None where nothing is multiplied."""
        whole = self.in_floats + self.in_integers
        return self.in_integers / whole if whole else None


def arithmetic(model: bytes, feeds: Mapping[str, Array]) -> Arithmetic | None:
    """Counted on the first row, or the first batch of a model that takes no other.

    Args:
        model: an ONNX file.
        feeds: rows by input name.

    Returns:
        None where it cannot be known: an operator multiplies in a way that is not counted here, a
        body of If, Loop or Scan does, or the runtime's own graph does not run once more.
    """
    graph = optimized(model, has_layouts=False)
    if any(node.op_type in _NOT_COUNTED for node in graph.graph.node) or _in_bodies(graph):
        return None
    counted = [node for node in graph.graph.node if node.op_type in _COUNTED]
    batch = fixed_batch(Session(model)) or 1
    try:
        shapes = shapes_inside(graph, _values(counted), take_rows(feeds, np.arange(batch)))
    except (DataError, ModelFileError):
        return None
    sums = {False: 0, True: 0}
    for node in counted:
        sums[_COUNTED[node.op_type].is_integer] += _macs(node, shapes)
    return Arithmetic(sums[False] // batch, sums[True] // batch)


# ----- below


def _in_bodies(model: onnx.ModelProto) -> bool:
    bodies = list(graphs(model.graph))[1:]
    return any(node.op_type in _COUNTED for graph in bodies for node in graph.node)


def _values(nodes: list[onnx.NodeProto]) -> Iterator[str]:
    for node in nodes:
        places = _COUNTED[node.op_type]
        yield node.input[places.data]
        yield node.input[places.weights]
        if node.op_type in _RECURRENT:
            yield node.input[places.weights + 1]
        else:
            yield node.output[0]


def _macs(node: onnx.NodeProto, shapes: Mapping[str, Shape]) -> int:
    places = _COUNTED[node.op_type]
    data, weights = shapes[node.input[places.data]], shapes[node.input[places.weights]]
    if node.op_type in _RECURRENT:
        state = shapes[node.input[places.weights + 1]]
        return prod(data[:2]) * (prod(weights) + prod(state))
    out = prod(shapes[node.output[0]])
    if node.op_type in _CONVOLUTIONS:
        return out * prod(weights[1:])  # (out channels, in channels of a group, kernel ...)
    return out * data[-2 if attribute(node, "transA", 0) else -1]
