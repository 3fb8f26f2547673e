"""Sums and products, of activations and with constants."""

from __future__ import annotations

from compress.model_file import attribute
from compress.onnx_import.graph import Graph, RefusalError
from compress.onnx_import.piece import Handler, Piece, chain
from hlserve.nn.layers import Add, Concat


def add(graph: Graph, tensor: str) -> Piece | None:
    """Of activations of one shape."""
    node = graph.made_by(tensor, "Add", "Sum")
    if node is None or any(graph.fixed(name) is not None for name in node.input):
        return None
    shapes = [graph.shape(name) for name in node.input]
    if len(set(shapes)) > 1:
        raise RefusalError(f"it adds rows of different shapes: {shapes}")
    if len(shapes) == 1:
        return Piece((node.input[0],))
    return chain(tensor, node.input, Add())


def concat(graph: Graph, tensor: str) -> Piece | None:
    """Along an axis of the row."""
    node = graph.made_by(tensor, "Concat")
    if node is None:
        return None
    if any(graph.fixed(name) is not None for name in node.input):
        raise RefusalError("it puts constants beside activations")
    axis = attribute(node, "axis", 0)  # which ONNX requires
    axis += len(graph.value(tensor).shape) if axis < 0 else 0
    if axis == 0:
        raise RefusalError("it makes more rows")
    if len(node.input) == 1:
        return Piece((node.input[0],))
    return chain(tensor, node.input, Concat(axis - 1))


HANDLERS: tuple[Handler, ...] = (add, concat)
