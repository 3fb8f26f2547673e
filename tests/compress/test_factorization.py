"""Low rank: exact where it can be, of the least error where it cannot, and small."""

import numpy as np
import pytest

from compress.distillation import FineTune
from compress.export import check_parity, to_onnx
from compress.factorization import FactorizeLinear, factorizable
from compress.factorization.low_rank import ROWS
from compress.factorization.spectrum import spectra
from compress.folding import FoldScale
from compress.pruning import PruneChannels
from compress.pruning.channels import removable_widths
from compress.quantization import QuantizeStatic
from compress.recipe import Recipe
from compress.session import optimized_operators
from compress.technique import Data
from hlserve.datasets import Rows
from hlserve.errors import CompressionError, ConfigError
from hlserve.nn import checkpoint
from hlserve.nn.layers import Linear, ReLU
from hlserve.nn.network import Input, sequential


def made(layers, shape, rng):
    network = sequential(layers, Input("input", shape)).initialize(rng)
    network.value[...] = rng.standard_normal(network.value.size)
    return network


def rows_of(rng, shape, n=300):
    """Correlated inputs, of which some never vary."""
    x = rng.standard_normal((n, *shape)) @ np.diag(np.linspace(0, 3, shape[-1]))
    x[..., 5] = 2.0
    return Rows({"x": x.astype(np.float32)})


def rank_errors(network, data):
    """The spectrum of every layer that can be factorized, as FactorizeLinear finds it."""
    nodes = [network.node(name) for name, _, _ in factorizable(network)]
    return spectra(network, nodes, data, rows=ROWS)


def outputs_lost(before, after, x):
    """The squared error of the answers, as a share of the answers' variance."""
    wanted, got = (n.predict(x)["output"].astype(np.float64) for n in (before, after))
    return np.sum((wanted - got) ** 2) / np.sum((wanted - wanted.mean(axis=0)) ** 2)


@pytest.mark.parametrize("is_weighted", [True, False])
@pytest.mark.parametrize("shape", [(60,), (4, 60)], ids=["rows", "steps"])
def test_a_weight_of_low_rank_is_split_without_a_loss(shape, is_weighted, rng):
    network = made([Linear(60, 50), ReLU()], shape, rng)
    weight = network.nodes[0].layer.weight
    weight.value[...] = rng.standard_normal((50, 8)) @ rng.standard_normal((8, 60)) / 8
    data = Data(rows_of(rng, shape))
    split = FactorizeLinear((8,), is_weighted=is_weighted).apply(network, data).network
    assert split.n_parameters == 8 * (60 + 50) + 50
    assert split.macs() == network.macs() * 8 * 110 // (60 * 50)
    # float32 rounding of sums of 60 terms of some size 30
    np.testing.assert_allclose(
        split.predict(data.train.x)["output"], network.predict(data.train.x)["output"], atol=1e-4
    )
    check_parity(split, to_onnx(split), data.train.x[:20])


def test_without_rows_the_error_is_the_tail_of_the_singular_values(rng):
    network = made([Linear(60, 50)], (60,), rng)
    data = Data(rows_of(rng, (60,)))
    split = FactorizeLinear((8,), is_weighted=False).apply(network, data).network
    down, up = (node.layer.weight.value.astype(np.float64) for node in split.nodes)
    weight = network.nodes[0].layer.weight.value.astype(np.float64)
    tail = np.linalg.svd(weight, compute_uv=False)[8:]
    lost = np.linalg.norm(weight - up @ down)
    assert lost == pytest.approx(np.linalg.norm(tail), rel=1e-5)  # factors are float32


@pytest.mark.parametrize("has_bias", [True, False])
def test_with_rows_the_outputs_lose_what_is_said_and_less_than_without(has_bias, rng):
    network = made([Linear(60, 50, has_bias)], (60,), rng)
    data = Data(rows_of(rng, (60,)))
    lost = {}
    for is_weighted in (True, False):
        technique = FactorizeLinear((16,), is_weighted=is_weighted)
        lost[is_weighted] = outputs_lost(
            network, technique.apply(network, data).network, data.train.x
        )
    assert lost[True] < 0.8 * lost[False]
    if has_bias:  # else the mean counts as well
        (spectrum,) = rank_errors(network, data)
        # outputs are float32, and so are the factors
        assert lost[True] == pytest.approx(spectrum.relative_error(16) ** 2, rel=1e-3)


def test_the_error_falls_with_the_rank_to_nothing(trained_mlp, mlp_data):
    assert factorizable(trained_mlp) == [("linear_2", 64, 40), ("linear_4", 32, 64)]
    for spectrum in rank_errors(trained_mlp, mlp_data):
        errors = [spectrum.relative_error(rank) for rank in range(len(spectrum.energies) + 1)]
        assert errors[0] == pytest.approx(1)
        assert errors[-1] == 0
        assert errors == sorted(errors, reverse=True)


def test_layers_keep_their_names_and_those_that_save_nothing_stay(trained_mlp, mlp_data):
    split = FactorizeLinear((8, 32)).apply(trained_mlp, mlp_data).network
    names = [name for name in split.params() if name.endswith("weight")]
    assert names == [
        "linear_2.down.weight", "linear_2.up.weight", "linear_4.weight", "linear_6.weight",
    ]  # fmt: skip
    assert split.node("linear_2.down").layer.bias is None


def test_more_energy_asks_for_more_rank(trained_mlp, mlp_data):
    sizes = [
        FactorizeLinear(energy=energy).apply(trained_mlp, mlp_data).network.n_parameters
        for energy in (0.5, 0.9, 1.0)
    ]
    assert sizes[0] <= sizes[1] <= sizes[2] == trained_mlp.n_parameters
    assert sizes[0] < sizes[2]


def test_a_split_network_goes_through_every_other_technique(trained_mlp, mlp_data, tmp_path):
    recipe = Recipe(
        (FactorizeLinear((16, 16)), PruneChannels(0.5), FineTune(epochs=4), FoldScale())
    )
    small = recipe.apply(trained_mlp, mlp_data).network
    assert removable_widths(small) == [8, 32, 8, 16]
    answers = small.predict(mlp_data.train.x)["probabilities"]
    assert np.mean(answers.argmax(1) == mlp_data.train.y) > 0.9  # of four classes
    checkpoint.save(small, tmp_path / "small.safetensors")
    loaded = checkpoint.load(tmp_path / "small.safetensors")
    assert np.array_equal(loaded.value, small.value)
    integers = QuantizeStatic().apply(small, mlp_data).network
    operators = optimized_operators(to_onnx(integers).SerializeToString())
    assert operators["QGemm"] == 5
    assert not operators.keys() & {"Gemm", "FusedGemm"}


def test_what_cannot_be_is_refused(trained_mlp, mlp_rows):
    with pytest.raises(ConfigError, match="energy is 0"):
        FactorizeLinear(energy=0)
    with pytest.raises(ConfigError, match="at least 1"):
        FactorizeLinear((8, 0))
    with pytest.raises(CompressionError, match=r"1 ranks for 2 layers.*linear_2"):
        FactorizeLinear((8,)).apply(trained_mlp, Data(mlp_rows))
