"""Integers: error bounds, what fuses, and bounded memory."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compress.export import dequantize_array, quantize_array, to_onnx
from compress.folding import FoldScale
from compress.quantization import QuantizeStatic
from compress.quantization.observer import (
    activation_qparams,
    bias_qparams,
    value_range,
    weight_qparams,
)
from compress.quantization.placement import place
from compress.recipe import Recipe
from compress.session import Session, optimized_operators
from compress.technique import Data
from hlserve.datasets import Rows
from hlserve.errors import CompressionError, ConfigError
from hlserve.nn.layers import Conv2d, Flatten, Linear, MaxPool2d, ReLU, Softmax, Standardize, Tanh
from hlserve.nn.network import Input, sequential
from tests.compress.histograms import histogram_of

finite = st.floats(-1e6, 1e6, width=32)


@given(finite, finite, st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_activation_error_is_at_most_half_a_step_inside_the_range(a, b, places):
    low, high = min(a, b, 0.0), max(a, b, 0.0)
    qparams = activation_qparams((low, high))
    x = np.array([low + p * (high - low) for p in places]).clip(low, high)
    back = dequantize_array(quantize_array(x, qparams), qparams)
    step = float(qparams.scale)
    # the zero point is rounded too, which may move the range's ends by half a step more
    inside = (x >= (0 - qparams.zero_point.astype(float)) * step) & (
        x <= (255 - qparams.zero_point.astype(float)) * step
    )
    slack = 1e-6 * max(abs(low), abs(high), 1e-30)  # the scale is a float32
    assert np.all(np.abs(back - x)[inside] <= step / 2 + slack)
    assert np.all(np.abs(back - x) <= step + slack)


@given(finite, finite)
def test_zero_is_exact(a, b):
    qparams = activation_qparams((min(a, b), max(a, b)))
    zero = np.zeros(1, np.float32)
    assert dequantize_array(quantize_array(zero, qparams), qparams)[0] == 0


@given(st.lists(st.lists(finite, min_size=3, max_size=3), min_size=1, max_size=6))
def test_weight_error_is_at_most_half_a_step_of_its_channel(values):
    weight = np.array(values, np.float32)
    qparams = weight_qparams(weight, 0)
    error = np.abs(dequantize_array(quantize_array(weight, qparams), qparams) - weight)
    assert np.all(error <= qparams.scale[:, None] * 0.500001 + 1e-30)


def test_a_dead_channel_with_a_bias_does_not_overflow():
    weight, bias = np.zeros((2, 3), np.float32), np.array([5.0, -1e-3], np.float32)
    weights = weight_qparams(weight, 0, bias=bias, input_scale=1e-4)
    biases = bias_qparams(weights, 1e-4)
    np.testing.assert_allclose(
        dequantize_array(quantize_array(bias, biases), biases), bias, rtol=1e-6
    )


def test_values_that_never_vary_have_a_range_of_their_own():
    seen = histogram_of(np.full(5, 3.0))
    for observer in ("minmax", "percentile", "mse"):
        assert value_range(seen, observer, 99.0)[1] == 3.0
    assert float(activation_qparams((0.0, 0.0)).scale) == 1.0


def test_lenet_runs_wholly_in_integers(small_lenet, image_rows):
    recipe = Recipe((FoldScale(), QuantizeStatic()))
    network = recipe.apply(small_lenet, Data(image_rows)).network
    operators = optimized_operators(to_onnx(network).SerializeToString())
    assert operators["QLinearConv"] == 2
    assert operators["QGemm"] == 3
    assert operators["QuantizeLinear"] == 1
    assert not operators.keys() & {"Conv", "Gemm", "FusedConv", "FusedGemm", "DequantizeLinear"}


def test_answers_stay_near_the_floats(trained_mlp, mlp_data):
    network = QuantizeStatic().apply(trained_mlp, mlp_data).network
    x = mlp_data.train.x
    theirs = Session(to_onnx(network).SerializeToString()).run({"input": x.astype(np.float32)})
    floats = trained_mlp.predict(x)["probabilities"]
    assert np.mean(theirs["probabilities"].argmax(1) == floats.argmax(1)) > 0.98


def test_standardization_stays_in_floats_ahead_of_the_integers(rng):
    # columns of very different sizes: one scale for the raw input would lose the small one
    x = (rng.normal(size=(400, 3)) * [1e4, 1.0, 1e-4] + [1e5, 0, 0]).astype(np.float32)
    layers = [Standardize(x.mean(0).tolist(), x.std(0).tolist()), Linear(3, 2)]
    network = sequential(layers, Input("input", (3,))).initialize(rng)
    data = Data(Rows({"x": x}))
    recipe = Recipe((FoldScale(), QuantizeStatic()))
    quantized = recipe.apply(network, data).network
    model = to_onnx(quantized)
    kinds = [n.op_type for n in model.graph.node]
    assert kinds.index("Sub") < kinds.index("Div") < kinds.index("QuantizeLinear")
    theirs = Session(model.SerializeToString()).run({"input": x})["output"]
    assert np.max(np.abs(theirs - network.predict(x)["output"])) < 0.05


@pytest.mark.parametrize(
    "layers",
    [
        [Conv2d(1, 4, 3), Tanh(), Flatten(), Linear(144, 2), Softmax()],
        [Conv2d(1, 4, 3), MaxPool2d(2), ReLU(), Flatten(), Linear(36, 2)],
        [Conv2d(1, 4, 3), ReLU(), Conv2d(4, 4, 3), Flatten(), Linear(64, 2)],
    ],
    ids=["tanh", "pool before relu", "conv last"],
)
def test_other_orders_of_layers_still_run_in_integers(layers, rng):
    network = sequential(layers, Input("input", (1, 8, 8))).initialize(rng)
    x = rng.normal(size=(64, 1, 8, 8)).astype(np.float32)
    quantized = QuantizeStatic().apply(network, Data(Rows({"x": x}))).network
    model = to_onnx(quantized).SerializeToString()
    operators = optimized_operators(model)
    n_convolutions = sum(isinstance(layer, Conv2d) for layer in layers)
    assert operators["QLinearConv"] == n_convolutions
    assert operators["QGemm"] == 1
    theirs = Session(model).run({"input": x})["output"]
    floats = network.predict(x)["output"]
    # three quantizers in a row, each off by up to 1/510 of its range on every term
    assert np.max(np.abs(theirs - floats)) < 0.03 * np.ptp(floats)


def test_input_is_shared_with_a_pass_through_layer(small_lenet):
    placement = place(small_lenet)
    assert len(placement.layers) == 5
    assert set(placement.observed) <= set(small_lenet.shapes)


def test_observed_memory_does_not_grow_with_rows(trained_mlp, mlp_rows):
    network = trained_mlp.copy()
    many = Rows({"x": np.tile(mlp_rows.x, (4, 1))})
    technique = QuantizeStatic(rows=len(many))
    shapes = [b[n].shape[-1] for b in technique._batches(network, ["input"], Data(many)) for n in b]
    assert max(shapes) == 64
    assert sum(shapes) == len(many)


def test_what_cannot_be_quantized_says_so(rng):
    network = sequential([Tanh()], Input("input", (3,)))
    with pytest.raises(CompressionError, match="no layer"):
        QuantizeStatic().apply(network, Data(Rows({"x": np.ones((4, 3), np.float32)})))
    with pytest.raises(ConfigError, match="percentile 20"):
        QuantizeStatic(percentile=20)
