"""Multiply-accumulates by what multiplies, counted by hand beside what ONNX Runtime runs."""

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from compress.arithmetic import Arithmetic, arithmetic
from compress.export import to_onnx
from compress.folding import FoldScale
from compress.quantization import QuantizeStatic
from compress.quantization.post_training import PostTraining
from compress.recipe import Recipe
from compress.technique import Data
from hlserve.nn.architectures import build

ISLANDS = ("Conv", "Gemm", "MatMul", "Relu", "Add", "GlobalAveragePool", "Flatten")

# of a picture of 8 x 8: one convolution each, the closing layer last
STEM, FIRST, SECOND, HEAD = 64 * 32 * 3 * 9, 64 * 32 * 32 * 9, 64 * 32 * 32 * 9, 32 * 5


def model_of(nodes, weights, shape, out_shape, *, batch="batch"):
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [batch, *shape])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, out_shape)],
        [numpy_helper.from_array(values, name) for name, values in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def residual_model(batch="batch"):
    """A residual block between a stem and a dense layer; the stem hands on what HardSwish makes."""
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("Conv", ["x", "stem"], ["s"], pads=[1, 1, 1, 1]),
        helper.make_node("HardSwish", ["s"], ["h"]),
        helper.make_node("Conv", ["h", "first"], ["c1"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c1"], ["r1"]),
        helper.make_node("Conv", ["r1", "second"], ["c2"], pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["c2", "h"], ["sum"]),
        helper.make_node("Relu", ["sum"], ["r2"]),
        helper.make_node("GlobalAveragePool", ["r2"], ["g"]),
        helper.make_node("Flatten", ["g"], ["f"]),
        helper.make_node("Gemm", ["f", "head"], ["y"]),
    ]
    sizes = {"stem": (32, 3, 3, 3), "first": (32, 32, 3, 3), "second": (32, 32, 3, 3)}
    weights = {
        name: rng.uniform(-0.3, 0.3, size).astype(np.float32)
        for name, size in {**sizes, "head": (32, 5)}.items()
    }
    return model_of(nodes, weights, (3, 8, 8), [batch, 5], batch=batch)


@pytest.fixture
def pictures():
    return {"x": np.random.default_rng(1).uniform(-1, 1, (24, 3, 8, 8)).astype(np.float32)}


def test_all_in_floats(pictures):
    found = arithmetic(residual_model().SerializeToString(), pictures)
    assert found == Arithmetic(STEM + FIRST + SECOND + HEAD, 0)
    assert found.int8_share == 0.0


def test_a_convolution_that_stays_in_floats_is_counted_there(pictures):
    way = PostTraining("static", ISLANDS, per_channel=True)
    whole = way.apply(residual_model(), pictures)
    assert arithmetic(whole.SerializeToString(), pictures) == Arithmetic(
        0, STEM + FIRST + SECOND + HEAD
    )
    model = residual_model()
    # No integers: its weights do not stand in the file, and what it reads comes of floats.
    model.graph.node.insert(4, helper.make_node("Abs", ["second"], ["computed"]))
    model.graph.node.insert(4, helper.make_node("HardSwish", ["r1"], ["h1"]))
    model.graph.node[6].input[:] = ["h1", "computed"]
    onnx.checker.check_model(model)
    found = arithmetic(way.apply(model, pictures).SerializeToString(), pictures)
    assert found == Arithmetic(SECOND, STEM + FIRST + HEAD)
    assert found.int8_share == pytest.approx((STEM + FIRST + HEAD) / (2 * FIRST + STEM + HEAD))


def test_a_model_that_takes_one_batch_only_is_counted_by_the_row(pictures):
    found = arithmetic(residual_model(batch=4).SerializeToString(), pictures)
    assert found == Arithmetic(STEM + FIRST + SECOND + HEAD, 0)


def test_our_networks_are_counted_as_they_count_themselves(small_lenet, image_rows):
    network = small_lenet
    feeds = {"input": image_rows.x[:3].astype(np.float32)}
    found = arithmetic(to_onnx(network).SerializeToString(), feeds)
    assert found == Arithmetic(network.macs(), 0)
    recipe = Recipe((FoldScale(), QuantizeStatic()))
    integers = recipe.apply(network, Data(image_rows)).network
    found = arithmetic(to_onnx(integers).SerializeToString(), feeds)
    assert found == Arithmetic(0, network.macs())
    linear = Recipe((FoldScale(), QuantizeStatic(layers="linear")))
    half = arithmetic(
        to_onnx(linear.apply(network, Data(image_rows)).network).SerializeToString(), feeds
    )
    dense = sum(
        node.layer.macs(network.shapes[node.inputs[0]])
        for node in network.nodes
        if type(node.layer).__name__ == "Linear"
    )
    assert half == Arithmetic(network.macs() - dense, dense)


def test_recurrent_layers_count_every_step(rng):
    network = build("lstm:8", input_shape=(6, 5), n_outputs=3, task="classification")
    x = rng.normal(size=(4, 6, 5)).astype(np.float32)
    model = to_onnx(network)
    feeds = {"input": x}
    found = arithmetic(model.SerializeToString(), feeds)
    lstm = 6 * 4 * 8 * (5 + 8)  # steps, gates, units, what each reads
    assert found == Arithmetic(lstm + 8 * 3, 0)
    dynamic = PostTraining("dynamic", dynamic=("LSTM",)).apply(model, feeds)
    assert arithmetic(dynamic.SerializeToString(), feeds) == Arithmetic(8 * 3, lstm)
    all_of_it = PostTraining("dynamic", dynamic=("LSTM", "Gemm")).apply(model, feeds)
    assert arithmetic(all_of_it.SerializeToString(), feeds) == Arithmetic(0, lstm + 8 * 3)


def test_nothing_is_said_of_what_is_not_counted():
    w = np.ones((4, 3, 2, 2), np.float32)
    model = model_of(
        [helper.make_node("ConvTranspose", ["x", "w"], ["y"])], {"w": w}, (4, 5, 5), None
    )
    x = {"x": np.ones((2, 4, 5, 5), np.float32)}
    assert arithmetic(model.SerializeToString(), x) is None
    model = model_of([helper.make_node("Relu", ["x"], ["y"])], {}, (4,), ["batch", 4])
    assert (
        arithmetic(model.SerializeToString(), {"x": np.ones((2, 4), np.float32)}).int8_share is None
    )
