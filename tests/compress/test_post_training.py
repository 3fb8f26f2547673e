"""Integers for graphs from elsewhere: whole islands, dense layers, bodies, and no silent no-op."""

import tracemalloc
from collections import Counter

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from compress.model_file import nodes
from compress.quantization.calibration import histograms
from compress.quantization.graph_form import ready
from compress.quantization.islands import LAYERS, NEIGHBOURS, select
from compress.quantization.observer import value_range
from compress.quantization.post_training import DYNAMIC_LSTM, PostTraining, ways
from compress.session import Session, optimized_operators
from hlserve.errors import CompressionError

ISLANDS = LAYERS + NEIGHBOURS
DYNAMIC = PostTraining("dynamic int8", dynamic=("Gemm", "LSTM", "MatMul"))


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def tensor(name, values):
    return numpy_helper.from_array(np.ascontiguousarray(values), name)


def floats(name, shape):
    return helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)


def model_of(graph_nodes, shape, weights, out_shape, *, extra=()):
    graph = helper.make_graph(
        list(graph_nodes),
        "graph",
        [floats("x", ["batch", *shape]), *extra],
        [floats("y", ["batch", *out_shape])],
        [tensor(name, values) for name, values in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return model


def uniform(rng, *shape):
    return rng.uniform(-0.5, 0.5, shape).astype(np.float32)


def answers(model, x):
    return Session(model.SerializeToString()).run({"x": x})["y"]


def require_near(ours, theirs):
    """Within a few steps of 1/255 of the range, which is what 8 bits can promise."""
    assert np.abs(ours - theirs).max() < 0.05 * np.ptp(theirs)


def gemm_model(rng, **attributes):
    w = uniform(rng, 6, 12) if attributes.get("transB") else uniform(rng, 12, 6)
    node = helper.make_node("Gemm", ["x", "w", "b"], ["y"], **attributes)
    return model_of([node], (12,), {"w": w, "b": uniform(rng, 6)}, (6,))


@pytest.mark.parametrize(
    "attributes",
    [{}, {"transB": 1}, {"transB": 1, "alpha": 0.5}, {"alpha": 2.0, "beta": 0.25}],
)
def test_a_gemm_is_really_quantized_dynamically(attributes, rng):
    model = gemm_model(rng, **attributes)
    x = uniform(rng, 20, 12)
    quantized = DYNAMIC.apply(model, {})
    assert optimized_operators(quantized.SerializeToString())["DynamicQuantizeMatMul"] == 1
    require_near(answers(quantized, x), answers(model, x))


@pytest.mark.parametrize("attributes", [{"transB": 1, "alpha": 0.5, "beta": 3.0}, {"beta": 0.0}])
def test_a_gemm_spelled_as_a_product_answers_the_same(attributes, rng):
    model = gemm_model(rng, **attributes)
    spelled = ready(model, gemm_as_matmul=True)
    assert [n.op_type for n in spelled.graph.node] == ["MatMul", "Add"]
    x = uniform(rng, 20, 12)
    # The same products summed in another order: a few float32 roundings of 12 terms.
    np.testing.assert_allclose(answers(spelled, x), answers(model, x), rtol=1e-5, atol=1e-6)


def test_weights_in_constant_nodes_are_quantized(rng):
    w = helper.make_node("Constant", [], ["w"], value=tensor("w", uniform(rng, 12, 6)))
    model = model_of([w, helper.make_node("MatMul", ["x", "w"], ["y"])], (12,), {}, (6,))
    x = uniform(rng, 20, 12)
    for way in (DYNAMIC, PostTraining("static", LAYERS)):
        quantized = way.apply(model, {"x": x})
        require_near(answers(quantized, x), answers(model, x))
        kinds = optimized_operators(quantized.SerializeToString())
        assert kinds["DynamicQuantizeMatMul"] + kinds["MatMulIntegerToFloat"] == 1


def test_where_nothing_can_be_quantized_it_is_said(rng):
    product = helper.make_node("MatMul", ["x", "other"], ["y"])
    model = model_of([product], (12,), {}, (6,), extra=[floats("other", [12, 6])])
    feeds = {"x": uniform(rng, 8, 12), "other": uniform(rng, 12, 6)}
    for way in (DYNAMIC, DYNAMIC_LSTM, PostTraining("static", ISLANDS)):
        with pytest.raises(CompressionError, match="constant weights is there to quantize"):
            way.apply(model, feeds)
    assert ways(model) == ()


def residual_model(rng):
    """conv - relu - conv + shortcut, pooled, dense: with a HardSwish that breaks the island."""
    graph_nodes = [
        helper.make_node("Conv", ["x", "w1"], ["c1"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c1"], ["r1"]),
        helper.make_node("Conv", ["r1", "w2"], ["c2"], pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["c2", "r1"], ["s"]),
        helper.make_node("HardSwish", ["s"], ["h"]),
        helper.make_node("Add", ["h", "h"], ["twice"]),
        helper.make_node("GlobalAveragePool", ["twice"], ["g"]),
        helper.make_node("Flatten", ["g"], ["f"]),
        helper.make_node("Gemm", ["f", "w3"], ["y"]),
    ]
    weights = {
        "w1": uniform(rng, 16, 3, 3, 3),
        "w2": uniform(rng, 16, 16, 3, 3),
        "w3": uniform(rng, 16, 5),
    }
    return model_of(graph_nodes, (3, 8, 8), weights, (5,))


def test_only_neighbours_that_read_integers_become_integers(rng):
    chosen = select(ready(residual_model(rng)), ISLANDS)
    assert [n.op_type for n in chosen] == ["Conv", "Relu", "Conv", "Add", "Gemm"]


def test_an_island_fuses_whole(rng):
    model = residual_model(rng)
    x = uniform(rng, 16, 3, 8, 8)
    quantized = PostTraining("static", ISLANDS, per_channel=True).apply(model, {"x": x})
    kinds = optimized_operators(quantized.SerializeToString())
    assert (kinds["QLinearConv"], kinds["QLinearAdd"], kinds["QGemm"]) == (2, 1, 1)
    assert kinds["Conv"] == kinds["Relu"] == 0
    require_near(answers(quantized, x), answers(model, x))


def test_wide_layers_leave_narrow_and_depthwise_ones_in_floats(rng):
    graph_nodes = [
        helper.make_node("Conv", ["x", "narrow"], ["a"]),
        helper.make_node("Conv", ["a", "depthwise"], ["b"], pads=[1, 1, 1, 1], group=256),
        helper.make_node("Conv", ["b", "wide"], ["y"]),
    ]
    weights = {
        "narrow": uniform(rng, 256, 3, 1, 1),
        "depthwise": uniform(rng, 256, 1, 3, 3),
        "wide": uniform(rng, 128, 256, 1, 1),
    }
    model = model_of(graph_nodes, (3, 6, 6), weights, (128, 6, 6))
    assert [n.input[1] for n in select(ready(model), ISLANDS, "wide")] == ["wide"]
    assert "static int8 of wide layers" in [way.name for way in ways(model)]


def test_a_dense_layer_that_floats_read_hands_them_floats(rng):
    graph_nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["a"]),
        helper.make_node("Erf", ["a"], ["e"]),
        helper.make_node("MatMul", ["e", "w2"], ["b"]),
        helper.make_node("Relu", ["b"], ["y"]),
    ]
    weights = {"w1": uniform(rng, 12, 16), "w2": uniform(rng, 16, 6)}
    model = model_of(graph_nodes, (12,), weights, (6,))
    x = uniform(rng, 64, 12)
    quantized = PostTraining("static", ISLANDS).apply(model, {"x": x})
    assert optimized_operators(quantized.SerializeToString())["MatMulIntegerToFloat"] == 1
    require_near(answers(quantized, x), answers(model, x))
    assert answers(quantized, x).min() >= 0  # the Relu that a rounding took in is still there


def lstm_model(rng, direction, layout=0):
    n = 2 if direction == "bidirectional" else 1
    attributes = {"hidden_size": 8, "direction": direction, "layout": layout}
    node = helper.make_node("LSTM", ["x", "w", "r"], ["y"], **attributes)
    weights = {"w": uniform(rng, n, 32, 6), "r": uniform(rng, n, 32, 8)}
    graph = helper.make_graph(
        [node],
        "graph",
        [floats("x", ["time", "batch", 6])],
        [floats("y", None)],
        [tensor(name, values) for name, values in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
def test_an_lstm_is_quantized_in_every_direction(direction, per_channel, rng):
    model = lstm_model(rng, direction)
    way = PostTraining("lstm", dynamic=("LSTM",), per_channel=per_channel)
    quantized = way.apply(model, {})
    assert [n.op_type for n in quantized.graph.node] == ["DynamicQuantizeLSTM"]
    x = uniform(rng, 5, 3, 6)
    require_near(answers(quantized, x), answers(model, x))


def test_a_batch_first_lstm_is_left_alone(rng):
    with pytest.raises(CompressionError, match="no LSTM with constant weights"):
        DYNAMIC_LSTM.apply(lstm_model(rng, "forward", layout=1), {})


def branching_model(rng):
    """An If whose bodies hold a Gemm with its own weights and a MatMul with those outside."""

    def body(name, node, initializers):
        return helper.make_graph([node], name, [], [floats(node.output[0], None)], initializers)

    gemm = helper.make_node("Gemm", ["x", "inner", "b"], ["then_y"], transB=1, name="n")
    inside = [tensor("inner", uniform(rng, 6, 12)), tensor("b", uniform(rng, 6))]
    product = helper.make_node("MatMul", ["x", "outer"], ["else_y"], name="n")
    graph_nodes = [
        helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0),
        helper.make_node("Greater", ["sum", "zero"], ["is_more"]),
        helper.make_node(
            "If",
            ["is_more"],
            ["y"],
            then_branch=body("then", gemm, inside),
            else_branch=body("else", product, []),
        ),
    ]
    weights = {"zero": np.float32(0), "outer": uniform(rng, 12, 6)}
    return model_of(graph_nodes, (12,), weights, (6,))


def test_layers_in_bodies_are_quantized_dynamically(rng):
    model = branching_model(rng)
    quantized = DYNAMIC.apply(model, {})
    kinds = Counter(n.op_type for n in nodes(quantized.graph))
    assert kinds["MatMulInteger"] == 2
    assert kinds["Gemm"] == kinds["MatMul"] == 0
    for sign in (1, -1):
        x = sign * np.abs(uniform(rng, 9, 12))
        require_near(answers(quantized, x), answers(model, x))
    assert "dynamic int8" in [way.name for way in ways(model)]


def conv_lstm_model(rng):
    """A convolution under an LSTM under a dense layer, which all ways but one find something in."""
    graph_nodes = [
        helper.make_node("Conv", ["x", "wide"], ["c"]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("Transpose", ["r"], ["t"], perm=[2, 0, 1]),
        helper.make_node("LSTM", ["t", "w", "r_w"], ["", "h"], hidden_size=8),
        helper.make_node("Squeeze", ["h", "axes"], ["last"]),
        helper.make_node("Gemm", ["last", "w3"], ["y"]),
    ]
    weights = {
        "wide": uniform(rng, 64, 512, 1) / 16,
        "w": uniform(rng, 1, 32, 64),
        "r_w": uniform(rng, 1, 32, 8),
        "axes": np.array([0], np.int64),
        "w3": uniform(rng, 8, 5),
    }
    return model_of(graph_nodes, (512, 6), weights, (5,))


@pytest.mark.parametrize("made", [conv_lstm_model, residual_model, branching_model])
def test_every_way_makes_valid_onnx_that_keeps_what_is_known_of_the_model(made, rng):
    model = made(rng)
    model.metadata_props.add(key="author", value="someone")
    shape = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim[1:]]
    x = uniform(rng, 16, *shape)
    assert ways(model)
    for way in ways(model):
        quantized = way.apply(model, {"x": x})
        onnx.checker.check_model(_without_own_operators(quantized))
        assert [p.key for p in quantized.metadata_props] == ["author"]
        require_near(answers(quantized, x), answers(model, x))


def _without_own_operators(model):
    """The checker knows no operators of ONNX Runtime's own domain; order and names it does."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    if not any(entry.domain == "com.microsoft" for entry in copy.opset_import):
        copy.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    return copy


def test_calibration_memory_does_not_grow_with_the_rows(rng):
    model = residual_model(rng)
    names = ["c1", "r1", "s"]

    def peak(n):
        x = np.zeros((n, 3, 8, 8), np.float32)
        tracemalloc.start()
        histograms(model, names, {"x": x})
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    peak(8)  # the first call imports and caches
    assert peak(400) < 1.2 * peak(16)  # both hold 8 rows' activations; the rest is noise


def test_a_percentile_cuts_outliers_off(rng):
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    model = model_of([node], (12,), {"w": uniform(rng, 12, 6)}, (6,))
    x = uniform(rng, 500, 12)
    x[7, 3] = 100.0
    seen = histograms(model, ["x"], {"x": x})["x"]
    assert value_range(seen, "minmax", 99.9)[1] == 100.0
    assert value_range(seen, "percentile", 99.9)[1] < 1.0


def scale_of_the_input(model):
    weights = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    first = next(n for n in model.graph.node if n.op_type == "QuantizeLinear")
    return float(weights[first.input[1]])


def test_the_observer_decides_the_scale_in_the_file(rng):
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    model = model_of([node], (12,), {"w": uniform(rng, 12, 6)}, (6,))
    x = uniform(rng, 500, 12)
    x[7, 3] = 100.0
    scales = {
        way: scale_of_the_input(way.apply(model, {"x": x}))
        for way in (
            PostTraining("static", LAYERS),
            PostTraining("static", LAYERS, percentile=99.9),
            PostTraining("static", LAYERS, observer="mse"),
        )
    }
    widest, cut, least = scales.values()
    assert widest == pytest.approx(100.5 / 255, rel=1e-3)  # from -0.5 to the outlier
    assert cut < widest / 50
    assert least < widest  # one value's whole error against 6,000 finer roundings


def test_the_model_given_stays_as_it_is(rng):
    model = branching_model(rng)
    before = model.SerializeToString(deterministic=True)
    DYNAMIC.apply(model, {})
    ways(model)
    assert model.SerializeToString(deterministic=True) == before
