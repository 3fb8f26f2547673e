"""What the numbers of an imported network mean."""

from __future__ import annotations

from math import prod

import numpy as np

from hlserve.errors import ConfigError
from hlserve.nn.layer import Shape
from hlserve.nn.layers import Sigmoid, Softmax
from hlserve.nn.network import Network, Task
from hlserve.nn.param import Array


def task_of(network: Network, labels: Array | None) -> Task | None:
    """What the numbers mean, as the layer behind them or labels tell."""
    try:
        scores = network.logits_node
    except ConfigError:  # several outputs
        return None
    shape, ends = network.shapes[scores], map(network.node, network.outputs.values())
    links = [node.layer for node in ends if node.inputs == (scores,)]
    if any(isinstance(layer, Softmax) for layer in links):
        return "classification"
    return None if labels is None else _told_by(labels, shape, [Sigmoid] == list(map(type, links)))


# ----- below


def _told_by(labels: Array, shape: Shape, is_behind_sigmoid: bool) -> Task | None:
    is_indexed = labels.dtype.kind in "iub" and labels.ndim == 1
    if is_indexed and len(shape) == 1 and shape[0] > 1 and not is_behind_sigmoid:
        are_classes = labels.min() >= 0 and labels.max() < shape[0]
        return "classification" if are_classes else None
    if prod(labels.shape[1:]) != prod(shape):
        return None
    if not is_behind_sigmoid:
        return "regression"
    return "multilabel" if np.isin(labels, (0, 1)).all() else None
