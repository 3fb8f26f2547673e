"""Sequences reduced to one step: the mean or the maximum over time."""

from __future__ import annotations

import onnx

from compress.model_file import attribute
from compress.onnx_import.graph import Graph, operand
from compress.onnx_import.movement import arranged, in_order
from compress.onnx_import.piece import Handler, Piece, chain
from hlserve.nn.layers import MaxOverTime, MeanOverTime, Reshape

_SEQUENCE_AXES = 3


def reduced(graph: Graph, tensor: str) -> Piece | None:
    """The mean or the maximum of all steps, whether rows or steps come first."""
    node = graph.made_by(tensor, "ReduceMean", "ReduceMax")
    if node is None or len(graph.value(node.input[0]).shape) != _SEQUENCE_AXES:
        return None
    axes = reduced_axes(graph, node)
    if axes not in ((0,), (1,)):
        return None
    after = graph.shape(tensor)  # refuses a mean over rows
    every = in_order(graph.value(node.input[0]).shape)
    x = arranged(graph, node.input[0], every.swapaxes(0, 1) if axes == (0,) else every)
    layer = MeanOverTime() if node.op_type == "ReduceMean" else MaxOverTime()
    last = [Reshape(after)] if len(after) > 1 else []
    return chain(tensor, [x], layer, *last)


HANDLERS: tuple[Handler, ...] = (reduced,)


def reduced_axes(graph: Graph, node: onnx.NodeProto) -> tuple[int, ...]:
    """The axes that an operator reduces, counted from the front."""
    given = operand(node, 1)
    axes = graph.value(given).reshape(-1).tolist() if given else attribute(node, "axes", [])
    n = len(graph.value(node.input[0]).shape)
    return tuple(sorted(axis % n for axis in axes))
