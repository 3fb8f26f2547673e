"""Two probabilities from one sigmoid, as classifiers of two classes end."""

from __future__ import annotations

import numpy as np

from compress.onnx_import.dense import linear, product
from compress.onnx_import.graph import Graph
from compress.onnx_import.piece import Handler, Piece, chain
from hlserve.nn.layers import Softmax


def of_two(graph: Graph, tensor: str) -> Piece | None:
    """[1 - sigmoid(z), sigmoid(z)] = softmax([0, z]), so that it trains as classes do."""
    node = graph.made_by(tensor, "Concat")
    if node is None or len(node.input) != 2 or len(graph.value(tensor).shape) != 2:
        return None
    rest, sure = node.input
    negative, sigmoid = graph.made_by(rest, "Sub"), graph.made_by(sure, "Sigmoid")
    if negative is None or sigmoid is None or graph.number(negative.input[0]) != 1:
        return None
    found = product(graph, sigmoid.input[0]) if negative.input[1] == sure else None
    if found is None or len(found.weight) != 1:
        return None
    bias = np.zeros(1) if found.bias is None else found.bias
    layer = linear(np.pad(found.weight, ((1, 0), (0, 0))), np.pad(bias, (1, 0)))
    return chain(tensor, [found.x], layer, Softmax())


HANDLERS: tuple[Handler, ...] = (of_two,)
