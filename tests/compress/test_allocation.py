"""Widths of least loss inside a cost, against every choice looked at."""

import itertools

import numpy as np
import pytest

from compress import allocation
from compress.allocation import allocate, knapsack
from compress.pruning import Group, GroupLoss, PruneChannels, costs, groups, pruning_losses
from compress.technique import Data
from hlserve.errors import CompressionError


def made_losses(rng, sizes, start=0):
    """For each group losses that grow as it gets thinner."""
    entries = []
    for number, n in enumerate(sizes):
        widths = sorted(rng.choice(np.arange(1, 40) * 8, n, replace=False).tolist(), reverse=True)
        losses = np.cumsum(rng.exponential(size=n)) - start
        entries.append(GroupLoss(Group(f"g{number}", ()), tuple(widths), tuple(losses)))
    return entries


def best_by_hand(losses, cost, target):
    """The least loss of every choice that fits."""
    least = np.inf
    for choice in itertools.product(*(range(len(entry.widths)) for entry in losses)):
        widths = [entry.widths[n] for entry, n in zip(losses, choice, strict=True)]
        if cost(np.array([widths], float))[0] <= target:
            loss = sum(entry.losses[n] for entry, n in zip(losses, choice, strict=True))
            least = min(least, loss)
    return least


def loss_of(losses, widths):
    return sum(e.losses[e.widths.index(w)] for e, w in zip(losses, widths, strict=True))


def chained(factors):
    """A cost as of layers one behind the other: neighbours multiply."""

    def cost(widths):
        ends = np.concatenate([np.full((len(widths), 1), 20.0), widths], axis=1)
        return np.sum(factors * ends[:, 1:] * ends[:, :-1], axis=1)

    return cost


@pytest.mark.parametrize("seed", range(8))
def test_a_knapsack_is_as_good_as_the_best_of_all_choices(seed):
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 6, 5)
    values = [rng.normal(size=n) for n in sizes]
    prices = [rng.normal(size=n) for n in sizes]  # some are negative
    budget = sum(p.mean() for p in prices)
    choices = list(itertools.product(*(range(n) for n in sizes)))
    fitting = [c for c in choices if sum(p[n] for p, n in zip(prices, c, strict=True)) <= budget]
    least = min(sum(v[n] for v, n in zip(values, c, strict=True)) for c in fitting)
    found = knapsack(values, prices, budget)
    assert sum(p[n] for p, n in zip(prices, found, strict=True)) <= budget + 1e-9  # of a sum
    assert sum(v[n] for v, n in zip(values, found, strict=True)) == pytest.approx(least)
    assert knapsack(values, prices, sum(p.min() for p in prices) - 0.1) is None


@pytest.mark.parametrize("seed", range(6))
def test_few_groups_get_the_best_of_all_choices(seed):
    rng = np.random.default_rng(seed)
    losses = made_losses(rng, (5, 4, 5))
    cost = chained(rng.uniform(0.5, 2.0, 3))
    whole = cost(np.array([[entry.widths[0] for entry in losses]], float))[0]
    for share in (0.3, 0.6, 1.0):
        widths = allocate(losses, cost, share * whole)
        assert cost(np.array([widths], float))[0] <= share * whole
        assert loss_of(losses, widths) == pytest.approx(best_by_hand(losses, cost, share * whole))


@pytest.mark.parametrize("seed", range(6))
def test_linearized_costs_end_near_the_best_of_all_choices(seed, monkeypatch):
    rng = np.random.default_rng(seed)
    losses = made_losses(rng, (4, 4, 4, 4, 4))
    cost = chained(rng.uniform(0.5, 2.0, 5))
    whole = cost(np.array([[entry.widths[0] for entry in losses]], float))[0]
    best = best_by_hand(losses, cost, 0.4 * whole)
    monkeypatch.setattr(allocation, "MOST_CHOICES", 1)
    widths = allocate(losses, cost, 0.4 * whole)
    assert cost(np.array([widths], float))[0] <= 0.4 * whole
    # No bound is known for costs that multiply; this is what the worst of the seeds keeps.
    assert best <= loss_of(losses, widths) <= 1.25 * best


def test_costs_that_add_up_are_linearized_exactly(monkeypatch):
    rng = np.random.default_rng(3)
    losses = made_losses(rng, (5, 5, 5, 5))
    weights = rng.uniform(0.5, 2.0, 4)

    def cost(widths):
        return widths @ weights

    target = 0.5 * cost(np.array([entry.widths[0] for entry in losses], float))
    monkeypatch.setattr(allocation, "MOST_CHOICES", 1)
    widths = allocate(losses, cost, target)
    assert loss_of(losses, widths) == pytest.approx(best_by_hand(losses, cost, target))


def test_many_groups_are_settled_inside_the_cost():
    rng = np.random.default_rng(0)
    losses = made_losses(rng, (5,) * 40)
    cost = chained(np.ones(40))
    whole = cost(np.array([[entry.widths[0] for entry in losses]], float))[0]
    previous = 0.0
    for share in (0.9, 0.5, 0.3):
        widths = allocate(losses, cost, share * whole)
        assert cost(np.array([widths], float))[0] <= share * whole
        assert loss_of(losses, widths) >= previous
        previous = loss_of(losses, widths)


def test_what_is_out_of_reach_is_refused_with_what_can_be_had(monkeypatch):
    losses = made_losses(np.random.default_rng(0), (3, 3))
    cost = chained(np.ones(2))
    for most in (allocation.MOST_CHOICES, 1):
        monkeypatch.setattr(allocation, "MOST_CHOICES", most)
        with pytest.raises(CompressionError, match="out of reach"):
            allocate(losses, cost, 1.0)


def test_a_network_pruned_as_allocated_costs_no_more_and_keeps_what_matters(trained_mlp, mlp_rows):
    network = trained_mlp.copy()
    network.node("linear_2").layer.weight.value[16:] = 0  # three quarters are silent
    network.node("linear_2").layer.bias.value[16:] = 0
    data = Data(mlp_rows)
    grid = [(64, 48, 32, 16), (32, 24, 16, 8)]
    losses = pruning_losses(network, data, grid)
    cost = costs(network)
    widths = allocate(losses, cost.macs, 0.45 * network.macs())
    assert widths == (16, 32)
    pruned = PruneChannels(widths=widths).apply(network, data).network
    assert pruned.macs() <= 0.45 * network.macs()
    assert len(groups(pruned)) == 2
    # float32 sums of other lengths
    np.testing.assert_allclose(
        pruned.predict(mlp_rows.x)["probabilities"],
        network.predict(mlp_rows.x)["probabilities"],
        atol=1e-5,
    )
