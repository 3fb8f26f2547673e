"""Fully connected layers: Gemm, and MatMul with or without an Add."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx

from compress.model_file import attribute
from compress.onnx_import.graph import Graph, RefusalError, operand
from compress.onnx_import.piece import Handler, Piece, chain
from hlserve.nn.layers import Linear
from hlserve.nn.param import Array


@dataclass(frozen=True, slots=True)
class Product:
    """What a fully connected layer reads and holds.

    Attributes:
        x: the name of what is multiplied.
        weight: (out, in).
        bias: (out,) or None.
    """

    x: str
    weight: Array
    bias: Array | None


def dense(graph: Graph, tensor: str) -> Piece | None:
    """W x + b, of vectors and of sequences."""
    found = product(graph, tensor)
    if found is None:
        return None
    return chain(tensor, [found.x], linear(found.weight, found.bias))


def product(graph: Graph, tensor: str) -> Product | None:
    """Of a Gemm, or a MatMul and what is added to it."""
    return _gemm(graph, tensor) or _matmul(graph, tensor)


def linear(weight: Array, bias: Array | None) -> Linear:
    """The layer of a weight (out, in) and a bias (out,) or none."""
    arrays = {"weight": np.ascontiguousarray(weight, np.float32)}
    if bias is not None:
        arrays["bias"] = np.ascontiguousarray(bias, np.float32)
    return Linear(weight.shape[1], weight.shape[0], bias is not None).with_arrays(arrays)


HANDLERS: tuple[Handler, ...] = (dense,)


# ----- below


def _gemm(graph: Graph, tensor: str) -> Product | None:
    """Alpha x W^T + beta c, the scalars taken into the weights."""
    node = graph.made_by(tensor, "Gemm")
    if node is None:
        return None
    weight, offset = graph.fixed(node.input[1]), operand(node, 2)
    bias = graph.fixed(offset) if offset else None
    if weight is None or (offset and bias is None) or attribute(node, "transA", 0):
        raise RefusalError("its weights are computed from the rows")
    if not attribute(node, "transB", 0):
        weight = weight.T
    weight = weight * attribute(node, "alpha", 1.0)
    if bias is not None:
        bias = _vector(bias * attribute(node, "beta", 1.0), len(weight))
    return Product(node.input[0], weight, bias)


def _matmul(graph: Graph, tensor: str) -> Product | None:
    node, bias = graph.made_by(tensor, "MatMul"), None
    if node is None:
        added = graph.made_by(tensor, "Add")
        if added is None:
            return None
        node, bias = _biased(graph, *added.input)
        if node is None:
            return None
    weight = graph.fixed(node.input[1])
    if weight is None or weight.ndim != 2:
        return None
    return Product(node.input[0], weight.T, bias)


def _biased(graph: Graph, a: str, b: str) -> tuple[onnx.NodeProto | None, Array | None]:
    for product, offset in ((a, b), (b, a)):
        node, bias = graph.made_by(product, "MatMul"), graph.fixed(offset)
        if node is None or bias is None or not graph.has_one_reader(product):
            continue
        weight = graph.fixed(node.input[1])
        if weight is None or weight.ndim != 2:
            continue
        is_vector = bias.size == weight.shape[1] and bias.shape[-1] == weight.shape[1]
        if bias.size == 1 or is_vector:
            return node, _vector(bias, weight.shape[1])
    return None, None


def _vector(bias: Array, n: int) -> Array:
    if bias.size not in (1, n):
        raise RefusalError(
            f"it adds an array of shape {bias.shape}, which is not one number a feature"
        )
    return np.broadcast_to(bias.reshape(-1), n)
