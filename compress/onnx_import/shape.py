"""Operators that move numbers without changing them."""

from __future__ import annotations

from compress.onnx_import.graph import Graph
from compress.onnx_import.piece import Handler, Piece, chain
from hlserve.nn.layers import Flatten, Reshape


def handed_on(graph: Graph, tensor: str) -> Piece | None:
    """Operators that change nothing in prediction."""
    node = graph.made_by(tensor, "Identity", "Dropout", "Cast")
    if node is None or node.output[0] != tensor:
        return None
    before, after = graph.value(node.input[0]), graph.value(tensor)
    return Piece((node.input[0],)) if before.dtype == after.dtype else None


def reshape(graph: Graph, tensor: str) -> Piece | None:
    """Rows of another shape with the same numbers in the same order."""
    node = graph.made_by(tensor, "Reshape", "Flatten", "Squeeze", "Unsqueeze")
    if node is None:
        return None
    before, after = graph.shape(node.input[0]), graph.shape(tensor)
    if before == after:
        return Piece((node.input[0],))
    layer = Flatten() if len(after) == 1 else Reshape(after)
    return chain(tensor, [node.input[0]], layer)


HANDLERS: tuple[Handler, ...] = (handed_on, reshape)
