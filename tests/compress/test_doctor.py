"""What the doctor reads in a graph, on models that ONNX Runtime really loads."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from compress.advice import WARNING, graph_advice, integer_layers, quantizers_left
from compress.doctor import examine_model, instruction_advice, thread_counts
from compress.export import to_onnx
from compress.folding import FoldScale
from compress.machine import Processor
from compress.model_file import is_quantized
from compress.quantization import QuantizeStatic
from compress.quantization.blocks import INT4_WEIGHTS
from compress.recipe import Recipe
from compress.remake import remake
from compress.session import optimized, optimized_operators
from hlserve.nn.architectures import build

FLOAT, DOUBLE = TensorProto.FLOAT, TensorProto.DOUBLE
INT8, INT16 = TensorProto.INT8, TensorProto.INT16


def graph(nodes, tensors, *, x=("batch", 8), y=("batch", None), kind=FLOAT):
    """A model from x to y."""
    made = helper.make_graph(
        nodes,
        "made",
        [helper.make_tensor_value_info("x", kind, list(x))],
        [helper.make_tensor_value_info("y", kind, list(y))],
        [numpy_helper.from_array(array, name) for name, array in tensors.items()],
    )
    opset = [helper.make_opsetid("", 21)]
    return helper.make_model(made, opset_imports=opset, ir_version=10)


def dense(*widths, dtype=np.float32):
    """Gemm and Relu from 8 numbers to these widths, named dense_0 and so on."""
    rng, nodes, tensors, last = np.random.default_rng(0), [], {}, "x"
    kind = DOUBLE if dtype == np.float64 else FLOAT
    for i, (n_in, n_out) in enumerate(zip((8, *widths), widths, strict=False)):
        tensors[f"w{i}"] = rng.standard_normal((n_in, n_out)).astype(dtype)
        is_last = i == len(widths) - 1
        out = "y" if is_last else f"h{i}"
        nodes.append(helper.make_node("Gemm", [last, f"w{i}"], [out], name=f"dense_{i}"))
        if not is_last:
            nodes.append(helper.make_node("Relu", [out], [f"r{i}"]))
        last = f"r{i}"
    return graph(nodes, tensors, kind=kind)


def quantized(
    *, activations=True, weights=True, stored=INT8, bias=None, kind="Gemm", behind="QuantizeLinear"
):
    """One layer between quantizers, or with parts of them left out."""
    dtype = helper.tensor_dtype_to_np_dtype(stored)
    shape = (16, 8) if kind == "Gemm" else (16, 4, 3, 3)
    weight = np.random.default_rng(0).integers(-9, 9, shape)
    tensors = {
        "s": np.array(0.1, np.float32),
        "z": np.array(0, dtype),
        "zx": np.array(128, np.uint8),
        "w": weight.astype(dtype) if weights else weight.astype(np.float32),
    }
    nodes, reads, weighs = [], "x", "w"
    if activations:
        nodes += [
            helper.make_node("QuantizeLinear", ["x", "s", "zx"], ["xq"]),
            helper.make_node("DequantizeLinear", ["xq", "s", "zx"], ["xd"]),
        ]
        reads = "xd"
    if weights:
        nodes.append(helper.make_node("DequantizeLinear", ["w", "s", "z"], ["wd"]))
        weighs = "wd"
    inputs = [reads, weighs]
    if bias == FLOAT:
        tensors["b"] = np.ones(16, np.float32)
        inputs.append("b")
    options = {"transB": 1} if kind == "Gemm" else {}
    nodes.append(helper.make_node(kind, inputs, ["h"], name="layer", **options))
    if behind == "QuantizeLinear":
        nodes += [
            helper.make_node("QuantizeLinear", ["h", "s", "zx"], ["hq"]),
            helper.make_node("DequantizeLinear", ["hq", "s", "zx"], ["y"]),
        ]
    else:
        nodes.append(helper.make_node(behind, ["h"], ["y"]))
    images = kind == "Conv"
    x = ("batch", 4, 6, 6) if images else ("batch", 8)
    return graph(nodes, tensors, x=x, y=("batch", 16, 4, 4) if images else ("batch", 16))


def advice(model):
    onnx.checker.check_model(model)
    return graph_advice(model, optimized(model.SerializeToString()))


# ----- quantizers


def test_quantizers_at_both_ends_are_not_counted():
    model = quantized()
    runs = optimized(model.SerializeToString())
    kinds = [node.op_type for node in runs.graph.node]
    assert kinds.count("QuantizeLinear") == kinds.count("DequantizeLinear") == 1
    left = quantizers_left(runs)
    assert (left.n_between, left.n_weights) == (0, 0)
    (told,) = advice(model)
    assert "layers that run in integers: 1, quantizers that stand between layers: 0" in told


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"activations": False}, "only weights are quantized"),
        ({"weights": False, "behind": "Relu"}, "its weights and its output are in floats"),
        ({"bias": FLOAT, "behind": "Relu"}, "the bias and the output are in floats"),
        ({"kind": "Conv", "behind": "Tanh"}, "a Conv fuses only where one QuantizeLinear"),
        ({"stored": INT16}, "weights are INT16, expected 8 bits"),
    ],
)
def test_a_model_that_fuses_nothing_is_warned_of_with_the_reason(options, reason):
    model = quantized(**options)
    assert integer_layers(optimized_operators(model.SerializeToString())) == 0
    told = advice(model)[0]
    assert told.startswith(f"{WARNING}it is quantized, and no layer runs in integers")
    assert reason in told
    assert "(layer)" in told
    assert "hlserve compress" in told


def test_a_float_layer_among_integers_leaves_its_quantizers_between():
    """Gemm in integers, Tanh in floats, Gemm in integers."""
    first, second = quantized(), quantized()
    nodes = list(first.graph.node)
    nodes[-1].output[0] = "y0"
    nodes.append(helper.make_node("Tanh", ["y0"], ["x1"]))
    for node in second.graph.node:
        node.name = f"{node.name}1" if node.name else ""
        for names in (node.input, node.output):
            for i, name in enumerate(names):
                if name not in ("s", "z", "zx", "y"):
                    names[i] = {"x": "x1", "w": "w1"}.get(name, f"{name}1")
        nodes.append(node)
    rng = np.random.default_rng(0)
    tensors = {t.name: numpy_helper.to_array(t) for t in first.graph.initializer}
    tensors["w1"] = rng.integers(-9, 9, (16, 16)).astype(np.int8)
    runs = optimized(graph(nodes, tensors).SerializeToString())
    left, kinds = quantizers_left(runs), [node.op_type for node in runs.graph.node]
    assert kinds.count("QGemm") == 2
    n_all = kinds.count("QuantizeLinear") + kinds.count("DequantizeLinear")
    assert left.n_between == n_all - 2  # one at each end


def test_our_own_integers_fuse_wholly(trained_mlp, mlp_data):
    made = remake(trained_mlp, Recipe((FoldScale(), QuantizeStatic())), mlp_data, seed=0)
    model = onnx.load_model_from_string(made.model)
    runs = optimized(made.model)
    left = quantizers_left(runs)
    assert (left.n_between, left.n_weights) == (0, 0)
    assert integer_layers(optimized_operators(made.model)) == 3
    assert not [told for told in advice(model) if told.startswith(WARNING)]


def test_a_float_model_is_no_quantized_one():
    model = dense(16, 3)
    assert not is_quantized(model)
    assert advice(model) == []


# ----- widths, shapes and numbers


def test_weights_of_four_bits_are_no_integer_layers(trained_mlp, mlp_rows, mlp_data):
    whole = to_onnx(trained_mlp)
    feeds = {whole.graph.input[0].name: mlp_rows.x.astype(np.float32)}
    blocks = INT4_WEIGHTS.apply(whole, feeds)
    operators = optimized_operators(blocks.SerializeToString())
    assert operators["MatMulNBits"] > 0
    assert integer_layers(operators) == 0
    assert is_quantized(blocks)


def test_odd_widths_name_their_layers_and_spare_the_last():
    (told,) = advice(dense(16, 30, 100, 24, 3))
    assert "(dense_1: 30, dense_2: 100)" in told
    assert "multiple of 8" in told


@pytest.mark.parametrize(
    ("node", "weight", "width"),
    [
        (helper.make_node("Conv", ["x", "w"], ["h"], name="odd"), (6, 4, 3, 3), 6),
        (helper.make_node("ConvTranspose", ["x", "w"], ["h"], name="odd"), (4, 5, 3, 3), 5),
        (helper.make_node("MatMul", ["x", "w"], ["h"], name="odd"), (6, 7), 7),
    ],
)
def test_the_width_of_a_layer_is_what_it_answers_with(node, weight, width):
    last = helper.make_node("GlobalAveragePool", ["h"], ["p"])
    flat = helper.make_node("Flatten", ["p"], ["f"])
    close = helper.make_node("MatMul", ["f", "v"], ["y"], name="close")
    n_channels = 4 if node.op_type == "MatMul" else width
    tensors = {
        "w": np.ones(weight, np.float32),
        "v": np.ones((n_channels, 3), np.float32),
    }
    (told,) = advice(graph([node, last, flat, close], tensors, x=("batch", 4, 6, 6)))
    assert f"(odd: {width})" in told


def test_free_dimensions_and_fixed_batches_are_told():
    relu = [helper.make_node("Relu", ["x"], ["y"])]
    (told,) = advice(graph(relu, {}, x=("batch", "time", 8), y=("batch", "time", 8)))
    assert "free dimensions besides the batch (x: time)" in told
    (told,) = advice(graph(relu, {}, x=(4, 8), y=(4, 8)))
    assert "batches of one size only (x: 4)" in told


def test_double_precision_is_told():
    (told,) = advice(dense(8, 3, dtype=np.float64))
    assert told.startswith("float64 at w0, w1, x, y:")
    cast = [
        helper.make_node("Cast", ["x"], ["d"], to=DOUBLE, name="widen"),
        helper.make_node("Exp", ["d"], ["e"]),
        helper.make_node("Cast", ["e"], ["y"], to=FLOAT),
    ]
    (told,) = advice(graph(cast, {}))
    assert told.startswith("float64 at widen:")


def test_denormal_weights_are_counted_and_zeros_are_not():
    model = dense(8, 3)
    weight = numpy_helper.to_array(model.graph.initializer[0]).copy()
    weight[0, :3] = (1e-40, -1e-42, 0.0)
    weight[1, 0] = np.finfo(np.float32).tiny
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(weight, "w0"))
    (told,) = advice(model)
    assert told.startswith(f"{WARNING}2 denormal numbers among the weights (w0)")


def test_recurrent_layers_are_told_of():
    rng = np.random.default_rng(0)
    for kind, n_gates, word in (("GRU", 3, "no integer form"), ("LSTM", 4, "dynamic int8")):
        tensors = {
            "w": rng.standard_normal((1, n_gates * 4, 8)).astype(np.float32),
            "r": rng.standard_normal((1, n_gates * 4, 4)).astype(np.float32),
        }
        node = helper.make_node(kind, ["x", "w", "r"], ["y"], hidden_size=4)
        model = graph([node], tensors, x=("time", "batch", 8), y=("time", 1, "batch", 4))
        assert any(word in told for told in advice(model))


# ----- the machine


@pytest.mark.parametrize(
    ("flags", "word", "is_warned"),
    [
        (("avx2", "avx512_vnni", "amx_int8"), "AMX", False),
        (("avx2", "avx_vnni"), "VNNI", False),
        (("asimd", "asimddp"), "ARM", False),
        (("avx2", "fma"), "no int8 instructions", True),
        ((), "no int8 instructions", True),
        (None, "not known", False),
    ],
)
def test_int8_instructions_are_told_with_what_they_mean(flags, word, is_warned):
    (told,) = instruction_advice(Processor("a", flags))
    assert word in told
    assert told.startswith(WARNING) == is_warned


@pytest.mark.parametrize(
    ("usable", "counts"),
    [(1, [1]), (2, [1, 2]), (6, [1, 2, 3, 4, 6]), (12, [1, 2, 4, 6, 8, 12]), (8, [1, 2, 4, 8])],
)
def test_all_cores_and_half_of_them_are_tried(usable, counts):
    assert thread_counts(usable) == counts


def test_a_model_is_examined_at_every_batch_with_every_number_of_threads():
    network = build("mlp:20", input_shape=(6,), n_outputs=3, task="classification")
    found = examine_model(to_onnx(network), (1, 4), 1e-6)
    assert {tuple(by_batch) for by_batch in found.latency.values()} == {(1, 4)}
    rounds = {len(t.rounds_s) for by in found.latency.values() for t in by.values()}
    assert min(rounds) >= 5  # in turns: each number of threads has a part in every round
    assert len({len(by[1].rounds_s) for by in found.latency.values()}) == 1
    assert any("20" in told and "multiple of 8" in told for told in found.advice)
    described = found.described()
    assert described["integer_layers"] == 0
    assert described["quantizers"] == {"n_between": 0, "n_weights": 0}
