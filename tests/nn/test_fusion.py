"""Chains of layers that training runs as one."""

from __future__ import annotations

import numpy as np
import pytest

from hlserve.nn import Input, Network, Node, sequential
from hlserve.nn.fusion import fused
from hlserve.nn.gradcheck import check_gradients
from hlserve.nn.layer import Layer
from hlserve.nn.layers import BatchNorm, Conv2d, Flatten, Linear, MaxPool2d, ReLU
from hlserve.nn.layers.pooled_conv2d import PooledConv2d

# float32 sums of at most 150 terms in another order, and gradients that add up over 400 places
ROUNDING = {"rtol": 2e-4, "atol": 2e-5}


def chain(conv: Conv2d, shape: tuple[int, int, int]) -> Network:
    network = sequential([conv, ReLU(), MaxPool2d(2)], Input("x", shape), output="y")
    rng = np.random.default_rng(1)
    network.value[...] = 0.5 * rng.standard_normal(network.value.size)
    return network


CHAINS = {
    "same padding": (lambda: Conv2d(1, 6, 5, padding=2), (1, 12, 10)),
    "padded apart": (lambda: Conv2d(1, 6, 5, padding=(1, 0, 2, 3)), (1, 12, 10)),
    "no padding": (lambda: Conv2d(6, 16, 5), (6, 9, 10)),
    "odd sizes": (lambda: Conv2d(2, 3, 3), (2, 9, 7)),
    "uneven kernel": (lambda: Conv2d(1, 2, (3, 2), padding=(1, 0)), (1, 6, 7)),
    "without a bias": (lambda: Conv2d(3, 4, 3, padding=1, has_bias=False), (3, 8, 8)),
}
every_chain = pytest.mark.parametrize("name", CHAINS)


@every_chain
@pytest.mark.parametrize("rows", [0, 1, 5])
@pytest.mark.parametrize("values", ["any", "ties"])
def test_a_fused_chain_answers_and_learns_as_its_layers_do(
    name: str, rows: int, values: str
) -> None:
    make, shape = CHAINS[name]
    network = chain(make(), shape)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((rows, *shape), np.float32)
    if values == "ties":  # small whole numbers, whose sums are exact in any order
        x = np.rint(x)
        network.value[...] = np.rint(network.value)
    results = []
    for each in (network, fused(network)):
        network.grad.fill(0)
        y, backward = each.forward(x, training=True)
        dy = np.random.default_rng(2).standard_normal(y.shape).astype(np.float32)
        dx = backward(dy, to_inputs=True)["x"]
        results.append((y.copy(), dx.copy(), network.grad.copy()))
    assert isinstance(fused(network).nodes[0].layer, PooledConv2d)
    for plain, together in zip(*results, strict=True):
        np.testing.assert_allclose(together, plain, **ROUNDING)


@every_chain
def test_the_gradients_of_a_fused_chain_agree_with_central_differences(name: str) -> None:
    make, shape = CHAINS[name]
    rows = np.random.default_rng(3).standard_normal((4, *shape))
    check_gradients(fused(chain(make(), shape)), rows, rng=np.random.default_rng(0))


def lenet(first: list[Layer]) -> Network:
    return sequential([*first, Flatten(), Linear(6 * 4 * 4, 3)], Input("x", (1, 8, 8)))


def test_the_fused_network_shares_its_parameters() -> None:
    network = lenet([Conv2d(1, 6, 3, padding=1), ReLU(), MaxPool2d(2)])
    other = fused(network)
    assert [type(n.layer).__name__ for n in other.nodes] == ["PooledConv2d", "Flatten", "Linear"]
    assert other.value is network.value
    assert other.grad is network.grad
    assert other.macs() == network.macs()
    assert len(network.nodes) == 5


def test_a_rectifier_goes_behind_the_pooling_that_reads_it() -> None:
    network = lenet([Conv2d(1, 6, 3, padding=1), BatchNorm(6), ReLU(), MaxPool2d(2)])
    kinds = [type(node.layer).__name__ for node in fused(network).nodes]
    assert kinds == ["Conv2d", "BatchNorm", "MaxPool2d", "ReLU", "Flatten", "Linear"]
    x = np.rint(np.random.default_rng(0).standard_normal((5, 1, 8, 8), np.float32))
    network.value[...] = np.rint(2 * np.random.default_rng(1).random(network.value.size))
    results = []
    for each in (network, fused(network)):
        network.grad.fill(0)
        y, backward = each.forward(x)
        backward(np.ones_like(y))
        results.append((y.copy(), network.grad.copy()))
    for plain, together in zip(*results, strict=True):
        np.testing.assert_allclose(together, plain, rtol=1e-5)  # sums of 400 in another order
        assert plain.any()


@pytest.mark.parametrize(
    "layers",
    [
        [Conv2d(1, 6, 3, padding=1), MaxPool2d(2)],
        [Conv2d(1, 6, 3, stride=2, padding=1), ReLU()],
    ],
    ids=["no rectifier", "no pooling"],
)
def test_other_chains_stay_as_they_are(layers: list[Layer]) -> None:
    network = lenet(layers)
    assert fused(network) is network


def test_pooling_that_is_padded_behind_is_not_fused() -> None:
    network = lenet([Conv2d(1, 6, 3, padding=1), ReLU(), MaxPool2d(2, 2, (0, 0, 1, 1))])
    together = fused(network)
    assert not any(isinstance(node.layer, PooledConv2d) for node in together.nodes)
    ends = [net.shapes[node] for net in (together, network) for node in net.outputs.values()]
    assert ends[0] == ends[1]


def test_a_chain_that_something_else_reads_stays() -> None:
    conv, relu = Node("conv", Conv2d(1, 6, 3), ("x",)), Node("relu", ReLU(), ("conv",))
    pool = Node("pool", MaxPool2d(2), ("relu",))
    network = Network([Input("x", (1, 8, 8))], [conv, relu, pool], {"y": "pool", "z": "relu"})
    assert fused(network) is network
