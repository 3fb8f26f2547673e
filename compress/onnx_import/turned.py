"""Operators that turn axes or take parts, taken together: what they leave of each other."""

from __future__ import annotations

import numpy as np

from compress.onnx_import.graph import Graph, RefusalError
from compress.onnx_import.movement import REARRANGED, arranged, in_order, keeps_rows, moves, origin
from compress.onnx_import.piece import Handler, Piece, chain
from hlserve.nn.layers import Flatten, Reshape, Transpose
from hlserve.nn.param import Array


def taken_together(graph: Graph, tensor: str) -> Piece | None:
    """What is behind a chain of them, where they undo each other or can be pulled ahead."""
    if not moves(graph, tensor):
        return None
    found = origin(graph, tensor)
    if found is None:
        return None
    graph.shape(tensor)  # refuses rows that are not first
    name = arranged(graph, tensor, in_order(graph.value(tensor).shape))
    node = graph.producer(name)
    if name != tensor and (node is None or node.op_type != REARRANGED):
        return Piece((name,))
    if not keeps_rows(graph, found.source, found.places):
        raise RefusalError(
            f"it makes rows of {found.source!r} of shape {graph.value(found.source).shape}, in "
            "which rows do not come first"
        )
    return _layers(graph, tensor, found.source, found.places) if name == tensor else None


HANDLERS: tuple[Handler, ...] = (taken_together,)


# ----- below


def _layers(graph: Graph, tensor: str, source: str, places: Array) -> Piece:
    """For an operator that is imagined; those of the model are looked at one by one."""
    before, after = graph.shape(source), graph.shape(tensor)
    every = in_order(graph.value(source).shape)
    if np.array_equal(places.reshape(-1), every.reshape(-1)):
        return chain(tensor, [source], Flatten() if len(after) == 1 else Reshape(after))
    if len(before) == 2 and np.array_equal(places, every.swapaxes(1, 2)):
        return chain(tensor, [source], Transpose())
    raise RefusalError(f"it turns the axes of rows {before} or takes parts of them: {after}")
