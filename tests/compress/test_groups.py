"""Groups of coupled channels: their names, and what thinner ones cost."""

import numpy as np
import pytest

from compress.factorization import FactorizeLinear
from compress.pruning import PruneChannels, costs, groups, pruning_losses, width_grid
from compress.pruning.channels import removable_widths
from compress.technique import Data
from hlserve.datasets import Rows
from hlserve.errors import CompressionError
from hlserve.nn.architectures import build
from hlserve.nn.layers import (
    Add,
    BatchNorm,
    Concat,
    Conv2d,
    Flatten,
    GlobalAvgPool,
    Linear,
    Multiply,
    ReLU,
)
from hlserve.nn.losses import CrossEntropy
from hlserve.nn.network import Input, Network, Node, sequential


def built(spec, shape):
    return build(spec, input_shape=shape, n_outputs=3, task="classification", scale=1 / 255)


def depthwise():
    layers = [
        Conv2d(1, 16, 3), BatchNorm(16), ReLU(), Conv2d(16, 16, 3, groups=16), BatchNorm(16),
        ReLU(), Conv2d(16, 24, 1), ReLU(), Flatten(), Linear(24 * 64, 3),
    ]  # fmt: skip
    return sequential(layers, Input("input", (1, 12, 12))).initialize(np.random.default_rng(0))


def gated_branches():
    """Two branches side by side, a gate for every channel of both, and a shortcut."""
    nodes = [
        Node("one", Conv2d(1, 16, 1), ("x",)),
        Node("three", Conv2d(1, 8, 3, padding=1), ("x",)),
        Node("both", Concat(), ("one", "three")),
        Node("mean", GlobalAvgPool(), ("both",)),
        Node("squeeze", Linear(24, 8), ("mean",)),
        Node("excite", Linear(8, 24), ("squeeze",)),
        Node("gates", Multiply(gate_axes=2), ("both", "excite")),
        Node("shortcut", Conv2d(1, 24, 1), ("x",)),
        Node("sum", Add(), ("gates", "shortcut")),
        Node("flat", Flatten(), ("sum",)),
        Node("out", Linear(24 * 9, 3), ("flat",)),
    ]
    network = Network([Input("x", (1, 3, 3))], nodes, {"y": "out"})
    return network.initialize(np.random.default_rng(0))


def factorized():
    rng = np.random.default_rng(0)
    layers = [Linear(60, 48), ReLU(), Linear(48, 40), ReLU(), Linear(40, 3)]
    network = sequential(layers, Input("input", (60,))).initialize(rng)
    rows = Rows({"x": rng.standard_normal((90, 60)).astype(np.float32)})
    return FactorizeLinear((16, 8)).apply(network, Data(rows)).network


CASES = {
    "mlp": (built("mlp:64,32", (40,)), (40,)),
    "lenet": (built("lenet5", (1, 12, 12)), (1, 12, 12)),
    "residual": (built("resnet:8", (1, 12, 12)), (1, 12, 12)),
    "depthwise": (depthwise(), (1, 12, 12)),
    "branches": (gated_branches(), (1, 3, 3)),
    "lstm": (built("lstm:32,24", (1, 12, 8)), (1, 12, 8)),
    "bigru": (built("bigru:32", (1, 12, 8)), (1, 12, 8)),
    "transformer": (built("transformer:16,2,1", (1, 12, 8)), (1, 12, 8)),
    "factorized": (factorized(), (60,)),
}
CASE = pytest.mark.parametrize(("network", "shape"), CASES.values(), ids=CASES.keys())


@CASE
def test_costs_are_those_of_the_network_pruned_to_these_widths(network, shape, rng):
    found = costs(network)
    full = removable_widths(network)
    data = Data(Rows({"x": rng.standard_normal((4, *shape)).astype(np.float32)}))
    several = [full] + [[int(rng.integers(1, w + 1)) for w in full] for _ in range(3)]
    for widths in several:
        pruned = PruneChannels(widths=tuple(widths), importance="l1").apply(network, data).network
        assert found.parameters(widths) == pruned.n_parameters
        assert found.macs(widths) == pytest.approx(pruned.macs(), rel=1e-12)  # sums of quotients
    assert found.macs(several).shape == (4,)  # many at once


@CASE
def test_pruning_goes_by_the_groups_that_are_named(network, shape):
    found = groups(network)
    assert [group.width for group in found] == removable_widths(network)
    assert len({group.name for group in found}) == len(found)
    units = [unit for group in found for unit in group.units]
    assert len(units) == len(set(units))


def test_a_group_is_named_after_the_layers_that_make_its_units():
    assert [g.name for g in groups(CASES["mlp"][0])] == ["linear_2", "linear_4"]
    names = [g.name for g in groups(CASES["branches"][0])]
    assert names == ["one+excite+shortcut", "three+excite+shortcut", "squeeze"]
    assert [g.name for g in groups(CASES["depthwise"][0], "linear")] == []


@pytest.mark.parametrize("width", [1, 7, 8, 16, 31, 32, 100, 300, 1024])
def test_a_grid_of_widths_falls_from_the_whole_one_in_multiples(width):
    grid = width_grid(width)
    assert grid[0] == width
    assert len(grid) <= 5
    assert list(grid) == sorted(set(grid), reverse=True)
    assert all(w % (16 if w >= 32 else 8) == 0 for w in grid[1:])
    assert grid[-1] <= max(8, width / 9)  # about a twelfth, to the nearest multiple


def loss_of(network, rows):
    scores = network.activations(rows.inputs, [network.logits_node])[network.logits_node]
    return CrossEntropy()(scores, rows.y)[0]


def ranks(values):
    return np.argsort(np.argsort(values))


def test_predicted_losses_go_with_measured_ones(trained_mlp, mlp_rows):
    data = Data(mlp_rows)
    grid = [(64, 56, 48, 40, 32, 24, 16, 8), (32, 28, 24, 20, 16, 12, 8, 4)]
    predicted, measured = [], []
    whole = loss_of(trained_mlp, mlp_rows)
    for number, entry in enumerate(pruning_losses(trained_mlp, data, grid)):
        assert entry.losses[0] == 0
        assert list(entry.losses) == sorted(entry.losses)
        for width, loss in zip(entry.widths[1:], entry.losses[1:], strict=True):
            widths = [64, 32]
            widths[number] = width
            pruned = PruneChannels(widths=tuple(widths)).apply(trained_mlp, data).network
            predicted.append(loss)
            measured.append(loss_of(pruned, mlp_rows) - whole)
    # Ranked over both layers at once; a prediction that knew nothing would be near 0.
    assert np.corrcoef(ranks(predicted), ranks(measured))[0, 1] > 0.8


@pytest.mark.parametrize("importance", ["l1", "l2"])
def test_norms_count_as_shares_of_their_group(trained_mlp, mlp_rows, importance):
    unlabelled = Data(Rows(mlp_rows.inputs))
    grid = [(64, 32, 1), (32, 16, 1)]
    for entry in pruning_losses(trained_mlp, unlabelled, grid, importance=importance):
        assert entry.losses[0] == 0
        assert 0 < entry.losses[1] < 0.5  # the smaller half
        assert entry.losses[1] < entry.losses[2] < 1


def test_a_grid_that_does_not_fit_is_refused(trained_mlp, mlp_rows):
    for grid in ([(64,)], [(65,), (32,)], [(64,), (0,)]):
        with pytest.raises(CompressionError, match=r"does not fit groups of \[64, 32\]"):
            pruning_losses(trained_mlp, Data(mlp_rows), grid)
