"""Batch normalization folded into the layer that it follows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np

from compress.folding.bypass import without
from compress.technique import Compressed, Data, Technique, require_floats
from hlserve.nn.layer import Layer
from hlserve.nn.layers import BatchNorm, Conv1d, Conv2d, Linear
from hlserve.nn.network import Network, Node
from hlserve.nn.param import Array

_CONVOLUTIONS = (Conv1d, Conv2d)


@final
@dataclass(frozen=True, slots=True)
class FoldBatchNorm(Technique):
    """gamma (W x + b - mean) / deviation + beta = W' x + b': the normalization disappears.

    With f = gamma / sqrt(variance + epsilon) channel by channel, W' = f W and b' = f (b - mean) +
    beta (Jacob et al. 2018, arXiv:1712.05877, section 3.2); a layer without bias gets one. Only
    where the layer feeds the normalization alone and makes the axis that is normalized, which a
    Linear over the steps of a sequence does not: BatchNorm takes time for the channels there.
    Others, and networks without any, stay as they are. Training goes on without batch statistics
    then, so it comes behind fine-tuning.
    """

    def requires(self, network: Network, data: Data) -> None:
        """See Technique."""
        require_floats("FoldBatchNorm", network)

    def transform(self, network: Network, data: Data) -> Compressed:
        """See Technique."""
        result = network.copy()
        for name in [node.name for node in network.nodes]:
            node = result.node(name)
            source = _layer_for_it_alone(result, node)
            if source is not None and isinstance(node.layer, BatchNorm):
                folded = result.replace_layers({source.name: _folded(source.layer, node.layer)})
                result = without(folded, folded.node(name))
        return Compressed(result)


def _layer_for_it_alone(network: Network, node: Node) -> Node | None:
    """The layer whose output this node alone reads, its units first; None where there is none."""
    for source in network.nodes:
        if (
            source.name in node.inputs
            and _makes_the_first_axis(network, source)
            and sum(source.name in reader.inputs for reader in network.nodes) == 1
            and source.name not in network.outputs.values()
        ):
            return source
    return None


def _makes_the_first_axis(network: Network, node: Node) -> bool:
    if isinstance(node.layer, Linear):
        return len(network.shapes[node.name]) == 1
    return isinstance(node.layer, _CONVOLUTIONS)


def _folded(layer: Layer, norm: BatchNorm) -> Layer:
    params = layer.params()
    weight = params["weight"]
    gamma, beta, mean, variance = (p.value.astype(np.float64) for p in norm.params().values())
    factor = gamma / np.sqrt(variance + norm.epsilon)
    bias: Array = params["bias"].value.astype(np.float64) if "bias" in params else np.zeros(1)
    folded = layer.with_arrays(
        {
            "weight": _float32((weight.value.T * factor).T),
            "bias": _float32(factor * (bias - mean) + beta),
        }
    )
    folded.params()["weight"].mask = weight.mask
    return folded


def _float32(array: Array) -> Array:
    return np.ascontiguousarray(array, np.float32)
