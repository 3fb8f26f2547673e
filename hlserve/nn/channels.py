"""Where every channel of every activation comes from: what structured pruning walks.

Each index of an activation's channel axis carries the id of a *unit*, such as a neuron or a
filter. A layer that makes units asks for new ids, a layer that re-indexes them (Flatten,
Concat) re-indexes the ids, and a layer that needs two activations to stay aligned (Add)
couples theirs. Every parameter axis that follows units is bound to their ids. Removing a unit
is then: drop every index, of every bound axis, whose id is that unit's.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from hlserve.nn.param import Param

ChannelIds = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Channels:
    """The units of one activation.

    ``axis`` is the channel axis in the shape of one row: 0 in (features,) and (channels,
    height, width), 1 in (time, features).
    """

    ids: ChannelIds
    axis: int = 0


@dataclass(frozen=True, slots=True)
class Binding:
    """One axis of one parameter and the unit that each of its indices belongs to.

    ``is_producer`` tells the axis that makes the units (output channels) from one that reads
    them (input channels).
    """

    param: Param
    axis: int
    ids: ChannelIds
    is_producer: bool


class ChannelFlow:
    """Collects ids, couplings and bindings while a network's nodes are walked in order."""

    def __init__(self) -> None:
        self._parents: list[int] = []
        self._bindings: list[Binding] = []
        self._protected: list[ChannelIds] = []

    def new(self, n: int) -> ChannelIds:
        """Ids of ``n`` units seen for the first time."""
        first = len(self._parents)
        self._parents.extend(range(first, first + n))
        return np.arange(first, first + n, dtype=np.int64)

    def couple(self, a: ChannelIds, b: ChannelIds) -> ChannelIds:
        """Makes ``a[i]`` and ``b[i]`` one unit for every i, as an addition of the two needs."""
        for one, other in zip(a.tolist(), b.tolist(), strict=True):
            self._parents[self._root(one)] = self._root(other)
        return a

    def bind(self, param: Param, axis: int, ids: ChannelIds, *, is_producer: bool) -> None:
        """Says that this axis of this parameter has one index for every entry of ``ids``."""
        self._bindings.append(Binding(param, axis, ids, is_producer))

    def protect(self, ids: ChannelIds) -> None:
        """Units that may not be removed: the network's inputs and outputs."""
        self._protected.append(ids)

    def along(self, channels: Channels, axis: int, size: int) -> ChannelIds:
        """The units on ``axis``, for a layer whose weights follow that axis.

        Where the activation's channels lie on another axis, its units may not go, and neither
        may the ``size`` new ones that stand on this axis.
        """
        if channels.axis == axis:
            return channels.ids
        ids = self.new(size)
        self.protect(channels.ids)
        self.protect(ids)
        return ids

    def bindings(self) -> list[Binding]:
        """Every bound axis, coupled ids already made one."""
        return [replace(binding, ids=self.resolve(binding.ids)) for binding in self._bindings]

    def protected(self) -> set[int]:
        """The ids, coupled ones made one, of units that may not be removed."""
        return {unit for ids in self._protected for unit in self.resolve(ids).tolist()}

    def resolve(self, ids: ChannelIds) -> ChannelIds:
        """The same ids with coupled ones replaced by one of them."""
        return np.array([self._root(i) for i in ids.tolist()], dtype=np.int64)

    def _root(self, unit: int) -> int:
        while self._parents[unit] != unit:
            self._parents[unit] = self._parents[self._parents[unit]]
            unit = self._parents[unit]
        return unit
