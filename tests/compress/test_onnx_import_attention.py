"""Attention, embeddings and masks from ONNX files: every spelling, or why there is no layer."""

import numpy as np
import pytest
from onnx import numpy_helper, parser

from compress.export import to_onnx
from compress.onnx_import import NotImportableError, import_onnx
from hlserve.nn.layers import (
    Add,
    Embedding,
    LearnedPositions,
    Linear,
    MaxOverTime,
    MeanOverTime,
    MultiHeadAttention,
    PaddingMask,
    PositionalEncoding,
)
from hlserve.nn.network import Input, Network, Node

ROWS, TIME, DIM, HEADS, IDS = 7, 6, 8, 2, 11

# Queries, keys and values of one product, axes turned four times, as many exporters write them.
PACKED = """
    a = MatMul(x, w) p = Add(a, b)
    p5 = Reshape(p, apart) t5 = Transpose <perm = [2, 0, 3, 1, 4]> (p5)
    q = Gather(t5, i0) k = Gather(t5, i1) v = Gather(t5, i2)
"""
MIXED = "kt = Transpose <perm = [0, 1, 3, 2]> (k) s = MatMul(q, kt) c = Mul(s, half)"
JOINED = """
    z = MatMul(u, v) zt = Transpose <perm = [0, 2, 1, 3]> (z) zj = Reshape(zt, joined)
    o = MatMul(zj, wo) y = Add(o, bo)
"""


def parsed(body, *, x=f"float[N, {TIME}, {DIM}] x"):
    """A graph with seeded weights and the constants that these spellings need."""
    model = parser.parse_model(
        f'<ir_version: 10, opset_import: ["" : 21]> g ({x}) => (float[N, T, {DIM}] y) {{{body}}}'
    )
    rng = np.random.default_rng(1)
    shapes = {"w": (DIM, 3 * DIM), "b": (3 * DIM,), "wo": (DIM, DIM), "bo": (DIM,)}
    shapes |= {"wq": (DIM, DIM), "wk": (DIM, DIM), "wv": (DIM, DIM), "table": (IDS, DIM)}
    constants = {name: rng.standard_normal(shape) for name, shape in shapes.items()}
    constants |= {"half": np.array(0.5), "far": np.array(-1e9), "none": np.array(0.0)}
    constants |= {"causal": np.triu(np.full((TIME, TIME), -np.inf), 1)}
    constants = {name: array.astype(np.float32) for name, array in constants.items()}
    constants |= {f"i{i}": np.array(i) for i in range(3)}
    sizes = {"apart": (0, TIME, 3, HEADS, -1), "joined": (0, 0, DIM), "heads": (0, 0, HEADS, -1)}
    sizes |= {
        "axes": (1, 2),
        "split": (DIM, DIM, DIM),
        "rows": (-1, DIM),
        "turned": (TIME, -1, DIM),
    }
    constants |= {name: np.array(size) for name, size in sizes.items()}
    read = {name for node in model.graph.node for name in node.input}
    for name, array in constants.items():
        if name in read:
            model.graph.initializer.append(numpy_helper.from_array(array, name))
    return model


def rows():
    """Sequences (rows, time, features)."""
    rng = np.random.default_rng(0)
    return {"x": rng.standard_normal((ROWS, TIME, DIM)).astype(np.float32)}


def id_rows():
    """Ids (rows, time) with zeros at the end of some rows, and one within."""
    ids = np.random.default_rng(0).integers(1, IDS, (ROWS, TIME))
    ids[1:, 4:] = 0
    ids[2, 1] = 0
    return {"x": ids}


def kinds(network):
    """The layers of a network."""
    return [type(node.layer).__name__ for node in network.nodes]


@pytest.mark.parametrize("positions", [LearnedPositions, PositionalEncoding])
@pytest.mark.parametrize("mask", [None, PaddingMask(0, is_prefix=False)])
def test_attention_of_ours_comes_back_from_its_file(positions, mask):
    read = () if mask is None else ("mask",)
    nodes = [
        Node("words", Embedding(IDS, DIM), ("x",)),
        Node("positions", positions(TIME, DIM), ("words",)),
        Node("first", MultiHeadAttention(DIM, HEADS), ("positions", *read)),
        Node("sum", Add(), ("positions", "first")),
        Node("second", MultiHeadAttention(DIM, 4, has_bias=False), ("sum", *read)),
        Node("mean", MeanOverTime(), ("second", *read)),
        Node("largest", MaxOverTime(), ("second",)),
        Node("both", Add(), ("mean", "largest")),
        Node("head", Linear(DIM, 3), ("both",)),
    ]
    if mask is not None:
        nodes.insert(0, Node("mask", mask, ("x",)))
    network = Network([Input("x", (TIME,), "int64")], nodes, {"y": "head"})
    network.initialize(np.random.default_rng(0))
    found = import_onnx(to_onnx(network), id_rows())
    assert sorted(kinds(found.network)) == sorted(kinds(network))
    wanted = network.predict(id_rows())["y"]
    np.testing.assert_allclose(found.network.predict(id_rows())["y"], wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "body",
    [
        f"{PACKED} {MIXED} u = Softmax(c) {JOINED}",
        f"{PACKED} {MIXED} u1 = Softmax(c) n = IsNaN(u1) u = Where(n, none, u1) {JOINED}",
        # three products, scaled ahead
        "q1 = MatMul(x, wq) k1 = MatMul(x, wk) v1 = MatMul(x, wv)"
        "q2 = Reshape(q1, heads) k2 = Reshape(k1, heads) v2 = Reshape(v1, heads)"
        "q3 = Transpose <perm = [0, 2, 1, 3]> (q2) v = Transpose <perm = [0, 2, 1, 3]> (v2)"
        "kt = Transpose <perm = [0, 2, 3, 1]> (k2) q = Mul(q3, half)"
        f"s = MatMul(q, kt) u = Softmax(s) {JOINED}",
        # time ahead of rows, heads ahead of rows
        "xt = Transpose <perm = [1, 0, 2]> (x) a = MatMul(xt, w) p = Add(a, b)"
        "q1, k1, v1 = Split <axis = 2> (p, split)"
        "q2 = Reshape(q1, heads) k2 = Reshape(k1, heads) v2 = Reshape(v1, heads)"
        "q = Transpose <perm = [2, 1, 0, 3]> (q2) v = Transpose <perm = [2, 1, 0, 3]> (v2)"
        "kt = Transpose <perm = [2, 1, 3, 0]> (k2) s = MatMul(q, kt) c = Div(s, half)"
        "u = Softmax(c) z = MatMul(u, v) zt = Transpose <perm = [2, 1, 0, 3]> (z)"
        "zr = Reshape(zt, rows) o = MatMul(zr, wo) ob = Add(o, bo) y1 = Reshape(ob, turned)"
        "y = Transpose <perm = [1, 0, 2]> (y1)",
    ],
)
def test_attention_is_known_however_it_is_spelled(body):
    found = import_onnx(parsed(body), rows())
    assert kinds(found.network) == ["MultiHeadAttention"]


@pytest.mark.parametrize(
    "masked",
    [
        "e = Equal(x, i0) e4 = Unsqueeze(e, axes) m = Where(e4, far, none) c2 = Add(c, m)",
        "e = Equal(x, i0) e4 = Unsqueeze(e, axes) c2 = Where(e4, far, c)",
        "e = Equal(x, i0) n = Not(e) e4 = Unsqueeze(n, axes) c2 = Where(e4, c, far)",
    ],
)
def test_a_mask_is_known_by_the_id_that_it_leaves_out(masked):
    body = f"h = Gather(table, x) {PACKED.replace('(x,', '(h,')} {MIXED} {masked}"
    model = parsed(f"{body} u = Softmax(c2) {JOINED}", x=f"int64[N, {TIME}] x")
    found = import_onnx(model, id_rows())
    assert kinds(found.network) == ["PaddingMask", "Embedding", "MultiHeadAttention"]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (f"{PACKED} {MIXED} c2 = Add(c, causal) u = Softmax(c2) {JOINED}", "fixed mask"),
        (f"{PACKED} {MIXED} c2 = Sin(c) u = Softmax(c2) {JOINED}", "products with a scale"),
        (
            f"{PACKED} g = Tanh(x) g1 = MatMul(g, wk) k2 = Reshape(g1, heads)"
            "kt = Transpose <perm = [0, 2, 3, 1]> (k2) s = MatMul(q, kt) c = Mul(s, half)"
            f"u = Softmax(c) {JOINED}",
            "not projected from the same steps",
        ),
        (f"{PACKED} {MIXED} u = Softmax <axis = 2> (c) {JOINED}", "another axis"),
    ],
)
def test_attention_that_the_layer_is_not_is_refused_with_the_reason(body, reason):
    with pytest.raises(NotImportableError, match=reason):
        import_onnx(parsed(body), rows())
