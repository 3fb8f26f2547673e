"""Structured pruning: whole neurons and filters go, and with them what reads them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np

from compress.pruning.importance import Importance, unit_scores
from compress.technique import Compressed, Data, Kinds, Technique, require_floats
from hlserve.errors import CompressionError, ConfigError
from hlserve.nn.channels import Binding
from hlserve.nn.layers import Conv1d, Conv2d
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
        groups = _groups(bound, bindings, flow.protected(), self.layers)
        scores = unit_scores(self.importance, bound, bindings, data)
        dropped: set[int] = set()
        for units, keep in zip(groups, self._widths(groups), strict=True):
            by_score = sorted(units, key=lambda unit: (-scores[unit], unit))
            dropped.update(by_score[keep:])
        return Compressed(_without(bound, bindings, dropped))

    def _widths(self, groups: Sequence[Sequence[int]]) -> list[int]:
        if self.widths is None:
            return [rounded_width(len(g), 1 - self.ratio, self.round_to) for g in groups]
        sizes = [len(units) for units in groups]
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
    flow = network.channel_flow()
    return [len(units) for units in _groups(network, flow.bindings(), flow.protected(), layers)]


def _groups(
    network: Network, bindings: Sequence[Binding], protected: set[int], layers: Kinds
) -> list[list[int]]:
    convolved = {
        id(param)
        for node in network.nodes
        if isinstance(node.layer, Conv1d | Conv2d)
        for param in node.layer.params().values()
    }
    producers = [binding for binding in bindings if binding.is_producer]
    kept = protected.copy()
    if layers == "linear":  # what a convolution makes stays, even where a gate is coupled to it
        kept.update(u for b in producers if id(b.param) in convolved for u in b.ids.tolist())
    return [units for units in _parted(producers) if not kept.intersection(units)]


def _parted(producers: Sequence[Binding]) -> list[list[int]]:
    """Units by the producers that make them, so that each is in one group alone.

    Of Concat(A, B) added to C, producers are of A, of B, and of both at once: A's units go with
    C's first ones, B's with its others, and C needs no group beside these two.
    """
    made_by: dict[int, list[int]] = {}
    for number, binding in enumerate(producers):
        for unit in sorted(set(binding.ids.tolist())):
            made_by.setdefault(unit, []).append(number)
    groups: dict[tuple[int, ...], list[int]] = {}
    for unit, numbers in made_by.items():
        groups.setdefault(tuple(numbers), []).append(unit)
    return list(groups.values())


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
