"""Normalization: over a batch, over features, over groups of channels."""

from __future__ import annotations

import numpy as np
import onnx

from compress.model_file import attribute
from compress.onnx_import.graph import Graph, RefusalError, operand
from compress.onnx_import.piece import Handler, Piece, chain
from hlserve.nn.layer import Layer
from hlserve.nn.layers import BatchNorm, GroupNorm, LayerNorm
from hlserve.nn.param import Array

_MOST_EPSILON = 0.1  # a larger number added to a variance is something else


def batch_norm(graph: Graph, tensor: str) -> Piece | None:
    """Where it could not be folded into a layer before it."""
    node = graph.made_by(tensor, "BatchNormalization")
    if node is None:
        return None
    if attribute(node, "training_mode", 0) or node.output[0] != tensor:
        raise RefusalError("it normalizes by the rows at hand")
    names = ("gamma", "beta", "running_mean", "running_variance")
    arrays = {name: _fixed(graph, node, i + 1) for i, name in enumerate(names)}
    layer = BatchNorm(len(arrays["gamma"]), epsilon=attribute(node, "epsilon", 1e-5))
    return chain(tensor, [node.input[0]], layer.with_arrays(arrays))


def layer_norm(graph: Graph, tensor: str) -> Piece | None:
    """Over the last axis."""
    node = graph.made_by(tensor, "LayerNormalization")
    if node is None:
        return None
    shape = graph.shape(node.input[0])
    axis = attribute(node, "axis", -1)
    if axis not in (-1, len(shape)) or node.output[0] != tensor:
        raise RefusalError(f"it normalizes from axis {axis} on; there is a layer for the last one")
    scale = _fixed(graph, node, 1)
    bias = _fixed(graph, node, 2) if operand(node, 2) else np.zeros_like(scale)
    epsilon = attribute(node, "epsilon", 1e-5)
    return chain(tensor, [node.input[0]], _layer_norm(scale, bias, epsilon, shape[-1]))


def written_out(graph: Graph, tensor: str) -> Piece | None:
    """(x - mean) / sqrt(variance + epsilon) over the last axis, scaled and shifted or not."""
    bias_at = _with_constant(graph, tensor, "Add")
    scale_at = _with_constant(graph, tensor if bias_at is None else bias_at[0], "Mul")
    below = scale_at or bias_at
    normal = tensor if below is None else below[0]
    found = _normalized(graph, normal)
    if found is None:
        return None
    source, epsilon = found
    n = graph.shape(source)[-1]
    scale = np.ones(n) if scale_at is None else scale_at[1]
    bias = np.zeros(n) if bias_at is None else bias_at[1]
    if scale.size not in (1, n) or bias.size not in (1, n):
        return None
    return chain(tensor, [source], _layer_norm(scale, bias, epsilon, n))


def instance_norm(graph: Graph, tensor: str) -> Piece | None:
    """Every channel of every row by itself, or groups of channels."""
    node = graph.made_by(tensor, "InstanceNormalization", "GroupNormalization")
    if node is None:
        return None
    scale, bias = _fixed(graph, node, 1), _fixed(graph, node, 2)
    channels = graph.shape(node.input[0])[0]
    if len(scale) != channels:
        raise RefusalError(f"{len(scale)} factors for {channels} channels")
    groups = attribute(node, "num_groups", channels)
    layer = GroupNorm(groups, channels, attribute(node, "epsilon", 1e-5))
    return chain(tensor, [node.input[0]], layer.with_arrays({"scale": scale, "bias": bias}))


HANDLERS: tuple[Handler, ...] = (written_out, batch_norm, layer_norm, instance_norm)


# ----- below


def _fixed(graph: Graph, node: onnx.NodeProto, i: int) -> Array:
    value = graph.fixed(operand(node, i))
    if value is None:
        raise RefusalError("its parameters are computed from the rows")
    return value.astype(np.float32)


def _layer_norm(scale: Array, bias: Array, epsilon: float, n: int) -> Layer:
    arrays = {
        name: np.ascontiguousarray(np.broadcast_to(value.reshape(-1), n), np.float32)
        for name, value in (("scale", scale), ("bias", bias))
    }
    return LayerNorm(n, epsilon).with_arrays(arrays)


def _with_constant(graph: Graph, tensor: str, kind: str) -> tuple[str, Array] | None:
    """What a sum or product with one number a feature reads, and the numbers."""
    node = graph.made_by(tensor, kind)
    if node is None:
        return None
    for x, other in (node.input, node.input[::-1]):
        value = graph.fixed(other)
        if value is not None and graph.fixed(x) is None and value.shape[-1:] == (value.size,):
            return x, value
    return None


def _normalized(graph: Graph, tensor: str) -> tuple[str, float] | None:
    """What is centred and divided by its deviation, and epsilon."""
    parts = _quotient(graph, tensor)
    if parts is None:
        return None
    centred, deviation = parts
    minus, root = graph.made_by(centred, "Sub"), graph.made_by(deviation, "Sqrt")
    added = None if root is None else graph.made_by(root.input[0], "Add")
    if minus is None or added is None:
        return None
    source = minus.input[0]
    for variance, offset in (added.input, added.input[::-1]):
        epsilon = graph.number(offset)
        if epsilon is None or not 0 < epsilon < _MOST_EPSILON:
            continue
        x, mean, told = (
            graph.value(name).astype(np.float64) for name in (source, minus.input[1], variance)
        )
        is_mean = _is_close(mean, x.mean(axis=-1, keepdims=True))
        if is_mean and _is_close(told, x.var(axis=-1, keepdims=True)):
            return source, epsilon
    return None


def _quotient(graph: Graph, tensor: str) -> tuple[str, str] | None:
    """What a division, or a product with a reciprocal, divides by what."""
    node = graph.made_by(tensor, "Div", "Mul")
    if node is None:
        return None
    if node.op_type == "Div":
        return node.input[0], node.input[1]
    for x, other in (node.input, node.input[::-1]):
        inverse = graph.made_by(other, "Reciprocal")
        if inverse is not None:
            return x, inverse.input[0]
    return None


def _is_close(found: Array, wanted: Array) -> bool:
    """Statistics of real rows, in float32: equal but for rounding, or they are others."""
    return found.shape == wanted.shape and bool(np.allclose(found, wanted, rtol=1e-3, atol=1e-5))
