"""Parameters and multiply-accumulates by the groups' widths, without pruning anything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from compress.pruning.groups import groups_of
from compress.technique import Kinds
from hlserve.nn.channels import Binding
from hlserve.nn.network import Network
from hlserve.nn.param import Array, Param


@dataclass(frozen=True, slots=True)
class Costs:
    """The sizes of a network's arrays as functions of the widths of its groups.

    An axis that follows units is as long as the units kept that it follows, each as often as it
    stands there, and what is bound to no group; an array's size is the product of its axes. So
    numbers are those of the pruned network, not estimates.

    Attributes:
        arrays: for each array, its axes as rows (groups + 1): how many indices a unit of each
            group has, and in the last column the fixed ones.
        counts: for each array, 1 where it is trained.
        macs_each: for each array, the multiply-accumulates of one of its numbers.
        fixed_macs: of layers without arrays.
    """

    arrays: tuple[Array, ...]
    counts: tuple[int, ...]
    macs_each: tuple[float, ...]
    fixed_macs: int

    def parameters(self, widths: Array | Sequence[int]) -> Array:
        """How many trained numbers; widths (..., groups) -> (...)."""
        return self._weighed(widths, self.counts)

    def macs(self, widths: Array | Sequence[int]) -> Array:
        """Multiply-accumulates for one row; widths (..., groups) -> (...)."""
        return self._weighed(widths, self.macs_each) + self.fixed_macs

    def _weighed(self, widths: Array | Sequence[int], weights: Sequence[float]) -> Array:
        kept = np.asarray(widths, np.float64)
        ones = np.ones((*kept.shape[:-1], 1))
        lengths = np.concatenate([kept, ones], axis=-1)
        total = np.zeros(kept.shape[:-1])
        for axes, weight in zip(self.arrays, weights, strict=True):
            if weight:
                total += weight * np.prod(lengths @ axes.T, axis=-1)
        return total


def costs(network: Network, layers: Kinds = "all") -> Costs:
    """The costs of a network by the widths of ``groups(network, layers)``."""
    flow = network.channel_flow()
    bindings = flow.bindings()
    found = groups_of(network, bindings, flow.protected(), layers)
    group_of = {unit: n for n, group in enumerate(found) for unit in group.units}
    widths = [group.width for group in found]
    arrays, counts, macs_each, fixed_macs = [], [], [], 0
    for node in network.nodes:
        params = list(node.layer.params().values())
        macs = node.layer.macs(*(network.shapes[name] for name in node.inputs))
        weights = [p for p in params if p.in_axis is not None]  # biases cost no products
        size = sum(p.value.size for p in weights)
        fixed_macs += 0 if size else macs
        for param in params:
            arrays.append(_axes(param, bindings, group_of, widths))
            counts.append(int(param.is_trained))
            macs_each.append(macs / size if param.in_axis is not None else 0.0)
    return Costs(tuple(arrays), tuple(counts), tuple(macs_each), fixed_macs)


# ----- below


def _axes(
    param: Param, bindings: Sequence[Binding], group_of: dict[int, int], widths: Sequence[int]
) -> Array:
    axes = np.zeros((param.value.ndim, len(widths) + 1))
    axes[:, -1] = param.value.shape
    for binding in bindings:
        if binding.param is param:
            places = [group_of.get(unit, -1) for unit in binding.ids.tolist()]
            axes[binding.axis] = np.bincount(
                np.array(places) % (len(widths) + 1), minlength=len(widths) + 1
            )
            axes[binding.axis, :-1] /= widths
    return axes
