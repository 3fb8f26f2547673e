"""Labels of classes, told beside the probabilities that they are made of."""

from __future__ import annotations

import numpy as np
import onnx

from compress.model_file import attribute
from compress.onnx_import.graph import Graph, RefusalError
from compress.onnx_import.piece import Handler, Piece, chain
from hlserve.nn.layers import ArgMax

# What stands behind an ArgMax: the label is looked up, and its type and shape are changed.
_BEHIND = ("ArrayFeatureExtractor", "Cast", "Identity", "Reshape", "Squeeze")


def label(graph: Graph, tensor: str) -> Piece | None:
    """The number of the largest of a row's features, where classes are numbered from 0."""
    node = _arg_max(graph, tensor)
    if node is None:
        return None
    source, value = node.input[0], graph.value(tensor)
    if len(graph.shape(source)) != 1 or attribute(node, "axis", 0) not in (1, -1):
        raise RefusalError(f"the largest of rows {graph.shape(source)}, expected (features,)")
    if value.dtype != np.int64 or value.shape != (graph.n,) or _renames(graph, tensor):
        raise RefusalError(
            f"labels {value.dtype} of shape {value.shape} that are no numbers from 0"
        )
    return chain(tensor, [source], ArgMax())


HANDLERS: tuple[Handler, ...] = (label,)


# ----- below


def _arg_max(graph: Graph, tensor: str) -> onnx.NodeProto | None:
    while True:
        node = graph.made_by(tensor, "ArgMax", *_BEHIND)
        if node is None or node.op_type == "ArgMax":
            return node
        tensor = node.input[1 if node.op_type == "ArrayFeatureExtractor" else 0]


def _renames(graph: Graph, tensor: str) -> bool:
    """Whether the labels that are looked up are others than 0, 1, 2 and so on."""
    node = graph.made_by(tensor, *_BEHIND)
    while node is not None:
        if node.op_type == "ArrayFeatureExtractor":
            names = graph.fixed(node.input[0])
            return names is None or not np.array_equal(names.reshape(-1), np.arange(names.size))
        node = graph.made_by(node.input[0], *_BEHIND)
    return False
