"""Groups: the units that structured pruning may thin out, no unit in two of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from compress.technique import Kinds
from hlserve.nn.channels import Binding
from hlserve.nn.layers import Conv1d, Conv2d, ConvTranspose2d
from hlserve.nn.network import Network

SHARES = 12  # the narrowest width of a grid is about one in so many
COARSE, FINE = 16, 8  # multiples that widths of a grid are: the runtime's kernels prefer them
NARROW = 32  # below this width the fine ones


@dataclass(frozen=True, slots=True)
class Group:
    """Coupled channels that keep or lose their units together.

    Attributes:
        name: of the nodes whose weights make the units, joined by ``+``.
        units: their ids, as the network's channel flow numbers them.
    """

    name: str
    units: tuple[int, ...]

    @property
    def width(self) -> int:
        """How many units there are."""
        return len(self.units)


def groups(network: Network, layers: Kinds = "all") -> tuple[Group, ...]:
    """The groups that pruning may thin out, in graph order.

    Args:
        network: nothing in it is changed.
        layers: ``linear`` leaves the filters of convolutions alone.
    """
    flow = network.channel_flow()
    return groups_of(network, flow.bindings(), flow.protected(), layers)


def groups_of(
    network: Network, bindings: Sequence[Binding], protected: set[int], layers: Kinds
) -> tuple[Group, ...]:
    """``groups`` where the channel flow is known already."""
    nodes = {id(p): node for node in network.nodes for p in node.layer.params().values()}
    producers = [binding for binding in bindings if binding.is_producer]
    kept = protected.copy()
    if layers == "linear":  # what a convolution makes stays, even where a gate is coupled to it
        for binding in producers:
            if isinstance(nodes[id(binding.param)].layer, Conv1d | Conv2d | ConvTranspose2d):
                kept.update(binding.ids.tolist())
    found = []
    for numbers, units in _parted(producers).items():
        if not kept.intersection(units):
            names = [nodes[id(producers[number].param)].name for number in numbers]
            found.append(Group("+".join(dict.fromkeys(names)), tuple(units)))
    return tuple(found)


def width_grid(width: int, points: int = 5) -> tuple[int, ...]:
    """Widths to look at, from the whole one down: ever fewer, each about the same share less.

    Multiples of 16, below 32 of 8; the narrowest is about a twelfth.

    Args:
        width: of the group.
        points: how many widths at most.
    """
    grid = [width]
    for point in range(1, points):
        share = width * SHARES ** (-point / (points - 1))
        step = COARSE if share >= NARROW else FINE
        rounded = max(step, step * round(share / step))
        if rounded < grid[-1]:
            grid.append(rounded)
    return tuple(grid)


# ----- below


def _parted(producers: Sequence[Binding]) -> dict[tuple[int, ...], list[int]]:
    """Units by the producers that make them, so that each is in one group alone.

    Of Concat(A, B) added to C, producers are of A, of B, and of both at once: A's units go with
    C's first ones, B's with its others, and C needs no group beside these two.
    """
    made_by: dict[int, list[int]] = {}
    for number, binding in enumerate(producers):
        for unit in sorted(set(binding.ids.tolist())):
            made_by.setdefault(unit, []).append(number)
    found: dict[tuple[int, ...], list[int]] = {}
    for unit, numbers in made_by.items():
        found.setdefault(tuple(numbers), []).append(unit)
    return found
