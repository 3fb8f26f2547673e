"""Operators of the domain ai.onnx.ml that prepare columns."""

from __future__ import annotations

import numpy as np

from compress.model_file import attribute
from compress.onnx_import.graph import Graph, RefusalError
from compress.onnx_import.piece import Handler, Piece, chain
from hlserve.nn.layers import Standardize

DOMAIN = "ai.onnx.ml"


def scaler(graph: Graph, tensor: str) -> Piece | None:
    """(x - offset) scale for every column, as scikit-learn's scalers are written."""
    node = graph.made_by(tensor, "Scaler")
    if node is None:
        return None
    shape = graph.shape(node.input[0])
    if len(shape) != 1 or graph.value(node.input[0]).dtype != np.float32:
        raise RefusalError(f"it scales rows of shape {shape}, expected columns of float32")
    offset, scale = (
        np.broadcast_to(np.array(attribute(node, name, [none]), np.float64), shape)
        for name, none in (("offset", 0.0), ("scale", 1.0))
    )
    if not (np.isfinite(scale) & (scale > 0)).all():
        raise RefusalError("it scales columns by numbers that are not positive")
    return chain(tensor, [node.input[0]], Standardize(offset.tolist(), (1 / scale).tolist()))


HANDLERS: tuple[Handler, ...] = (scaler,)
