"""What is done to blocks from elsewhere once they are networks: pruned in step, run in integers."""

import numpy as np
import pytest

from compress.export import check_parity, to_onnx
from compress.onnx_import import import_onnx
from compress.pruning import PruneChannels, costs, groups
from compress.quantization import QuantizeStatic
from compress.quantization.bias_correction import corrected_biases
from compress.session import Session, optimized_operators
from compress.technique import Data
from hlserve.datasets import Rows
from hlserve.nn.layers import (
    GELU,
    Add,
    Affine,
    Clip,
    Concat,
    Conv2d,
    ConvTranspose2d,
    Flatten,
    GlobalAvgPool,
    GroupNorm,
    HardSigmoid,
    HardSwish,
    LayerNorm,
    Linear,
    Multiply,
    Pad,
    ReLU,
    Reshape,
    Slice,
    Transpose,
)
from hlserve.nn.network import Input, Network, Node, sequential


def made(nodes, shape, rng):
    """A network of rows x of this shape with random parameters, biases too."""
    network = Network([Input("x", shape)], nodes, {"y": nodes[-1].name}).initialize(rng)
    network.value[...] += 0.1 * rng.standard_normal(network.value.size)
    return network


def inverted_residual(rng):
    """MobileNetV2's block behind its stem, then a classifier."""
    nodes = [
        Node("stem", Conv2d(3, 8, 3, 2, (0, 0, 1, 1)), ("x",)),
        Node("stem_6", Clip(), ("stem",)),
        Node("expand", Conv2d(8, 32, 1), ("stem_6",)),
        Node("expand_6", Clip(), ("expand",)),
        Node("depthwise", Conv2d(32, 32, 3, 1, 1, groups=32), ("expand_6",)),
        Node("depthwise_6", Clip(), ("depthwise",)),
        Node("project", Conv2d(32, 8, 1), ("depthwise_6",)),
        Node("sum", Add(), ("stem_6", "project")),
        Node("mean", GlobalAvgPool(), ("sum",)),
        Node("out", Linear(8, 4), ("mean",)),
    ]
    return made(nodes, (3, 12, 12), rng)


def gated(rng):
    """MobileNetV3's: hard swish, squeeze and excitation."""
    nodes = [
        Node("stem", Conv2d(3, 16, 3), ("x",)),
        Node("swish", HardSwish(), ("stem",)),
        Node("depthwise", Conv2d(16, 16, 3, 1, 1, groups=16), ("swish",)),
        Node("mean", GlobalAvgPool(), ("depthwise",)),
        Node("square", Reshape((-1, 1, 1)), ("mean",)),
        Node("squeeze", Conv2d(16, 8, 1), ("square",)),
        Node("relu", ReLU(), ("squeeze",)),
        Node("excite", Conv2d(8, 16, 1), ("relu",)),
        Node("gate", HardSigmoid(), ("excite",)),
        Node("flat", Flatten(), ("gate",)),
        Node("gates", Multiply(2), ("depthwise", "flat")),
        Node("out", Conv2d(16, 3, 1), ("gates",)),
    ]
    return made(nodes, (3, 8, 8), rng)


def features_last(rng):
    """ConvNeXt's block, whose Linear layers read places of an image."""
    nodes = [
        Node("stem", Conv2d(3, 8, 3), ("x",)),
        Node("depthwise", Conv2d(8, 8, 3, 1, 1, groups=8), ("stem",)),
        Node("turned", Transpose((1, 2, 0)), ("depthwise",)),
        Node("norm", LayerNorm(8), ("turned",)),
        Node("up", Linear(8, 32), ("norm",)),
        Node("gelu", GELU(), ("up",)),
        Node("down", Linear(32, 8), ("gelu",)),
        Node("scale", Affine(8, 2), ("down",)),
        Node("back", Transpose((2, 0, 1)), ("scale",)),
        Node("sum", Add(), ("stem", "back")),
        Node("mean", GlobalAvgPool(), ("sum",)),
        Node("out", Linear(8, 4), ("mean",)),
    ]
    return made(nodes, (3, 8, 8), rng)


def halves(rng):
    """Channels split, one half convolved, both side by side."""
    nodes = [
        Node("stem", Conv2d(3, 16, 3), ("x",)),
        Node("stem_relu", ReLU(), ("stem",)),
        Node("left", Slice(0, 8), ("stem_relu",)),
        Node("right", Slice(8, 16), ("stem_relu",)),
        Node("conv", Conv2d(8, 8, 3, 1, 1), ("right",)),
        Node("relu", ReLU(), ("conv",)),
        Node("whole", Concat(), ("left", "relu")),
        Node("out", Conv2d(16, 3, 1), ("whole",)),
    ]
    return made(nodes, (3, 8, 8), rng)


def autoencoder(rng):
    """Down by a stride, up by a transposed convolution."""
    layers = [
        Conv2d(2, 16, 3, 2, 1),
        GroupNorm(16, 16),
        ReLU(),
        Pad((0, 0, 1, 1)),
        ConvTranspose2d(16, 8, 3, 2, 1),
        ReLU(),
        ConvTranspose2d(8, 2, 4, 2, 1),
    ]
    network = sequential(layers, Input("x", (2, 8, 8)), output="y").initialize(rng)
    network.value[...] += 0.1 * rng.standard_normal(network.value.size)
    return network


MAKERS = (inverted_residual, gated, features_last, halves, autoencoder)
WIDTHS = {  # of the groups that may be thinned out, and the nodes that make their units
    inverted_residual: {"stem+project": 8, "expand": 32},
    gated: {"stem+excite": 16, "squeeze": 8},
    features_last: {"up": 32},
    halves: {"conv": 8},
    autoencoder: {"conv2d_1": 16, "convtranspose2d_5": 8},
}


@pytest.fixture(params=MAKERS, ids=lambda make: make.__name__)
def make(request):
    return request.param


@pytest.fixture
def network(make, rng):
    return make(rng)


@pytest.fixture
def rows(network, rng):
    """Large enough to reach the limits of ReLU6."""
    return (3 * rng.standard_normal((40, *network.inputs[0].shape))).astype(np.float32)


def test_a_block_comes_back_from_its_file(network, rows):
    found = import_onnx(to_onnx(network), {"x": rows})
    assert sorted(type(n.layer).__name__ for n in found.network.nodes) == sorted(
        type(n.layer).__name__ for n in network.nodes
    )


def test_units_that_belong_together_are_one_group(make, network):
    assert {g.name: g.width for g in groups(network)} == WIDTHS[make]


def test_a_quarter_of_the_channels_goes_in_step(network, rows):
    found = costs(network)
    pruning = PruneChannels(0.25, importance="l1", round_to=1)
    pruned = pruning.apply(network, Data(Rows({"x": rows}))).network
    widths = [g.width for g in groups(pruned)]
    assert widths == [g.width * 3 // 4 for g in groups(network)]
    assert pruned.n_parameters == found.parameters(widths) < network.n_parameters
    assert pruned.macs() == found.macs(widths)
    check_parity(pruned, to_onnx(pruned), rows)


def test_integers_answer_as_floats_do_but_for_rounding(network, rows):
    data = Data(Rows({"x": rows}))
    model = to_onnx(QuantizeStatic().apply(network, data).network).SerializeToString()
    answers, floats = Session(model).run({"x": rows})["y"], network.predict(rows)["y"]
    # 8 bits are 0.4 % of a range a layer, which add up over at most six
    assert np.max(np.abs(answers - floats)) < 0.06 * np.max(np.abs(floats))


def test_a_block_of_relu6_runs_wholly_in_integers(rng):
    network = inverted_residual(rng)
    x = (3 * rng.standard_normal((40, 3, 12, 12))).astype(np.float32)
    assert network.activations(x, ["stem_6"])["stem_6"].max() == 6  # the limit plays a part
    model = to_onnx(QuantizeStatic().apply(network, Data(Rows({"x": x}))).network)
    operators = optimized_operators(model.SerializeToString())
    assert operators["QLinearConv"] == 4
    assert operators["QLinearAdd"] == operators["QLinearGlobalAveragePool"] == 1
    assert not operators.keys() & {"Clip", "Conv", "Add", "DequantizeLinear"}


def test_halves_of_the_channels_stay_integers(rng):
    network = halves(rng)
    x = rng.standard_normal((40, 3, 8, 8)).astype(np.float32)
    model = to_onnx(QuantizeStatic().apply(network, Data(Rows({"x": x}))).network)
    operators = optimized_operators(model.SerializeToString())
    assert (operators["QLinearConv"], operators["QLinearConcat"]) == (3, 1)
    assert operators["QuantizeLinear"] == operators["DequantizeLinear"] == 1


def test_corrected_biases_keep_the_mean_of_every_channel(network, rows):
    names = [n.name for n in network.nodes if "bias" in n.layer.params() and _has_weight(n)]
    rounded = network.copy()
    for name in names:
        weight = rounded.node(name).layer.params()["weight"].value
        weight[...] = np.round(weight * 8) / 8
    batches = [{"x": rows[:15]}, {"x": rows[15:]}]
    for name, bias in corrected_biases(network, rounded, names, batches).items():
        rounded.node(name).layer.params()["bias"].value[...] = bias
    for name in names:
        found, wanted = (n.activations(rows, [name])[name] for n in (rounded, network))
        axis = -2 if isinstance(network.node(name).layer, Linear) else 0
        found, wanted = (
            np.moveaxis(a, axis, 0).reshape(a.shape[axis], -1) for a in (found, wanted)
        )
        # float32 sums of some thousand numbers near one
        np.testing.assert_allclose(found.mean(axis=1), wanted.mean(axis=1), atol=1e-4)


def _has_weight(node):
    return isinstance(node.layer, Conv2d | Linear)
