"""Convolutions."""

from __future__ import annotations

import numpy as np

from compress.model_file import attribute
from compress.onnx_import.graph import Graph, RefusalError, operand
from compress.onnx_import.piece import Handler, Piece, chain
from hlserve.nn.layer import Layer
from hlserve.nn.layers import Conv1d, Conv2d


def conv(graph: Graph, tensor: str) -> Piece | None:
    """Over one axis or two."""
    node = graph.made_by(tensor, "Conv")
    if node is None:
        return None
    weight, offset = graph.fixed(node.input[1]), operand(node, 2)
    bias = graph.fixed(offset) if offset else None
    if weight is None or (offset and bias is None):
        raise RefusalError("its weights are computed from the rows")
    n_axes = weight.ndim - 2
    if n_axes not in (1, 2):
        raise RefusalError(f"a convolution over {n_axes} axes; there are layers for one and two")
    stride = tuple(attribute(node, "strides", [1] * n_axes))
    pads = tuple(attribute(node, "pads", [0] * 2 * n_axes))
    dilation = tuple(attribute(node, "dilations", [1] * n_axes))
    if pads[:n_axes] != pads[n_axes:]:
        raise RefusalError(f"pads {pads} that differ between the two sides")
    groups = attribute(node, "group", 1)
    n_in, n_out = weight.shape[1] * groups, len(weight)
    layer: Layer
    if n_axes == 1:
        layer = Conv1d(
            n_in, n_out, weight.shape[2], stride[0], pads[0], dilation[0], groups, bias is not None
        )
    else:
        if set(dilation) != {1}:
            raise RefusalError(f"dilations {dilation}")
        layer = Conv2d(n_in, n_out, weight.shape[2:], stride, pads[:2], groups, bias is not None)
    arrays = {"weight": weight.astype(np.float32)}
    if bias is not None:
        arrays["bias"] = bias.astype(np.float32)
    return chain(tensor, [node.input[0]], layer.with_arrays(arrays))


HANDLERS: tuple[Handler, ...] = (conv,)
