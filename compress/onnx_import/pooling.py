"""Pooling over windows and over all places."""

from __future__ import annotations

import numpy as np
import onnx

from compress.model_file import attribute
from compress.onnx_import.geometry import Geometry, geometry, padding_before
from compress.onnx_import.graph import Graph, RefusalError, operand
from compress.onnx_import.piece import Handler, Piece, chain
from hlserve.nn.layer import Layer
from hlserve.nn.layers import (
    AvgPool1d,
    AvgPool2d,
    Flatten,
    GlobalAvgPool,
    MaxPool1d,
    MaxPool2d,
    MeanOverTime,
    Reshape,
    Transpose,
)


def windows(graph: Graph, tensor: str) -> Piece | None:
    """The largest value or the mean of every window, over one axis or two."""
    node = graph.made_by(tensor, "MaxPool", "AveragePool")
    if node is None:
        return None
    if node.output[0] != tensor:
        raise RefusalError("its second output, the places of the largest values")
    kernel = tuple(attribute(node, "kernel_shape", ()))
    if set(attribute(node, "dilations", [1])) != {1}:
        raise RefusalError("windows that have holes")
    if node.op_type == "MaxPool":
        found = geometry(graph, node, kernel, fill=-np.inf)
        return chain(tensor, [found.source], _pool(found, MaxPool1d, MaxPool2d))
    return _average(graph, tensor, node, kernel)


def over_places(graph: Graph, tensor: str) -> Piece | None:
    """The mean or the largest value of every channel over all its places."""
    node = graph.made_by(tensor, "GlobalAveragePool", "ReduceMean", "GlobalMaxPool", "ReduceMax")
    if node is None:
        return None
    before, after = graph.shape(node.input[0]), graph.shape(tensor)
    axes = list(range(1, len(before)))
    if node.op_type.startswith("Reduce"):
        axes = _reduced(graph, node, len(before))
    if not axes or min(axes) < 0:
        raise RefusalError("it reduces over rows, or over nothing")
    kept = [axis for axis in range(len(before)) if axis not in axes]
    if len(kept) != 1 or len(axes) not in (1, 2):
        raise RefusalError(f"it reduces axes {axes} of rows {before}; one of two or three may stay")
    is_mean = node.op_type in ("GlobalAveragePool", "ReduceMean")
    turned = [] if kept == [0] else [Transpose((kept[0], *axes))]
    layers: list[Layer]
    if is_mean:
        layers = [MeanOverTime()] if kept == [1] and len(axes) == 1 else [*turned, GlobalAvgPool()]
    else:
        places = tuple(before[axis] for axis in axes)
        pool = MaxPool1d(places[0]) if len(places) == 1 else MaxPool2d(places)
        layers = [*turned, pool, Flatten()]
    if len(after) > 1:
        layers.append(Reshape(tuple(-1 if i == kept[0] else 1 for i in range(len(after)))))
    return chain(tensor, [node.input[0]], *layers)


HANDLERS: tuple[Handler, ...] = (windows, over_places)


# ----- below


def _pool(
    found: Geometry,
    of_one: type[MaxPool1d] | type[AvgPool1d],
    of_two: type[MaxPool2d] | type[AvgPool2d],
    **options: bool,
) -> Layer:
    if len(found.kernel) == 1:
        return of_one(found.kernel[0], found.stride[0], found.padding, **options)
    return of_two(found.kernel, found.stride, found.padding, **options)


def _average(graph: Graph, tensor: str, node: onnx.NodeProto, kernel: tuple[int, ...]) -> Piece:
    counts_padding = bool(attribute(node, "count_include_pad", 0))
    plain = geometry(graph, node, kernel, fill=None)
    if attribute(node, "ceil_mode", 0) and counts_padding:
        if any(attribute(node, "pads", ())):
            raise RefusalError("a mean that counts some of its padding, not the rest (ceil_mode)")
        counts_padding = False  # what lies over the edge is no padding and never counts
    is_padded_before = padding_before(graph, node.input[0], 0.0) is not None
    if is_padded_before and (counts_padding or not any(plain.pads)):
        merged = geometry(graph, node, kernel)
        if all(2 * pad <= k for pad, k in zip(merged.pads, kernel * 2, strict=True)):
            plain, counts_padding = merged, True  # else the Pad is a layer of its own
    options = {} if counts_padding or not any(plain.pads) else {"counts_padding": False}
    return chain(tensor, [plain.source], _pool(plain, AvgPool1d, AvgPool2d, **options))


def _reduced(graph: Graph, node: onnx.NodeProto, n_axes: int) -> list[int]:
    """The axes of a row; -1 stands for the rows themselves."""
    given = operand(node, 1)
    fixed = graph.fixed(given) if given else None
    axes = attribute(node, "axes", None) if fixed is None else fixed.reshape(-1).tolist()
    if axes is None:
        raise RefusalError("it reduces over everything, rows too")
    return sorted(axis % (n_axes + 1) - 1 for axis in axes)
