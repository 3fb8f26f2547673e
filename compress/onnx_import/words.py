"""What stands ahead of a transformer: vectors for ids, and what tells the steps apart."""

from __future__ import annotations

import numpy as np

from compress.model_file import attribute
from compress.onnx_import.graph import Graph, RefusalError, channel_axis
from compress.onnx_import.piece import Handler, Piece, chain
from hlserve.nn.layers import Embedding, LearnedPositions, PositionalEncoding
from hlserve.nn.param import Array
from hlserve.nn.workspace import Workspace


def embedding(graph: Graph, tensor: str) -> Piece | None:
    """Rows of a fixed table, looked up by ids."""
    node = graph.made_by(tensor, "Gather")
    if node is None or attribute(node, "axis", 0):
        return None
    table, ids = graph.fixed(node.input[0]), _uncast(graph, node.input[1])
    if table is None or table.ndim != 2:
        return None
    if graph.value(ids).dtype != np.int64:
        raise RefusalError(f"its ids are {graph.value(ids).dtype}, expected int64")
    layer = Embedding(*table.shape).with_arrays({"weight": table.astype(np.float32)})
    return chain(tensor, [ids], layer)


def positions(graph: Graph, tensor: str) -> Piece | None:
    """A fixed vector for every step that is added to it."""
    node = graph.made_by(tensor, "Add")
    if node is None:
        return None
    for x, constant in (node.input, reversed(node.input)):
        table = graph.fixed(constant)
        if table is None or graph.fixed(x) is not None:
            continue
        shape = graph.shape(x)
        if len(shape) != 2 or channel_axis(table, shape) is not None:
            return None
        if table.ndim > 2 and table.shape[:-2] != (1,) * (table.ndim - 2):
            raise RefusalError(f"it adds a constant of shape {table.shape} to rows {shape}")
        table = np.broadcast_to(table.reshape(table.shape[-2:]), shape)
        return chain(tensor, [x], _positions(table))
    return None


HANDLERS: tuple[Handler, ...] = (embedding, positions)


# ----- below


def _uncast(graph: Graph, tensor: str) -> str:
    node = graph.made_by(tensor, "Cast")
    return tensor if node is None else _uncast(graph, node.input[0])


def _positions(table: Array) -> LearnedPositions | PositionalEncoding:
    sines = PositionalEncoding(*table.shape)
    zeros = np.zeros((*table.shape, 1), np.float32)
    known, _ = sines.forward(zeros, training=False, workspace=Workspace())
    if np.allclose(known[..., 0], table, atol=1e-6):  # sines in float32
        return sines
    weights = {"table": np.ascontiguousarray(table, np.float32)}
    return LearnedPositions(*table.shape).with_arrays(weights)
