"""Structured pruning: whole neurons and filters go, and with them what reads them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np

from compress.pruning.groups import Group, groups, groups_of
from compress.pruning.importance import Importance, unit_scores
from compress.technique import Compressed, Data, Kinds, Technique, require_floats
from hlserve.errors import CompressionError, ConfigError
from hlserve.nn.channels import Binding
from hlserve.nn.network import Network
from hlserve.nn.param import Array


@final
@dataclass(frozen=True, slots=True)
class PruneChannels(Technique):
    """Removes the least important units of every group of coupled channels.

    A group is the units of one layer, or of several that an addition ties together; where an
    addition ties only some of a layer's units, as that of a Concat does, these are a group of
    their own. No unit is in two groups, and every group keeps one at least. What the network
    takes and gives keeps its width. Weights are sliced, not zeroed: the network that
    comes out is smaller.

    Attributes:
        ratio: the share of units to remove from every group, 0 to 1.
        widths: instead, how many units each group keeps, in graph order.
        importance: what decides who goes; see ``importance.unit_scores``.
        round_to: widths become multiples of this, which the runtime's kernels prefer; a group
            of fewer units keeps them all.
        layers: ``all``, or ``linear`` to leave the filters of convolutions alone.
    """

    ratio: float = 0.5
    widths: tuple[int, ...] | None = None
    importance: Importance = "taylor"
    round_to: int = 8
    layers: Kinds = "all"

    def __post_init__(self) -> None:
        if not 0 <= self.ratio < 1:
            raise ConfigError(f"PruneChannels: ratio is {self.ratio}, expected 0 <= ratio < 1")
        if self.round_to < 1 or any(width < 1 for width in self.widths or ()):
            raise ConfigError(
                f"PruneChannels: round_to (={self.round_to}) and widths (={self.widths}) "
                "must be at least 1"
            )

    def requires(self, network: Network, data: Data) -> None:
        """See Technique."""
        require_floats("PruneChannels", network)

    def transform(self, network: Network, data: Data) -> Compressed:
        """See Technique."""
        bound = network.copy()  # Taylor's gradients are written into the copy
        flow = bound.channel_flow()
        bindings = flow.bindings()
        found = groups_of(bound, bindings, flow.protected(), self.layers)
        scores = unit_scores(self.importance, bound, bindings, data)
        dropped: set[int] = set()
        for group, keep in zip(found, self._widths(found), strict=True):
            by_score = sorted(group.units, key=lambda unit: (-scores[unit], unit))
            dropped.update(by_score[keep:])
        return Compressed(_without(bound, bindings, dropped))

    def _widths(self, found: Sequence[Group]) -> list[int]:
        sizes = [group.width for group in found]
        if self.widths is None:
            return [rounded_width(size, 1 - self.ratio, self.round_to) for size in sizes]
        if len(self.widths) != len(sizes) or any(
            w > s for w, s in zip(self.widths, sizes, strict=False)
        ):
            raise CompressionError(
                f"PruneChannels: widths {list(self.widths)} do not fit the network's groups of "
                f"{sizes} removable units"
            )
        return list(self.widths)


def rounded_width(width: int, share: float, round_to: int) -> int:
    """The multiple of ``round_to`` nearest to a share of ``width``, at least one, at most all."""
    return min(width, max(round_to, round_to * round(width * share / round_to)))


def removable_widths(network: Network, layers: Kinds = "all") -> list[int]:
    """How many units each group has that pruning may thin out, in graph order."""
    return [group.width for group in groups(network, layers)]


def _without(network: Network, bindings: Sequence[Binding], dropped: set[int]) -> Network:
    gone = np.array(sorted(dropped), np.int64)
    arrays: dict[int, Array] = {}
    for binding in bindings:
        value = arrays.get(id(binding.param), binding.param.value)
        kept = np.flatnonzero(~np.isin(binding.ids, gone))
        arrays[id(binding.param)] = np.take(value, kept, axis=binding.axis)
    layers = {
        node.name: node.layer.with_arrays(
            {name: arrays.get(id(p), p.value) for name, p in node.layer.params().items()}
        )
        for node in network.nodes
        if node.layer.params()
    }
    return network.replace_layers(layers)
