"""Constants that are added to activations or multiplied with them, and gates."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from compress.onnx_import.graph import Graph, RefusalError, channel_axis
from compress.onnx_import.piece import Handler, Piece, chain, inner
from hlserve.nn.layer import Layer
from hlserve.nn.layers import Affine, Flatten, Multiply, Scale, Standardize
from hlserve.nn.network import Node
from hlserve.nn.param import Array

_KINDS = ("Add", "Sub", "Mul", "Div")


def constant(graph: Graph, tensor: str) -> Piece | None:
    """One number for all, or one for each column or channel."""
    step = _step(graph, tensor)
    if step is None:
        return None
    shape = graph.shape(step.source)
    if step.value.size == 1 and step.value.ndim <= 1 + len(shape):
        return chain(tensor, [step.source], _scale(step))
    axis = channel_axis(step.value, shape)
    if axis is None:
        raise RefusalError(
            f"a constant of shape {step.value.shape} beside rows of shape {shape}: neither one "
            "number nor one a channel"
        )
    is_last = axis == len(shape) - 1 and axis < 2  # as Standardize takes them
    columns = _columns(step) if is_last and _is_preprocessing(graph, step.source) else None
    if columns is not None:
        return chain(tensor, [step.source], columns)
    return _affine(graph, tensor, axis)


def product(graph: Graph, tensor: str) -> Piece | None:
    """Two activations of one shape, or an image and a gate for each of its channels."""
    node = graph.made_by(tensor, "Mul")
    if node is None or any(graph.fixed(name) is not None for name in node.input):
        return None
    a, b = node.input
    if graph.shape(a) == graph.shape(b):
        return chain(tensor, [a, b], Multiply())
    x, gate = (a, b) if np.prod(graph.shape(a)) > np.prod(graph.shape(b)) else (b, a)
    rows, gates = graph.shape(x), graph.shape(gate)
    n_axes = len(rows) - 1
    if n_axes not in (1, 2) or gates != (rows[0], *(1,) * n_axes):
        raise RefusalError(f"it multiplies rows of different shapes: {rows} and {gates}")
    flat = Node(inner(tensor, 0), Flatten(), (gate,))
    return Piece((x, gate), (flat, Node(tensor, Multiply(n_axes), (x, flat.name))))


HANDLERS: tuple[Handler, ...] = (constant, product)


# ----- below


@dataclass(frozen=True, slots=True)
class _Step:
    """One operator between an activation and a constant, which stands first or second."""

    kind: str
    source: str
    value: Array
    is_first: bool

    @property
    def line(self) -> tuple[Array, Array]:
        """(a, b) of y = a x + b, in float64."""
        value = self.value.astype(np.float64)
        none, ones = np.zeros_like(value), np.ones_like(value)
        if self.kind == "Mul":
            return value, none
        if self.kind == "Div":
            return 1 / value, none
        if self.kind == "Add":
            return ones, value
        return (-ones, value) if self.is_first else (ones, -value)


def _step(graph: Graph, tensor: str) -> _Step | None:
    node = graph.made_by(tensor, *_KINDS)
    if node is None:
        return None
    left, right = (graph.fixed(name) for name in node.input)
    if left is not None and right is None:
        if node.op_type == "Div":
            raise RefusalError("a constant divided by an activation")
        return _Step(node.op_type, node.input[1], left, is_first=True)
    if right is not None and left is None:
        return _Step(node.op_type, node.input[0], right, is_first=False)
    return None


def _scale(step: _Step) -> Layer:
    factor, shift = (float(array.reshape(-1)[0]) for array in step.line)
    return Scale(factor, shift)


def _is_preprocessing(graph: Graph, tensor: str) -> bool:
    """Whether only constants stand between it and an input of the model."""
    while not graph.is_input(tensor):
        step = _step(graph, tensor)
        if step is None:
            return False
        tensor = step.source
    return True


def _columns(step: _Step) -> Layer | None:
    """A Standardize; None where it has no way to say the same."""
    each = step.value.reshape(-1).astype(np.float64)
    none, ones = np.zeros_like(each), np.ones_like(each)
    if step.kind in ("Add", "Sub"):
        if step.is_first and step.kind == "Sub":
            return None
        return Standardize((-each if step.kind == "Add" else each).tolist(), ones.tolist())
    factor = step.line[0].reshape(-1)
    if not (np.isfinite(factor) & (factor > 0)).all():
        return None
    return Standardize(none.tolist(), (1 / factor).tolist())


def _affine(graph: Graph, tensor: str, axis: int) -> Piece:
    """One layer for as many operators as say a line for every channel."""
    n = graph.shape(tensor)[axis]
    scale, bias, source = np.ones(n), np.zeros(n), tensor
    while source == tensor or graph.has_one_reader(source):
        step = _step(graph, source)
        if step is None or not _fits(graph, step, axis):
            break
        factor, shift = (array.reshape(-1) for array in step.line)
        scale, bias, source = scale * factor, bias + scale * shift, step.source
    if not np.isfinite([scale, bias]).all():
        raise RefusalError("it divides channels by zero")
    arrays = {"scale": scale.astype(np.float32), "bias": bias.astype(np.float32)}
    return chain(tensor, [source], Affine(n, axis).with_arrays(arrays))


def _fits(graph: Graph, step: _Step, axis: int) -> bool:
    """Whether it is one number, or one for every index of the axis."""
    if step.value.ndim > 1 + len(graph.shape(step.source)):
        return False
    return step.value.size == 1 or channel_axis(step.value, graph.shape(step.source)) == axis
