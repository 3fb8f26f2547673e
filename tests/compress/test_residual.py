"""Folding, quantizing and pruning a network with residual blocks and batch normalization."""

import numpy as np
import pytest

from compress.export import check_parity, to_onnx
from compress.folding import FoldBatchNorm, FoldScale
from compress.pruning import PruneChannels
from compress.pruning.channels import removable_widths
from compress.quantization import QuantizeStatic
from compress.recipe import Recipe
from compress.session import Session, optimized_operators
from compress.technique import Data
from hlserve.datasets import Rows, load
from hlserve.nn.architectures import build_for
from hlserve.nn.layers import (
    Add,
    BatchNorm,
    Concat,
    Conv1d,
    Conv2d,
    Flatten,
    GlobalAvgPool,
    Linear,
    MaxPool2d,
    Multiply,
    ReLU,
)
from hlserve.nn.network import Input, Network, Node, sequential
from hlserve.nn.trainer import fit
from tests.compress.ladders import candidates


@pytest.fixture(scope="module")
def digits():
    return load("digits")


@pytest.fixture(scope="module")
def resnet(digits):
    train = digits.train
    network = build_for("resnet:8", train.x, train.y, task="classification")
    fit(network, train.x, train.y, epochs=3, progress=False)
    return network


@pytest.fixture(scope="module")
def data(digits, resnet):
    few = digits.train.take(slice(0, 256))
    logits = resnet.activations(few.x, [resnet.logits_node])
    return Data(few, next(iter(logits.values())).T.copy())


def kinds(network):
    return [type(node.layer) for node in network.nodes]


def test_folding_takes_every_batch_norm_and_keeps_the_answers(resnet, digits, data):
    folded = FoldBatchNorm().apply(resnet, data).network
    assert kinds(resnet).count(BatchNorm) == 9
    assert BatchNorm not in kinds(folded)
    assert folded.macs() == resnet.macs()
    np.testing.assert_allclose(
        folded.predict(digits.test.x)["probabilities"],
        resnet.predict(digits.test.x)["probabilities"],
        atol=2e-5,  # rounding of float32 weights, grown through nine layers
    )
    check_parity(folded, to_onnx(folded), digits.test.x[:50])


@pytest.mark.parametrize(
    ("layers", "shape"),
    [
        ([Linear(6, 4), BatchNorm(4)], (6,)),
        ([Linear(6, 4, has_bias=False), BatchNorm(4)], (6,)),
        ([Conv1d(2, 4, 3), BatchNorm(4)], (2, 7)),
        ([Conv2d(4, 8, 3, groups=4, has_bias=False), BatchNorm(8)], (4, 5, 6)),
        ([Conv2d(1, 4, 3), BatchNorm(4), BatchNorm(4), ReLU()], (1, 5, 6)),
    ],
    ids=["linear", "without bias", "along time", "depthwise", "twice"],
)
def test_every_layer_with_weights_takes_a_batch_norm(layers, shape, rng):
    network = sequential(layers, Input("input", shape)).initialize(rng)
    network.value[...] = rng.standard_normal(network.value.size)
    network.statistics[...] = rng.uniform(0.5, 2.0, network.statistics.size)
    x = rng.standard_normal((5, *shape)).astype(np.float32)
    folded = FoldBatchNorm().apply(network, Data(Rows({"x": x}))).network
    assert BatchNorm not in kinds(folded)
    # float32 rounding of sums of some ten terms
    np.testing.assert_allclose(
        folded.predict(x)["output"], network.predict(x)["output"], rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("n_features", [3, 5], ids=["as many as steps", "more than steps"])
def test_a_batch_norm_behind_steps_of_a_sequence_stays(n_features, rng):
    layers = [Linear(4, n_features), BatchNorm(3)]  # normalizes each of the three steps
    network = sequential(layers, Input("input", (3, 4))).initialize(rng)
    network.value[...] = rng.standard_normal(network.value.size)
    network.statistics[...] = rng.uniform(0.5, 2.0, network.statistics.size)
    x = rng.standard_normal((5, 3, 4)).astype(np.float32)
    folded = FoldBatchNorm().apply(network, Data(Rows({"x": x}))).network
    assert kinds(folded) == [Linear, BatchNorm]
    np.testing.assert_array_equal(folded.predict(x)["output"], network.predict(x)["output"])


def test_a_batch_norm_whose_layer_is_read_elsewhere_stays(rng):
    nodes = [
        Node("conv", Conv2d(1, 2, 3), ("x",)),
        Node("norm", BatchNorm(2), ("conv",)),
        Node("sum", Add(), ("conv", "norm")),
    ]
    network = Network([Input("x", (1, 5, 5))], nodes, {"y": "sum"}).initialize(rng)
    x = rng.standard_normal((4, 1, 5, 5)).astype(np.float32)
    folded = FoldBatchNorm().apply(network, Data(Rows({"x": x}))).network
    assert BatchNorm in kinds(folded)
    np.testing.assert_array_equal(folded.predict(x)["y"], network.predict(x)["y"])


def test_a_residual_network_runs_wholly_in_integers(resnet, digits, data):
    recipe = Recipe((FoldBatchNorm(), FoldScale(), QuantizeStatic()))
    model = to_onnx(recipe.apply(resnet, data).network).SerializeToString()
    operators = optimized_operators(model)
    assert operators["QLinearConv"] == 9
    assert operators["QLinearAdd"] == 3
    assert operators["QLinearGlobalAveragePool"] == 1
    assert operators["QGemm"] == 1
    assert operators["QuantizeLinear"] == 1
    assert not operators.keys() & {"Add", "Conv", "DequantizeLinear", "GlobalAveragePool", "Relu"}
    answers = Session(model).run({"input": digits.test.x.astype(np.float32)})["probabilities"]
    floats = resnet.predict(digits.test.x)["probabilities"]
    assert np.mean(answers.argmax(1) == floats.argmax(1)) > 0.97


def test_channels_that_are_added_go_together(resnet, digits, data):
    # stem and second convolutions of a stage are one group, each first convolution its own
    assert removable_widths(resnet) == [16, 16, 32, 32, 64, 64]
    pruned = PruneChannels(0.5).apply(resnet, data).network
    assert removable_widths(pruned) == [8, 8, 16, 16, 32, 32]
    half = build_like(resnet, (8, 16, 32))
    assert pruned.n_parameters == half
    check_parity(pruned, to_onnx(pruned), digits.test.x[:50])


def build_like(network, widths):
    """Parameters of the residual network with these widths, counted by hand."""
    stem, total, before = widths[0] * 9 + 2 * widths[0], 0, widths[0]
    for width in widths:
        shortcut = before * width + 2 * width if before != width else 0
        total += before * width * 9 + width * width * 9 + 4 * width + shortcut
        before = width
    n_outputs = network.shapes[network.logits_node][0]
    return stem + total + before * n_outputs + n_outputs


def test_pruning_silent_residual_channels_leaves_the_answers_equal(resnet, digits, data):
    network = resnet.copy()
    add = next(node for node in network.nodes if isinstance(node.layer, Add))
    for name in add.inputs:  # both come from a batch norm here or are a ReLU of one
        while not isinstance(network.node(name).layer, BatchNorm):
            name = network.node(name).inputs[0]
        for param in ("gamma", "beta"):
            network.node(name).layer.params()[param].value[8:] = 0
    pruned = PruneChannels(widths=(8, 16, 32, 32, 64, 64), importance="taylor").apply(network, data)
    assert pruned.network.shapes[add.name][0] == 8
    np.testing.assert_allclose(
        pruned.network.predict(digits.test.x)["probabilities"],
        network.predict(digits.test.x)["probabilities"],
        atol=1e-5,  # float32 sums of other lengths
    )


def test_the_search_folds_batch_norms_ahead_of_integers(resnet, data, tmp_path):
    found, _ = candidates(resnet, data.train, tmp_path / "search", most=2)
    assert [candidate.name for candidate in found] == ["folded", "int8"]
    assert all('technique = "FoldBatchNorm"' in candidate.recipe for candidate in found)
    assert optimized_operators(found[1].model)["QLinearAdd"] == 3


def gated(rng):
    """A squeeze-and-excitation block: a gate a channel, from the means of all channels."""
    nodes = [
        Node("conv", Conv2d(1, 16, 3), ("x",)),
        Node("mean", GlobalAvgPool(), ("conv",)),
        Node("squeeze", Linear(16, 8), ("mean",)),
        Node("excite", Linear(8, 16), ("squeeze",)),
        Node("gates", Multiply(gate_axes=2), ("conv", "excite")),
        Node("flat", Flatten(), ("gates",)),
        Node("out", Linear(16 * 9, 3), ("flat",)),
    ]
    return Network([Input("x", (1, 5, 5))], nodes, {"y": "out"}).initialize(rng)


def test_gates_go_with_the_channels_that_they_open(rng):
    network = gated(rng)
    assert removable_widths(network) == [16, 8]
    assert removable_widths(network, "linear") == [8]  # a gate stays with its filter
    x = rng.standard_normal((6, 1, 5, 5)).astype(np.float32)
    pruning = PruneChannels(widths=(8, 8), importance="l1")
    pruned = pruning.apply(network, Data(Rows({"x": x}))).network
    assert pruned.shapes["gates"] == (8, 3, 3)
    assert pruned.shapes["excite"] == (8,)
    check_parity(pruned, to_onnx(pruned), x)


def inception(rng):
    """Two branches side by side, added to a shortcut."""
    nodes = [
        Node("one", Conv2d(1, 16, 1), ("x",)),
        Node("three", Conv2d(1, 16, 3, padding=1), ("x",)),
        Node("both", Concat(), ("one", "three")),
        Node("shortcut", Conv2d(1, 32, 1), ("x",)),
        Node("sum", Add(), ("both", "shortcut")),
        Node("relu", ReLU(), ("sum",)),
        Node("flat", Flatten(), ("relu",)),
        Node("out", Linear(32 * 9, 3), ("flat",)),
    ]
    return Network([Input("x", (1, 3, 3))], nodes, {"y": "out"}).initialize(rng)


@pytest.mark.parametrize(("ratio", "round_to", "width"), [(0.5, 8, 8), (0.99, 1, 1)])
def test_branches_that_are_added_to_a_shortcut_lose_each_channel_once(ratio, round_to, width, rng):
    network = inception(rng)
    assert removable_widths(network) == [16, 16]
    x = rng.standard_normal((6, 1, 3, 3)).astype(np.float32)
    pruning = PruneChannels(ratio, importance="l1", round_to=round_to)
    pruned = pruning.apply(network, Data(Rows({"x": x}))).network
    assert [pruned.shapes[name][0] for name in ("one", "three", "shortcut")] == [
        width,
        width,
        2 * width,
    ]
    assert removable_widths(pruned) == [width, width]
    check_parity(pruned, to_onnx(pruned), x)


def test_branches_of_silent_channels_give_the_same_answers_without_them(rng):
    network = inception(rng)
    for name, gone in [("one", range(8, 16)), ("three", range(8)), ("shortcut", range(8, 24))]:
        for param in network.node(name).layer.params().values():
            param.value[list(gone)] = 0
    x = rng.standard_normal((6, 1, 3, 3)).astype(np.float32)
    pruning = PruneChannels(widths=(8, 8), importance="l1")
    pruned = pruning.apply(network, Data(Rows({"x": x}))).network
    # float32 sums of other lengths
    np.testing.assert_allclose(pruned.predict(x)["y"], network.predict(x)["y"], atol=1e-5)


def test_an_average_of_floats_stays_in_floats(rng):
    layers = [GlobalAvgPool(), Linear(2, 3)]
    network = sequential(layers, Input("input", (2, 4, 4))).initialize(rng)
    x = rng.standard_normal((32, 2, 4, 4)).astype(np.float32)
    quantized = QuantizeStatic().apply(network, Data(Rows({"x": x}))).network
    assert set(quantized.activation_qparams) == {"globalavgpool_1"}
    assert Flatten not in kinds(quantized)


def test_a_relu_behind_pooling_lends_its_range_to_the_convolution(rng):
    layers = [Conv2d(1, 4, 3), MaxPool2d(2), ReLU(), Flatten(), Linear(36, 2)]
    network = sequential(layers, Input("input", (1, 8, 8))).initialize(rng)
    x = rng.standard_normal((64, 1, 8, 8)).astype(np.float32)
    qparams = QuantizeStatic().apply(network, Data(Rows({"x": x}))).network.activation_qparams
    behind = [qparams[name] for name in ("conv2d_1", "maxpool2d_2", "relu_3")]
    assert {(float(q.scale), int(q.zero_point)) for q in behind} == {(float(behind[2].scale), 0)}
