"""Functions number by number, whole operators and written out."""

from __future__ import annotations

import numpy as np
import onnx

from compress.model_file import attribute
from compress.onnx_import.graph import Graph, RefusalError, channel_axis, operand
from compress.onnx_import.piece import Handler, Piece, chain
from hlserve.nn.layer import Layer
from hlserve.nn.layers import (
    ELU,
    GELU,
    Clip,
    HardSigmoid,
    HardSwish,
    LeakyReLU,
    LogSoftmax,
    PReLU,
    ReLU,
    Scale,
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
    """Over the features of plain rows, and its logarithm."""
    node = graph.made_by(tensor, "Softmax", "LogSoftmax")
    if node is None:
        return None
    shape = graph.shape(tensor)
    if len(shape) != 1 or attribute(node, "axis", -1) not in (1, -1):
        raise RefusalError(f"a softmax over axis {attribute(node, 'axis', -1)} of rows {shape}")
    layer = Softmax() if node.op_type == "Softmax" else LogSoftmax()
    return chain(tensor, [node.input[0]], layer)


def limits(graph: Graph, tensor: str) -> Piece | None:
    """Clip, and the larger or smaller of an activation and a number."""
    node = graph.made_by(tensor, "Clip", "Max", "Min")
    if node is None:
        return None
    if node.op_type == "Clip":
        source = node.input[0]
        low = _limit(graph, node, 1, "min", -np.inf)
        high = _limit(graph, node, 2, "max", np.inf)
    else:
        flowing = graph.data_inputs(node)
        numbers = [graph.number(name) for name in node.input if name not in flowing]
        if len(flowing) != 1 or len(numbers) != 1 or numbers[0] is None:
            raise RefusalError("it compares activations with each other")
        source = flowing[0]
        low, high = (numbers[0], np.inf) if node.op_type == "Max" else (-np.inf, numbers[0])
    if low == -np.inf and high == np.inf:
        return Piece((source,))
    if low == 0 and high == np.inf:
        return chain(tensor, [source], ReLU())
    largest = float(np.finfo(np.float32).max)
    return chain(tensor, [source], Clip(max(low, -largest), min(high, largest)))


def hard_sigmoid(graph: Graph, tensor: str) -> Piece | None:
    """A line between 0 and 1."""
    node = graph.made_by(tensor, "HardSigmoid")
    if node is None:
        return None
    slope, shift = attribute(node, "alpha", 0.2), attribute(node, "beta", 0.5)
    if shift == 0.5 and slope > 0:  # HardSigmoid's own
        return chain(tensor, [node.input[0]], HardSigmoid(slope))
    return chain(tensor, [node.input[0]], Scale(slope, shift), Clip(0, 1))


def prelu(graph: Graph, tensor: str) -> Piece | None:
    """A slope for all numbers, or one for each channel."""
    node = graph.made_by(tensor, "PRelu")
    if node is None:
        return None
    slope, shape = graph.fixed(node.input[1]), graph.shape(node.input[0])
    if slope is None:
        raise RefusalError("its slopes are computed from the rows")
    axis = channel_axis(slope, shape)
    if axis is None or axis > 1:
        raise RefusalError(f"slopes of shape {slope.shape} beside rows of shape {shape}")
    each = slope.reshape(-1).astype(np.float32)
    return chain(tensor, [node.input[0]], PReLU(len(each), axis).with_arrays({"slope": each}))


HANDLERS: tuple[Handler, ...] = (whole, softmax, limits, hard_sigmoid, prelu)


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


def _limit(graph: Graph, node: onnx.NodeProto, i: int, name: str, default: float) -> float:
    """An input since opset 11, an attribute before."""
    given = operand(node, i)
    if not given:
        return float(attribute(node, name, default))
    number = graph.number(given)
    if number is None:
        raise RefusalError("its limits are computed from the rows")
    return number
