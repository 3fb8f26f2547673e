"""Operators that turn axes or take parts, taken together: what they leave of each other."""

from __future__ import annotations

import numpy as np

from compress.onnx_import.graph import Graph, RefusalError
from compress.onnx_import.movement import REARRANGED, arranged, in_order, keeps_rows, moves, origin
from compress.onnx_import.piece import Handler, Piece, chain
from hlserve.nn.layer import Layer
from hlserve.nn.layers import Flatten, Reshape, Slice, Transpose
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
    if name != tensor and graph.made_by(tensor, "Gather") is None:
        return None  # the model's own are looked at one by one
    return selected(graph, tensor, found.source, found.places)


HANDLERS: tuple[Handler, ...] = (taken_together,)


def selected(graph: Graph, tensor: str, source: str, places: Array) -> Piece:
    """The numbers at some places of a tensor whose rows come first.

    Raises:
        RefusalError: they are no part along axes, and no other shape or order of all.
    """
    before, after = graph.shape(source), graph.shape(tensor)
    every = in_order(graph.value(source).shape)
    if len(before) == 2 and np.array_equal(places, every.swapaxes(1, 2)):
        return chain(tensor, [source], Transpose())
    spans = _spans(before, places[0])
    box = every[:, *(slice(s.start, s.stop, s.step) for s in spans)]
    if not np.array_equal(places.reshape(-1), box.reshape(-1)):
        raise RefusalError(f"it turns the axes of rows {before} or takes parts of them: {after}")
    layers: list[Layer] = [
        Slice(span.start, span.stop, axis, span.step)
        for axis, (span, size) in enumerate(zip(spans, before, strict=True))
        if span != range(size)
    ]
    if box.shape[1:] != after:
        layers.append(Flatten() if len(after) == 1 else Reshape(after))
    return chain(tensor, [source], *layers)


# ----- below


def _spans(shape: tuple[int, ...], places: Array) -> list[range]:
    """Along every axis of a row the evenly spaced indices that a row's places reach."""
    spans = []
    for indices in np.unravel_index(places.reshape(-1), shape):
        found = np.unique(indices)
        step = int(found[1] - found[0]) if len(found) > 1 else 1
        spans.append(range(int(found[0]), int(found[-1]) + 1, step))
    return spans
