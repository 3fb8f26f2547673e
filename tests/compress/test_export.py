"""The exporter against the network itself, and the graph it writes."""

import numpy as np
import onnx
import pytest

from compress.export import check_parity, dequantize_array, parity, quantize_array, to_onnx
from compress.session import Session
from hlserve.errors import CompressionError
from hlserve.nn.layers.linear import Linear
from hlserve.nn.network import Input, Network, Node, sequential
from hlserve.nn.param import QParams


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def network(rng):
    return sequential([Linear(5, 7), Linear(7, 3)], Input("input", (5,))).initialize(rng)


def test_exported_graph_answers_like_the_network(network, rng):
    rows = rng.normal(size=(11, 5)).astype(np.float32)
    assert check_parity(network, to_onnx(network), rows) < 1e-5


def test_names_opset_and_batch_are_as_promised(network):
    model = to_onnx(network)
    assert [o.version for o in model.opset_import] == [21]
    assert [i.name for i in model.graph.input] == ["input"]
    assert [o.name for o in model.graph.output] == ["output"]
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    assert {t.name for t in model.graph.initializer} >= {"linear_1.weight", "linear_2.bias"}


def test_equal_initializers_are_written_once():
    network = sequential([Linear(4, 4), Linear(4, 4)], Input("input", (4,)))
    assert len(to_onnx(network).graph.initializer) == 2  # all weights zero, all biases zero


def test_two_names_for_one_output_both_answer(rng):
    nodes = [Node("hidden", Linear(2, 2), ("x",)), Node("last", Linear(2, 2), ("hidden",))]
    network = Network([Input("x", (2,))], nodes, {"a": "last", "b": "last", "c": "hidden"})
    network.initialize(rng)
    rows = rng.normal(size=(3, 2)).astype(np.float32)
    assert parity(network, to_onnx(network), rows) < 1e-6


def test_an_output_named_like_a_tensor_does_not_clash(rng):
    network = sequential([Linear(2, 2), Linear(2, 2)], Input("gemm", (2,)), output="gemm_2")
    network.initialize(rng)
    assert parity(network, to_onnx(network), np.ones((1, 2), np.float32)) < 1e-6


def test_qparams_are_written_as_integers_and_dequantize(network, rng):
    weight = network.params()["linear_1.weight"]
    scale = (np.abs(weight.value).max(axis=1) / 127).astype(np.float32)
    weight.qparams = QParams(scale, np.zeros(7, np.int8), 0, "int8")
    network.activation_qparams["input"] = QParams(
        np.float32(0.05) * np.ones((), np.float32), np.array(128, np.uint8), None, "uint8"
    )
    model = to_onnx(network)
    operators = [n.op_type for n in model.graph.node]
    assert operators.count("QuantizeLinear") == 1
    assert operators.count("DequantizeLinear") == 2
    types = {t.name: t.data_type for t in model.graph.initializer}
    assert types["linear_1.weight.int8"] == onnx.TensorProto.INT8
    rows = rng.uniform(-2, 2, size=(9, 5)).astype(np.float32)
    assert 0 < parity(network, model, rows) < 0.2


def test_integer_round_trip_is_what_onnx_runtime_does(rng):
    network = sequential([Linear(3, 3)], Input("input", (3,)))
    network.params()["linear_1.weight"].value[...] = np.eye(3)
    qparams = QParams(np.array(0.1, np.float32), np.array(7, np.uint8), None, "uint8")
    network.activation_qparams["input"] = qparams
    rows = rng.uniform(-3, 30, size=(50, 3)).astype(np.float32)
    theirs = Session(to_onnx(network).SerializeToString()).run({"input": rows})["output"]
    np.testing.assert_allclose(
        dequantize_array(quantize_array(rows, qparams), qparams), theirs, atol=1e-5
    )


def test_parity_check_notices_a_weight_off_by_a_thousandth(network, rng):
    model = to_onnx(network)
    network.params()["linear_2.weight"].value *= 1.001
    with pytest.raises(CompressionError, match="answers differently"):
        check_parity(network, model, rng.normal(size=(64, 5)).astype(np.float32))
