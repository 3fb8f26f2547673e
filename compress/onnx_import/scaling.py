"""Constants that are added to activations or multiplied with them: preprocessing, mostly."""

from __future__ import annotations

import numpy as np

from compress.onnx_import.graph import Graph, RefusalError
from compress.onnx_import.piece import Handler, Piece, chain, inner
from hlserve.nn.layer import Layer
from hlserve.nn.layers import Flatten, Multiply, Scale, Standardize
from hlserve.nn.network import Node
from hlserve.nn.param import Array


def constant(graph: Graph, tensor: str) -> Piece | None:
    """One number for all, or one for each column."""
    node = graph.made_by(tensor, "Add", "Sub", "Mul", "Div")
    if node is None:
        return None
    left, right = (graph.fixed(name) for name in node.input)
    if (left is None) == (right is None):
        return None
    value = right if left is None else left
    assert value is not None
    x = node.input[0] if left is None else node.input[1]
    if left is not None and node.op_type == "Div":
        raise RefusalError("a constant divided by an activation")
    number = graph.number(node.input[1] if left is None else node.input[0])
    if number is not None and value.ndim <= 1 + len(graph.shape(x)):
        return chain(tensor, [x], _scale(node.op_type, number, is_first=left is not None))
    if left is not None and node.op_type == "Sub":
        raise RefusalError("columns of constants less an activation")
    return chain(tensor, [x], _columns(node.op_type, value, graph.shape(x)))


def product(graph: Graph, tensor: str) -> Piece | None:
    """Two activations of one shape, or an image and a gate for each of its channels."""
    node = graph.made_by(tensor, "Mul")
    if node is None or any(graph.fixed(name) is not None for name in node.input):
        return None
    a, b = node.input
    if graph.shape(a) == graph.shape(b):
        return chain(tensor, [a, b], Multiply())
    x, gate = (a, b) if np.prod(graph.shape(a)) > np.prod(graph.shape(b)) else (b, a)
    image, gates = graph.shape(x), graph.shape(gate)
    if len(image) != 3 or gates != (image[0], 1, 1):
        raise RefusalError(f"it multiplies rows of different shapes: {image} and {gates}")
    flat = Node(inner(tensor, 0), Flatten(), (gate,))
    return Piece((x, gate), (flat, Node(tensor, Multiply(2), (x, flat.name))))


HANDLERS: tuple[Handler, ...] = (constant, product)


# ----- below


def _scale(kind: str, number: float, *, is_first: bool) -> Layer:
    if kind == "Mul":
        return Scale(number)
    if kind == "Div":
        return Scale(1 / number)
    if kind == "Add":
        return Scale(1.0, number)
    return Scale(-1.0, number) if is_first else Scale(1.0, -number)


def _columns(kind: str, value: Array, shape: tuple[int, ...]) -> Layer:
    each = value.reshape(-1).astype(np.float64)
    if not shape or len(each) != shape[-1] or value.shape[-1] != shape[-1] or len(shape) > 2:
        raise RefusalError(
            f"a constant of shape {value.shape} beside rows of shape {shape}: neither one number "
            "nor one a column"
        )
    none, ones = np.zeros_like(each), np.ones_like(each)
    if kind in ("Add", "Sub"):
        return Standardize((-each if kind == "Add" else each).tolist(), ones.tolist())
    factor = each if kind == "Mul" else 1 / each
    if not (np.isfinite(factor) & (factor > 0)).all():
        raise RefusalError("columns multiplied with numbers that are not positive")
    return Standardize(none.tolist(), (1 / factor).tolist())
