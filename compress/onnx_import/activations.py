"""Functions number by number, whole operators and written out."""

from __future__ import annotations

import onnx

from compress.model_file import attribute
from compress.onnx_import.graph import Graph, RefusalError
from compress.onnx_import.piece import Handler, Piece, chain
from hlserve.nn.layer import Layer
from hlserve.nn.layers import (
    ELU,
    GELU,
    HardSwish,
    LeakyReLU,
    ReLU,
    Sigmoid,
    Softmax,
    Softplus,
    Tanh,
)


def whole(graph: Graph, tensor: str) -> Piece | None:
    """Operators that are one layer."""
    node = graph.producer(tensor)
    if node is None:
        return None
    layer = _layer(node)
    return None if layer is None else chain(tensor, [node.input[0]], layer)


def softmax(graph: Graph, tensor: str) -> Piece | None:
    """Over the features of plain rows."""
    node = graph.made_by(tensor, "Softmax")
    if node is None:
        return None
    shape = graph.shape(tensor)
    if len(shape) != 1 or attribute(node, "axis", -1) not in (1, -1):
        raise RefusalError(f"a softmax over axis {attribute(node, 'axis', -1)} of rows {shape}")
    return chain(tensor, [node.input[0]], Softmax())


HANDLERS: tuple[Handler, ...] = (whole, softmax)


# ----- below


def _layer(node: onnx.NodeProto) -> Layer | None:
    match node.op_type:
        case "Relu":
            return ReLU()
        case "LeakyRelu":
            return LeakyReLU(attribute(node, "alpha", 0.01))
        case "Elu":
            return ELU(attribute(node, "alpha", 1.0))
        case "Gelu":
            return GELU(attribute(node, "approximate", "none"))
        case "HardSwish":
            return HardSwish()
        case "Sigmoid":
            return Sigmoid()
        case "Softplus":
            return Softplus()
        case "Tanh":
            return Tanh()
    return None
