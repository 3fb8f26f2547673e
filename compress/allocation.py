"""Which widths lose the least inside a cost: a choice of one width for every group."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from compress.pruning import GroupLoss
from hlserve.errors import CompressionError
from hlserve.nn.param import Array

Cost = Callable[[Array], Array]  # widths (choices, groups) -> (choices,), such as Costs.macs

MOST_CHOICES = 2**16  # that are all looked at
MOST_STATES = 2**12  # of the dynamic programme; more are thinned out, evenly over the cost
ROUNDS = 12  # of linearization: it settles in three or four


def allocate(losses: Sequence[GroupLoss], cost: Cost, target: float) -> tuple[int, ...]:
    """The widths of least summed loss whose cost is at most the target.

    A few groups are settled by looking at every choice. Beyond that it is a knapsack of one
    item from each group, solved by dynamic programming (Shen et al. 2022, HALP,
    arXiv:2110.10811, section 3.3). A knapsack wants costs that add up, and widths of
    neighbouring layers multiply; so costs are taken one group at a time around the last
    solution, again and again, and no answer exceeds the true cost.

    Args:
        losses: for every group, from ``pruning_losses``.
        cost: such as ``Costs.macs``, ``Costs.parameters`` or ``LatencyTable.relative``.
        target: the most that it may be, in the cost's unit.

    Raises:
        CompressionError: even the narrowest widths cost more.
    """
    widths = [np.array(entry.widths, np.float64) for entry in losses]
    values = [np.array(entry.losses, np.float64) for entry in losses]
    is_few = math.prod(len(w) for w in widths) <= MOST_CHOICES
    choice = (_looked_at_all if is_few else _linearized)(widths, values, cost, target)
    least = float(cost(_taken(widths, choice))[0])
    if least > target:
        raise CompressionError(
            f"a cost of {target:.4g} is out of reach: widths {[int(w.min()) for w in widths]} "
            f"are the narrowest, and the least cost is {least:.4g}; allow for more, or for "
            "narrower widths"
        )
    return tuple(int(w[n]) for w, n in zip(widths, choice, strict=True))


def knapsack(values: Sequence[Array], costs: Sequence[Array], budget: float) -> list[int] | None:
    """One item of every group, of the least sum of values inside a budget; None if none is.

    Exact while the states that no other beats are fewer than ``MOST_STATES``; beyond, those of
    about the same cost count as one, of which the best is kept.

    Args:
        values: for every group, of each item.
        costs: alike; they may be negative.
        budget: the most that the costs may sum up to.
    """
    spent, lost = np.zeros(1), np.zeros(1)
    paths: list[tuple[Array, Array]] = []  # for every group: the state before, and the item
    rest = sum(float(c.min()) for c in costs)
    for value, price in zip(values, costs, strict=True):
        rest -= float(price.min())
        total = (spent[:, None] + price).ravel()
        loss = (lost[:, None] + value).ravel()
        kept = _unbeaten(total, loss, budget - rest)
        if not kept.size:
            return None
        spent, lost = total[kept], loss[kept]
        paths.append((kept // len(price), kept % len(price)))
    state = int(np.argmin(lost))
    choice = []
    for before, item in reversed(paths):
        choice.append(int(item[state]))
        state = int(before[state])
    return choice[::-1]


# ----- below


def _looked_at_all(
    widths: Sequence[Array], values: Sequence[Array], cost: Cost, target: float
) -> list[int]:
    choices = np.indices([len(w) for w in widths]).reshape(len(widths), -1)
    chosen = np.stack([w[c] for w, c in zip(widths, choices, strict=True)], axis=1)
    loss = np.sum([v[c] for v, c in zip(values, choices, strict=True)], axis=0)
    price = cost(chosen)
    # Where none is inside, the cheapest comes first.
    best = np.lexsort((price, np.where(price <= target, loss, np.inf)))[0]
    return [int(n) for n in choices[:, best]]


def _linearized(
    widths: Sequence[Array], values: Sequence[Array], cost: Cost, target: float
) -> list[int]:
    center = best = _even(widths, cost, target)
    margin = 0.0
    for _ in range(ROUNDS):
        here, apart = _one_at_a_time(widths, center, cost)
        found = knapsack(values, apart, target - margin - here)
        if found is None:
            margin /= 2
            continue
        excess = float(cost(_taken(widths, found))[0]) - target
        if excess <= 0 and _loss(values, found) < _loss(values, best):
            best = found
        margin = max(0.0, margin + excess) if excess > 0 else margin / 2
        if found == center and excess <= 0:
            break
        center = found
    return _grown(widths, values, cost, target, best)


def _even(widths: Sequence[Array], cost: Cost, target: float) -> list[int]:
    """The widest choice that stands at the same place of every grid; the narrowest fits."""
    orders = [np.argsort(-w) for w in widths]
    longest = max(len(w) for w in widths)
    for step in range(longest):
        choice = [
            int(order[round(step / max(1, longest - 1) * (len(order) - 1))]) for order in orders
        ]
        if float(cost(_taken(widths, choice))[0]) <= target:
            break
    return choice


def _one_at_a_time(
    widths: Sequence[Array], center: Sequence[int], cost: Cost
) -> tuple[float, list[Array]]:
    """The cost of a choice, and what it grows by for every other width of a single group."""
    taken = _taken(widths, center)
    here = float(cost(taken)[0])
    apart = []
    for number, options in enumerate(widths):
        others = np.repeat(taken, len(options), axis=0)
        others[:, number] = options
        apart.append(cost(others) - here)
    return here, apart


def _grown(
    widths: Sequence[Array],
    values: Sequence[Array],
    cost: Cost,
    target: float,
    choice: Sequence[int],
) -> list[int]:
    """The choice, each group as good as the target still allows, the greatest gain first."""
    current = list(choice)
    while True:
        here, apart = _one_at_a_time(widths, current, cost)
        gains = [
            (float(value[now] - value[item]), number, item)
            for number, (value, now) in enumerate(zip(values, current, strict=True))
            for item in range(len(value))
            if here + float(apart[number][item]) <= target
        ]
        gain, number, item = max(gains, default=(0.0, 0, 0))
        if gain <= 0:
            return current
        current[number] = item


def _unbeaten(cost: Array, loss: Array, budget: float) -> Array:
    """The states that fit and that none of the cheaper ones beats, in order of cost."""
    order = np.lexsort((loss, cost))
    order = order[cost[order] <= budget + 1e-9 * abs(budget)]  # sums of floats
    least = np.minimum.accumulate(loss[order])
    before = np.concatenate([[np.inf], least])[:-1]
    kept = np.asarray(order[least < before])
    if len(kept) <= MOST_STATES:
        return kept
    low, high = cost[kept[0]], cost[kept[-1]]
    bins = ((cost[kept] - low) / (high - low) * (MOST_STATES - 1)).astype(np.int64)
    is_last = np.concatenate([bins[1:] != bins[:-1], [True]])  # and so the best of its bin
    return np.asarray(kept[is_last])


def _taken(widths: Sequence[Array], choice: Sequence[int]) -> Array:
    return np.array([[w[n] for w, n in zip(widths, choice, strict=True)]])


def _loss(values: Sequence[Array], choice: Sequence[int]) -> float:
    return float(sum(v[n] for v, n in zip(values, choice, strict=True)))
