"""Sequences reduced to one step: the mean or the maximum over time."""

from __future__ import annotations

import numpy as np
import onnx

from compress.model_file import attribute
from compress.onnx_import.graph import Graph, operand
from compress.onnx_import.masks import step_mask
from compress.onnx_import.movement import arranged, in_order
from compress.onnx_import.piece import Handler, Piece, chain
from hlserve.nn.layers import MaxOverTime, MeanOverTime, Reshape
from hlserve.nn.param import Array

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


def mean_of_some(graph: Graph, tensor: str) -> Piece | None:
    """The mean of the steps that a mask leaves: sum(mask x) / max(sum(mask), 1)."""
    node = graph.made_by(tensor, "Div")
    total = None if node is None else graph.made_by(node.input[0], "ReduceSum")
    weighed = None if total is None else graph.made_by(total.input[0], "Mul")
    if node is None or total is None or weighed is None or reduced_axes(graph, total) != (1,):
        return None
    for x, mask in (weighed.input, reversed(weighed.input)):
        rows, is_step = graph.value(x).shape, graph.value(mask)
        if len(rows) != _SEQUENCE_AXES or is_step.shape not in ((*rows[:2], 1), rows):
            continue
        is_step = is_step[..., 0]
        count = np.maximum(is_step.sum(axis=1), 1)
        if np.isin(is_step, (0, 1)).all() and _is_count(graph.value(node.input[1]), count):
            return chain(tensor, [x, step_mask(graph, mask, is_step == 1)], MeanOverTime())
    return None


HANDLERS: tuple[Handler, ...] = (reduced, mean_of_some)


def reduced_axes(graph: Graph, node: onnx.NodeProto) -> tuple[int, ...]:
    """The axes that an operator reduces, counted from the front."""
    given = operand(node, 1)
    axes = graph.value(given).reshape(-1).tolist() if given else attribute(node, "axes", [])
    n = len(graph.value(node.input[0]).shape)
    return tuple(sorted(axis % n for axis in axes))


# ----- below


def _is_count(divisor: Array, count: Array) -> bool:
    """Whether every row is divided by how many of its steps count."""
    return divisor.shape[:1] == count.shape and bool((count == divisor.T).all())
