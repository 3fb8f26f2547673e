"""How much a unit (a neuron, a filter) matters: one score for each, higher is dearer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from compress.technique import Data, affordable_rows
from hlserve.errors import CompressionError
from hlserve.nn.channels import Binding
from hlserve.nn.losses import BinaryCrossEntropy, CrossEntropy, Loss, MeanSquaredError
from hlserve.nn.network import Network
from hlserve.nn.param import Array

Importance = Literal["l1", "l2", "taylor"]

TAYLOR_BATCHES = 32  # of at most 128 rows: the ranking hardly moves beyond
_TAYLOR_BATCH_SIZE = 128
_BACKWARD = 3  # a pass there and back takes as long as so many there


def unit_scores(
    importance: Importance, network: Network, bindings: Sequence[Binding], data: Data
) -> dict[int, float]:
    """The score of every unit that the bindings produce, by unit id.

    ``l1`` and ``l2``: the norm of the unit's own weights (Li et al. 2017, arXiv:1608.08710).
    ``taylor``: the squared first-order change of the loss if the unit went, averaged over
    batches (Molchanov et al. 2019, arXiv:1906.10771, equation 8).

    Raises:
        CompressionError: ``taylor`` without labels.
    """
    producers = [binding for binding in bindings if binding.is_producer]
    if importance == "taylor":
        return _taylor(network, producers, data)
    power = 1 if importance == "l1" else 2
    # biases (one axis) are no part of the norm: their size says little about the unit's use
    weights = [binding for binding in producers if binding.param.value.ndim > 1]
    return _summed(weights, [np.abs(b.param.value.astype(np.float64)) ** power for b in weights])


def _taylor(network: Network, producers: Sequence[Binding], data: Data) -> dict[int, float]:
    if data.train.y is None:
        raise CompressionError("importance 'taylor' needs labels; use 'l1'")
    loss: Loss = MeanSquaredError()
    if network.task == "classification":
        loss = CrossEntropy()
    elif network.task == "multilabel":
        loss = BinaryCrossEntropy()
    order = np.random.default_rng(data.seed).permutation(len(data.train))
    most = TAYLOR_BATCHES * _TAYLOR_BATCH_SIZE
    step = affordable_rows(network, most, times=_BACKWARD, fewest=TAYLOR_BATCHES) // TAYLOR_BATCHES
    workspace = network.workspace(np.random.default_rng(data.seed))
    scores: dict[int, float] = {}
    for start in range(0, len(order), step)[:TAYLOR_BATCHES]:
        rows = data.train.take(np.sort(order[start : start + step]))
        network.grad.fill(0)
        outputs, backward = network.forward(
            rows.inputs, workspace=workspace, until=network.logits_node
        )
        backward(loss(outputs, np.asarray(rows.y))[1])
        products = [b.param.value.astype(np.float64) * b.param.grad for b in producers]
        for unit, change in _summed(producers, products).items():
            scores[unit] = scores.get(unit, 0.0) + change**2
    network.grad.fill(0)
    return scores


def _summed(bindings: Sequence[Binding], values: Sequence[Array]) -> dict[int, float]:
    """The sum over every index that belongs to a unit, by unit."""
    scores: dict[int, float] = {}
    for binding, value in zip(bindings, values, strict=True):
        others = tuple(axis for axis in range(value.ndim) if axis != binding.axis)
        for unit, total in zip(binding.ids.tolist(), value.sum(axis=others).tolist(), strict=True):
            scores[unit] = scores.get(unit, 0.0) + total
    return scores
