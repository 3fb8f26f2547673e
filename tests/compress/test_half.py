"""fp16: half the bytes, nearly the answers, and float32 for whatever does not fit into it."""

import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from compress.candidates import Plan, plan_for
from compress.evaluate import bind_rows
from compress.export import check, to_onnx
from compress.folding import FoldScale
from compress.quantization import QuantizeStatic
from compress.quantization.half import ToHalf
from compress.quantization.post_training import DYNAMIC_LSTM, PostTraining
from compress.recipe import Recipe
from compress.remake import remake
from compress.session import Session
from compress.simplify import Simplify
from hlserve.datasets import Rows
from hlserve.errors import CompressionError, ConfigError
from hlserve.nn.architectures import build
from hlserve.nn.layers import Linear, Standardize
from hlserve.nn.network import Input, sequential
from tests.compress.ladders import candidates
from tests.compress.test_post_training import branching_model, residual_model


def feeds_for(model, x):
    return {model.graph.input[0].name: x.astype(np.float32)}


def answers(model, feeds):
    return next(iter(Session(model.SerializeToString()).run(feeds).values()))


def halves(model):
    """The names of all fp16 weights."""
    return {t.name for t in model.graph.initializer if t.data_type == TensorProto.FLOAT16}


def require_near(ours, theirs):
    # A rounding to fp16 is 2^-11 of a value; some tens of them add up over a few layers.
    assert np.abs(ours - theirs).max() <= 0.02 * max(1e-3, np.ptp(theirs))


@pytest.fixture
def dense(trained_mlp, mlp_rows):
    model = to_onnx(trained_mlp)
    return model, bind_rows(Session(model.SerializeToString()), mlp_rows)


SPECS = {
    "mlp:256,128": (40,),
    "lenet5": (1, 12, 12),
    "resnet:8": (1, 12, 12),
    "lstm:32": (7, 12),
    "gru:32": (7, 12),
}


@pytest.mark.parametrize("spec", SPECS)
def test_networks_answer_nearly_the_same_in_half_the_bytes(spec, rng):
    network = build(spec, input_shape=SPECS[spec], n_outputs=3, task="classification")
    model = to_onnx(network)
    feeds = feeds_for(model, rng.normal(size=(40, *SPECS[spec])))
    half = ToHalf().apply(model, feeds)
    check(half)
    require_near(answers(half, feeds), answers(model, feeds))
    numbers = sum(np.prod(t.dims) for t in model.graph.initializer)
    saved = len(model.SerializeToString()) - len(half.SerializeToString())
    # Two bytes of four for each number; a few Casts and longer names take some kB of it back.
    assert 2 * numbers - 6000 < saved < 2 * numbers
    for one, other in (
        (half.graph.input, model.graph.input),
        (half.graph.output, model.graph.output),
    ):
        assert list(one) == list(other)


def test_files_from_elsewhere_are_halved_too(rng):
    model = residual_model(rng)
    feeds = {"x": rng.normal(size=(20, 3, 8, 8)).astype(np.float32)}
    half = ToHalf().apply(model, feeds)
    check(half)
    require_near(answers(half, feeds), answers(model, feeds))
    assert len(halves(half)) == 3


def test_a_body_keeps_its_floats_and_gets_them(rng):
    model = branching_model(rng)
    model.graph.node[2].output[0] = "branch"
    model.graph.node.append(helper.make_node("Gemm", ["branch", "last"], ["y"]))
    last = rng.normal(size=(6, 6)).astype(np.float32)
    model.graph.initializer.append(numpy_helper.from_array(last, "last"))
    feeds = {"x": rng.normal(size=(9, 12)).astype(np.float32)}
    half = ToHalf().apply(model, feeds)
    check(half)
    assert len(halves(half)) == 1
    require_near(answers(half, feeds), answers(model, feeds))


def two_layers(first, second):
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "first"], ["a"]),
            helper.make_node("Relu", ["a"], ["r"]),
            helper.make_node("MatMul", ["r", "second"], ["y"]),
        ],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4])],
        [
            numpy_helper.from_array(w.astype(np.float32), name)
            for name, w in (("first", first), ("second", second))
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


@pytest.mark.parametrize(
    ("factors", "kept"),
    [
        ((1, 1), {"first", "second"}),
        ((1e6, 1e-3), set()),  # weights beyond fp16, and so are what they make
        ((1e-9, 1), set()),  # weights, and then values, below its digits
        ((1, 1e5), {"first"}),
    ],
    ids=["all fits", "large weights", "small weights", "large values"],
)
def test_what_does_not_fit_stays_in_floats(factors, kept, rng):
    first, second = rng.normal(size=(8, 16)), rng.normal(size=(16, 4))
    model = two_layers(first * factors[0], second * factors[1])
    feeds = {"x": rng.normal(size=(30, 8)).astype(np.float32)}
    if not kept:
        with pytest.raises(CompressionError, match="fit into half the bits"):
            ToHalf().apply(model, feeds)
        return
    half = ToHalf().apply(model, feeds)
    assert {name.removesuffix("_half") for name in halves(half)} == kept
    require_near(answers(half, feeds), answers(model, feeds))


def test_columns_beyond_fp16_are_standardized_in_floats(rng):
    x = (rng.normal(size=(200, 3)) * [1e4, 1.0, 1e-4] + [1e6, 0, 0]).astype(np.float32)
    layers = [Standardize(x.mean(0).tolist(), x.std(0).tolist()), Linear(3, 2)]
    model = to_onnx(sequential(layers, Input("input", (3,))).initialize(rng))
    half = ToHalf().apply(model, {"input": x})
    assert halves(half)
    require_near(answers(half, {"input": x}), answers(model, {"input": x}))


def test_what_cannot_be_halved_says_why(dense, mlp_data):
    model, feeds = dense
    with pytest.raises(CompressionError, match="needs rows"):
        ToHalf().apply(model, {name: x[:0] for name, x in feeds.items()})
    integers = PostTraining("static", ("Gemm",)).apply(model, feeds)
    with pytest.raises(CompressionError, match="quantized already"):
        ToHalf().apply(integers, feeds)


def test_a_recipe_makes_the_same_bytes_again(trained_mlp, mlp_data, dense):
    recipe = Recipe((FoldScale(),), (Simplify(), ToHalf()))
    assert Recipe.from_toml(recipe.to_toml()) == recipe
    first, second = (remake(trained_mlp, recipe, mlp_data).model for _ in range(2))
    assert first == second
    model, feeds = dense
    of_file = Recipe((), (Simplify(), ToHalf()))
    made = [remake(model, of_file, feeds=feeds).model for _ in range(2)]
    assert made[0] == made[1]
    assert halves(onnx.load_model_from_string(made[0]))


@pytest.mark.parametrize("is_file", [False, True], ids=["network", "file"])
def test_where_half_is_planned_there_is_a_candidate_and_no_integer(
    is_file, trained_mlp, dense, mlp_rows, tmp_path
):
    model, rows = (dense[0], Rows(mlp_rows.inputs)) if is_file else (trained_mlp, mlp_rows)
    plan, note = plan_for("cuda", Plan())
    assert "no integers are tried for cuda" in note
    found, _ = candidates(model, rows, tmp_path, plan=plan, most=4)
    graphs = {c.name: onnx.load_model_from_string(c.model) for c in found}
    fp16 = [name for name, graph in graphs.items() if halves(graph)]
    assert fp16
    assert all("fp16" in name for name in fp16)
    for graph in graphs.values():
        assert not any("Quantize" in node.op_type for node in graph.graph.node)


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_no_integers_are_asked_of_a_graphics_processor(provider):
    for recipe in (Recipe((QuantizeStatic(),)), Recipe((), (Simplify(), DYNAMIC_LSTM))):
        with pytest.raises(
            ConfigError, match=rf"the recipe's .* is for --provider cpu; on {provider}"
        ):
            plan_for(provider, Plan(recipe=recipe))
        assert plan_for("cpu", Plan(recipe=recipe)) == (Plan(recipe=recipe), "")
    with pytest.raises(ConfigError, match="--quantize int8 is for"):
        plan_for(provider, Plan(quantize="int8"))
    assert plan_for(provider, Plan(quantize="none"))[0] == Plan(quantize="none")
    own = Plan(recipe=Recipe((), (ToHalf(),)))
    assert plan_for(provider, own) == (own, "")


def test_neither_torch_nor_sympy_is_loaded():
    code = "import sys, compress.quantization.half; print(*sorted(sys.modules))"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "sympy", "transformers", "scipy"} & set(told.stdout.split())
