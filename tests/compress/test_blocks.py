"""Weights in blocks: packed as ONNX Runtime unpacks them, and as near as their scale allows."""

from collections import Counter

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import numpy_helper

from compress.arithmetic import Arithmetic, arithmetic
from compress.candidates import Plan
from compress.export import check, to_onnx
from compress.integrity import tensors
from compress.model_file import attribute, is_quantized, nodes
from compress.quantization.blocks import (
    INT4_WEIGHTS,
    INT8_WEIGHTS,
    BlockWeights,
    block_integers,
)
from compress.recipe import Recipe
from compress.remake import remake
from compress.session import Session
from hlserve.datasets import Rows
from hlserve.errors import CompressionError, ConfigError
from tests.compress.ladders import candidates
from tests.compress.test_post_training import branching_model, residual_model


def by_hand(weight, bits, block):
    """What a block's integers stand for, weight by weight."""
    middle, back = 2 ** (bits - 1), np.zeros_like(weight)
    for column in range(weight.shape[1]):
        for start in range(0, len(weight), block):
            part = weight[start : start + block, column]
            farthest = max(part, key=abs)
            scale = np.float32(farthest / -middle)
            for row, value in enumerate(part):
                if scale:
                    integer = min(max(round(float(value) / float(scale)), -middle), middle - 1)
                    back[start + row, column] = integer * scale
    return back


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("block", [16, 32, 64])
def test_the_runtime_multiplies_with_what_the_integers_stand_for(bits, block, trained_mlp, rng):
    model = to_onnx(trained_mlp)
    x = {"input": rng.uniform(0, 255, (30, 40)).astype(np.float32)}
    packed = BlockWeights("blocks", bits=bits, block=block).apply(model, {})
    check(packed)
    kinds = Counter(node.op_type for node in packed.graph.node)
    assert (kinds["MatMulNBits"], kinds["Gemm"]) == (2, 1)  # 32 x 4 weights are too few to gain
    wanted = onnx.ModelProto.FromString(model.SerializeToString())
    for node in wanted.graph.node[:-2]:
        if node.op_type == "Gemm":
            assert attribute(node, "transB", 0)
            (tensor,) = (t for t in wanted.graph.initializer if t.name == node.input[1])
            values = by_hand(numpy_helper.to_array(tensor).T, bits, block).T
            tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values), tensor.name))
    ours, theirs = (
        Session(m.SerializeToString()).run(x)["probabilities"] for m in (packed, wanted)
    )
    # The same float32 products of up to 64 terms in another order, behind a Softmax.
    np.testing.assert_allclose(ours, theirs, atol=2e-5)


@given(
    st.lists(
        st.lists(st.floats(-1e3, 1e3, width=32), min_size=2, max_size=2), min_size=1, max_size=40
    ),
    st.sampled_from([4, 8]),
)
def test_no_weight_is_off_by_more_than_its_step(values, bits):
    weight = np.array(values, np.float32)
    integers, scales = block_integers(weight, bits, 16)
    back = (integers.astype(np.float64) - 2 ** (bits - 1)) * scales[:, :, None]
    back = back.reshape(2, -1)[:, : len(weight)].T
    steps = np.repeat(np.abs(scales), 16, axis=1)[:, : len(weight)].T
    # Half a step by rounding; a whole one at the end that the largest weight has not taken.
    assert np.all(np.abs(back - weight) <= steps * 1.0001 + 1e-30)
    largest = np.abs(weight).argmax(axis=0)
    if len(weight) <= 16:  # one block
        exact = weight[largest, [0, 1]]
        np.testing.assert_allclose(back[largest, [0, 1]], exact, rtol=1e-6, atol=1e-30)


def test_four_bits_take_a_sixth_of_the_bytes(rng):
    w = rng.normal(size=(256, 256)).astype(np.float32)
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("MatMul", ["x", "w"], ["y"])],
        "graph",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["batch", 256])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["batch", 256])],
        [numpy_helper.from_array(w, "w")],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 21)])
    model.ir_version = 10
    before = len(model.SerializeToString())
    four, eight = (way.apply(model, {}).SerializeToString() for way in (INT4_WEIGHTS, INT8_WEIGHTS))
    assert before / len(four) > 6.2  # 32 bits against 4 and a 32nd of a float32 scale
    assert before / len(eight) > 3.4
    x = {"x": rng.normal(size=(5, 256)).astype(np.float32)}
    assert arithmetic(four, x) == Arithmetic(256 * 256, 0)
    assert is_quantized(onnx.load_model_from_string(four))


def test_bodies_are_reached(rng):
    model = branching_model(rng)
    then_branch = next(a.g for a in model.graph.node[2].attribute if a.name == "then_branch")
    wide = {"outer": (12, 96), "inner": (96, 12), "b": (96,)}
    for tensor in (*model.graph.initializer, *then_branch.initializer):
        if tensor.name in wide:
            values = rng.normal(size=wide[tensor.name]).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 96
    packed = INT4_WEIGHTS.apply(model, {})
    assert Counter(node.op_type for node in nodes(packed.graph))["MatMulNBits"] == 2
    floats = [t for t in tensors(packed) if t.data_type == onnx.TensorProto.FLOAT]
    assert max(np.prod(t.dims) for t in floats) == 96  # scales and a bias, no weights
    values = {t.name: numpy_helper.to_array(t) for t in tensors(model)}
    x = np.abs(rng.normal(size=(9, 12))).astype(np.float32)
    for sign, w, b in (
        (1, values["inner"].T, values["b"]),  # the sum decides which of the bodies runs
        (-1, values["outer"], 0.0),
    ):
        ours = Session(packed.SerializeToString()).run({"x": sign * x})["y"]
        # The same float32 products of 12 terms in another order.
        np.testing.assert_allclose(ours, sign * x @ by_hand(w, 4, 32) + b, rtol=1e-4, atol=1e-4)


def test_what_cannot_be_packed_says_why(trained_mlp, rng):
    packed = INT4_WEIGHTS.apply(to_onnx(trained_mlp), {})
    with pytest.raises(CompressionError, match="quantized already"):
        INT4_WEIGHTS.apply(packed, {})
    with pytest.raises(CompressionError, match="large enough to gain"):
        INT4_WEIGHTS.apply(residual_model(rng), {})
    with pytest.raises(ConfigError, match="block is 24"):
        BlockWeights("blocks", block=24)


def test_the_same_bytes_are_made_again(trained_mlp, mlp_data):
    recipe = Recipe((), (INT4_WEIGHTS,))
    assert (
        remake(trained_mlp, recipe, mlp_data).model == remake(trained_mlp, recipe, mlp_data).model
    )


def test_they_are_offered_for_bytes_alone(trained_mlp, mlp_rows, tmp_path):
    def names(model, folder, **wishes):
        rows = Rows(mlp_rows.inputs) if isinstance(model, onnx.ModelProto) else mlp_rows
        found, _ = candidates(model, rows, tmp_path / folder, **wishes)
        return [candidate.name for candidate in found if "int4" in candidate.name]

    assert names(to_onnx(trained_mlp), "a", minimize="bytes", most=12)
    assert not names(to_onnx(trained_mlp), "b", most=12)
    assert names(trained_mlp, "c", minimize="bytes", most=5) == ["int4 weights"]
    assert not names(trained_mlp, "d", minimize="bytes", most=5, plan=Plan(quantize="none"))


@pytest.mark.parametrize(
    ("attributes", "is_taken"),
    [({}, True), ({"transB": 1}, True), ({"alpha": 0.5}, False), ({"transA": 1}, False)],
)
def test_a_gemm_with_factors_is_left_alone(attributes, is_taken, rng):
    w = rng.normal(size=(48, 64) if attributes.get("transB") else (64, 48)).astype(np.float32)
    values = {"w": w, "b": rng.normal(size=48).astype(np.float32)}
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Gemm", ["x", "w", "b"], ["y"], **attributes)],
        "graph",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [64, 64])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [64, 48])],
        [numpy_helper.from_array(array, name) for name, array in values.items()],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 21)])
    model.ir_version = 10
    if not is_taken:
        with pytest.raises(CompressionError, match="large enough to gain"):
            INT8_WEIGHTS.apply(model, {})
        return
    packed = INT8_WEIGHTS.apply(model, {})
    x = rng.normal(size=(64, 64)).astype(np.float32)
    wanted = x @ by_hand(w.T if attributes else w, 8, 32) + values["b"]
    ours = Session(packed.SerializeToString()).run({"x": x})["y"]
    np.testing.assert_allclose(ours, wanted, rtol=1e-4, atol=1e-3)  # float32 sums of 64 terms
