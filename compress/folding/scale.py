"""A common scale of the input, such as 1/255 for pixels, folded into the first layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from compress.folding.bypass import without
from compress.technique import Compressed, Data, Technique, require_floats
from hlserve.nn.layers import (
    GRU,
    LSTM,
    RNN,
    AvgPool1d,
    AvgPool2d,
    Conv1d,
    Conv2d,
    Flatten,
    GlobalAvgPool,
    Linear,
    MaxPool1d,
    MaxPool2d,
    ReLU,
    Reshape,
    Scale,
)
from hlserve.nn.network import Network, Node

# Layers that read their input through ``weight`` alone.
_READERS = (Conv1d, Conv2d, GRU, LSTM, Linear, RNN)
# Layers f with f(c * x) = c * f(x), for positive c in the last two.
_LINEAR_IN_SIZE = (AvgPool1d, AvgPool2d, Flatten, GlobalAvgPool, Reshape)
_LINEAR_IN_POSITIVE_SIZE = (MaxPool1d, MaxPool2d, ReLU)


@final
@dataclass(frozen=True, slots=True)
class FoldScale(Technique):
    """W (c x) + b = (c W) x + b: the multiplication ahead of the first layer disappears.

    Only a scale that all numbers share, and no shift: per-column standardization would be
    undone by the one scale of a quantized input, and a shift is not exact beside zero padding.
    A network without such a layer comes out as it is.
    """

    def requires(self, network: Network, data: Data) -> None:
        """See Technique."""
        require_floats("FoldScale", network)

    def transform(self, network: Network, data: Data) -> Compressed:
        """See Technique."""
        result = network.copy()
        for node in result.nodes:
            layer = node.layer
            if isinstance(layer, Scale) and layer.shift == 0:
                readers = _weights_behind(result, node.name, is_positive=layer.factor > 0)
                if readers:
                    return Compressed(_folded(result, node, readers, layer.factor))
        return Compressed(result)


def _weights_behind(network: Network, name: str, *, is_positive: bool) -> list[Node]:
    """The layers with weights that read this value; none if anything else reads it."""
    found: list[Node] = []
    passed = _LINEAR_IN_SIZE + (_LINEAR_IN_POSITIVE_SIZE if is_positive else ())
    for node in network.nodes:
        if name not in node.inputs:
            continue
        if isinstance(node.layer, _READERS):
            found.append(node)
            continue
        behind = (
            _weights_behind(network, node.name, is_positive=is_positive)
            if isinstance(node.layer, passed)
            else []
        )
        if not behind:
            return []
        found += behind
    return [] if name in network.outputs.values() else found


def _folded(network: Network, scale: Node, readers: list[Node], factor: float) -> Network:
    for reader in readers:
        reader.layer.params()["weight"].value[...] *= factor
    return without(network, scale)
