"""What thinner groups would cost in accuracy, told from the scores of what would go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from compress.pruning.groups import Group, groups_of
from compress.pruning.importance import Importance, unit_scores
from compress.technique import Data, Kinds
from hlserve.errors import CompressionError
from hlserve.nn.network import Network


@dataclass(frozen=True, slots=True)
class GroupLoss:
    """The predicted loss of one group by its width.

    Attributes:
        group: see Group.
        widths: as they were asked for.
        losses: for each width. Those of one call may be added and compared across groups; their
            unit is no one's.
    """

    group: Group
    widths: tuple[int, ...]
    losses: tuple[float, ...]


def pruning_losses(
    network: Network,
    data: Data,
    grid: Sequence[Sequence[int]],
    *,
    importance: Importance = "taylor",
    layers: Kinds = "all",
) -> tuple[GroupLoss, ...]:
    """For every group the scores of the units that each width would remove, summed.

    With ``taylor`` that is the squared change of the loss to first order, were units
    independent (Molchanov et al. 2019, arXiv:1906.10771, equation 8). Norms of weights tell
    nothing across layers, so ``l1`` and ``l2`` count as shares of their group's.

    Args:
        network: nothing in it is changed.
        data: see ``unit_scores``.
        grid: the widths of every group, in the order of ``groups``.
        importance: what scores the units.
        layers: as in ``groups``.

    Raises:
        CompressionError: the grid does not fit the groups, or ``taylor`` without labels.
    """
    copy = network.copy()  # Taylor's gradients are written into it
    flow = copy.channel_flow()
    bindings = flow.bindings()
    found = groups_of(copy, bindings, flow.protected(), layers)
    sizes = [group.width for group in found]
    if len(grid) != len(found) or any(
        not 1 <= width <= size
        for size, widths in zip(sizes, grid, strict=False)
        for width in widths
    ):
        raise CompressionError(
            f"the grid {[list(widths) for widths in grid]} does not fit groups of {sizes} units"
        )
    scores = unit_scores(importance, copy, bindings, data)
    losses = []
    for group, widths in zip(found, grid, strict=True):
        ranked = np.sort([scores[unit] for unit in group.units])  # those that go first
        removed = np.concatenate([[0.0], np.cumsum(ranked)])
        if importance != "taylor" and removed[-1] > 0:
            removed /= removed[-1]
        each = tuple(float(removed[group.width - width]) for width in widths)
        losses.append(GroupLoss(group, tuple(widths), each))
    return tuple(losses)
