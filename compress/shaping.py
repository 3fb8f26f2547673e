"""To which widths a network is pruned for a share of its cost: where it is predicted to hurt least.

Latency is told from a table measured here; bytes and multiply-accumulates are counted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from compress.allocation import Cost, allocate
from compress.factorization import factorizable
from compress.factorization.low_rank import saves
from compress.goal import Goal
from compress.latency_table import measure_table
from compress.pruning import costs, groups, pruning_losses, width_grid
from compress.pruning.channels import rounded_width
from compress.pruning.importance import Importance
from compress.technique import Data
from hlserve.errors import CompressionError
from hlserve.nn.network import Network
from hlserve.nn.param import Array

ROUND_TO = 8  # widths are multiples of it, which the runtime's kernels prefer
FINE_GRID = 12  # widths of a group that are looked at, at most
RANK_SHARE = 4  # a first rank is one in so many of the smaller side; pruning goes on from there
TABLE_S = 8.0  # that measuring a table may take


@dataclass(frozen=True, slots=True)
class Shaper:
    """Finds widths.

    Attributes:
        data: what tells which units matter.
        goal: what is to be made small.
        feeds: rows as the network's file takes them, to measure latency with.
        batches: rows a run.
    """

    data: Data
    goal: Goal
    feeds: Mapping[str, Array]
    batches: tuple[int, ...]
    _relative: dict[int, Cost] = field(default_factory=dict)

    @property
    def importance(self) -> Importance:
        """What scores the units."""
        return importance_for(self.data)

    def widths(self, root: Network, network: Network, share: float) -> tuple[int, ...] | None:
        """How many units each group of ``network`` keeps to cost a share of ``root``; or None.

        Args:
            root: what the share is of; it must outlive the calls about it.
            network: ``root`` itself or what was pruned from it.
            share: of the cost, below 1.
        """
        found = groups(network)
        if not found:
            return None
        grid = [_grid(group.width) for group in found]
        losses = pruning_losses(network, self.data, grid, importance=self.importance)
        if id(root) not in self._relative:
            self._relative[id(root)] = self._cost(root)
        try:
            return allocate(losses, self._relative[id(root)], share)
        except CompressionError:  # out of reach
            return None

    def _cost(self, root: Network) -> Cost:
        """The cost of widths as a share of the root's."""
        if self.goal.minimize == "latency":
            grid = [width_grid(group.width) for group in groups(root)]
            table = measure_table(root, grid, self.feeds, self.batches, budget_s=TABLE_S)
            return table.relative
        counts = costs(root)
        count = counts.parameters if self.goal.minimize == "bytes" else counts.macs
        whole = float(count([group.width for group in groups(root)]))
        return lambda widths: count(widths) / whole


def importance_for(data: Data) -> Importance:
    """Taylor's scores need labels; weights tell something without."""
    return "l1" if data.train.y is None else "taylor"


def first_ranks(network: Network) -> tuple[int, ...] | None:
    """The ranks that a network's large layers are factorized to at first; None without such."""
    sizes = [(out, inner) for _, out, inner in factorizable(network)]
    ranks = [rounded_width(min(size), 1 / RANK_SHARE, ROUND_TO) for size in sizes]
    is_gain = [saves(rank, *size) for rank, size in zip(ranks, sizes, strict=True)]
    return tuple(ranks) if ranks and all(is_gain) else None


# ----- below


def _grid(width: int) -> tuple[int, ...]:
    """The width, then smaller multiples of eight, evenly, down to the smallest."""
    smaller = np.arange(ROUND_TO * ((width - 1) // ROUND_TO), 0, -ROUND_TO)
    chosen = np.unique(np.linspace(0, len(smaller) - 1, FINE_GRID).round().astype(int))
    return (width, *smaller[chosen].tolist()) if smaller.size else (width,)
