"""Convolutions, and the way back of one."""

from __future__ import annotations

import numpy as np
import onnx

from compress.model_file import attribute
from compress.onnx_import.geometry import geometry
from compress.onnx_import.graph import Graph, RefusalError, operand
from compress.onnx_import.piece import Handler, Piece, chain
from hlserve.nn.layer import Layer
from hlserve.nn.layers import Conv1d, Conv2d, ConvTranspose2d, Reshape
from hlserve.nn.param import Array


def conv(graph: Graph, tensor: str) -> Piece | None:
    """Over one axis or two; a Pad of zeros before it becomes its padding."""
    node = graph.made_by(tensor, "Conv")
    if node is None:
        return None
    arrays = _arrays(graph, node)
    weight, has_bias = arrays["weight"], "bias" in arrays
    found = geometry(graph, node, weight.shape[2:])
    groups = attribute(node, "group", 1)
    n_in, n_out = weight.shape[1] * groups, len(weight)
    sizes = (found.stride, found.padding)
    layer: Layer
    if len(found.kernel) == 1:
        (kernel,), (stride,), (dilation,) = found.kernel, found.stride, found.dilation
        layer = Conv1d(n_in, n_out, kernel, stride, found.padding, dilation, groups, has_bias)
    else:
        layer = Conv2d(n_in, n_out, found.kernel, *sizes, groups, has_bias, found.dilation)
    return chain(tensor, [found.source], layer.with_arrays(arrays))


def conv_transpose(graph: Graph, tensor: str) -> Piece | None:
    """Over one axis, as over images of height 1, or two."""
    node = graph.made_by(tensor, "ConvTranspose")
    if node is None:
        return None
    arrays = _arrays(graph, node)
    is_flat = arrays["weight"].ndim == 3  # in, out, kernel
    told_size = attribute(node, "output_shape", None) is not None
    if told_size or attribute(node, "auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        raise RefusalError("its padding follows from the size that it is told to have")
    found = geometry(graph, node, arrays["weight"].shape[2:], fill=None)
    n = len(found.kernel)
    added = tuple(attribute(node, "output_padding", [0] * n))
    kernel, stride, dilation, pads = found.kernel, found.stride, found.dilation, found.pads
    if is_flat:
        arrays["weight"] = arrays["weight"][:, :, None]
        kernel, stride, dilation, added = (1, *kernel), (1, *stride), (1, *dilation), (0, *added)
        pads = (0, pads[0], 0, pads[1])
    groups, weight = attribute(node, "group", 1), arrays["weight"]
    layer = ConvTranspose2d(
        len(weight),
        weight.shape[1] * groups,
        kernel,
        stride,
        pads[:2] if pads[:2] == pads[2:] else pads,
        added,
        groups,
        "bias" in arrays,
        dilation,
    ).with_arrays(arrays)
    if not is_flat:
        return chain(tensor, [found.source], layer)
    (_, length), (_, grown) = graph.shape(found.source), graph.shape(tensor)
    ends = Reshape((-1, 1, length)), Reshape((-1, grown))
    return chain(tensor, [found.source], ends[0], layer, ends[1])


HANDLERS: tuple[Handler, ...] = (conv, conv_transpose)


# ----- below


def _arrays(graph: Graph, node: onnx.NodeProto) -> dict[str, Array]:
    """The weight and, where there is one, the bias."""
    weight, offset = graph.fixed(node.input[1]), operand(node, 2)
    bias = graph.fixed(offset) if offset else None
    if weight is None or (offset and bias is None):
        raise RefusalError("its weights are computed from the rows")
    arrays = {"weight": weight.astype(np.float32)}
    if bias is not None:
        arrays["bias"] = bias.astype(np.float32)
    return arrays
