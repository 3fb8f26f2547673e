"""Pooling over windows and over all places."""

from __future__ import annotations

from collections.abc import Sequence

import onnx

from compress.model_file import attribute
from compress.onnx_import.graph import Graph, RefusalError, operand
from compress.onnx_import.piece import Handler, Piece, chain
from hlserve.nn.layer import Layer
from hlserve.nn.layers import (
    AvgPool1d,
    AvgPool2d,
    GlobalAvgPool,
    MaxPool1d,
    MaxPool2d,
    Reshape,
)


def windows(graph: Graph, tensor: str) -> Piece | None:
    """The largest value or the mean of every window, over one axis or two."""
    node = graph.made_by(tensor, "MaxPool", "AveragePool")
    if node is None:
        return None
    if node.output[0] != tensor:
        raise RefusalError("its second output, the places of the largest values")
    kernel = tuple(attribute(node, "kernel_shape", ()))
    n_axes = len(kernel)
    stride = tuple(attribute(node, "strides", [1] * n_axes))
    pads = tuple(attribute(node, "pads", [0] * 2 * n_axes))
    _require_plain(node, n_axes, pads)
    is_mean = node.op_type == "AveragePool"
    if is_mean and any(pads) and not attribute(node, "count_include_pad", 0):
        raise RefusalError("a mean that leaves its padding out")
    layer: Layer
    if n_axes == 1:
        layer = (AvgPool1d if is_mean else MaxPool1d)(kernel[0], stride[0], pads[0])
    else:
        layer = (AvgPool2d if is_mean else MaxPool2d)(kernel, stride, pads[:2])
    return chain(tensor, [node.input[0]], layer)


def means(graph: Graph, tensor: str) -> Piece | None:
    """The mean of every channel over all its places."""
    node = graph.made_by(tensor, "GlobalAveragePool", "ReduceMean")
    if node is None:
        return None
    before, after = graph.shape(node.input[0]), graph.shape(tensor)
    if node.op_type == "ReduceMean" and not _is_over_places(graph, node, len(before) + 1):
        raise RefusalError("a mean over other axes than all places of a channel")
    last = [] if len(after) == 1 else [Reshape((-1, *after[1:]))]
    return chain(tensor, [node.input[0]], GlobalAvgPool(), *last)


HANDLERS: tuple[Handler, ...] = (windows, means)


# ----- below


def _require_plain(node: onnx.NodeProto, n_axes: int, pads: Sequence[int]) -> None:
    if n_axes not in (1, 2):
        raise RefusalError(f"pooling over {n_axes} axes; there are layers for one and two")
    if pads[:n_axes] != pads[n_axes:]:
        raise RefusalError(f"pads {pads} that differ between the two sides")
    if attribute(node, "ceil_mode", 0) or set(attribute(node, "dilations", [1])) != {1}:
        raise RefusalError("windows that reach over the edge, or have holes")
    if attribute(node, "auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        raise RefusalError("padding that the size decides (auto_pad)")


def _is_over_places(graph: Graph, node: onnx.NodeProto, n_axes: int) -> bool:
    given = operand(node, 1)
    fixed = graph.fixed(given) if given else None
    axes = attribute(node, "axes", None) if fixed is None else fixed.reshape(-1).tolist()
    places = set(range(2, n_axes))
    return bool(places) and axes is not None and {axis % n_axes for axis in axes} == places
