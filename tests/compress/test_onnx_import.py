"""ONNX files as networks that can be trained: the same answers, or the nodes in the way."""

import numpy as np
import onnx
import pytest
from onnx import parser

from compress.export import to_onnx
from compress.job import compress
from compress.onnx_import import NotImportableError, import_onnx
from compress.pruning import PruneChannels
from compress.technique import Data
from hlserve.datasets import Rows
from hlserve.nn.architectures import build
from hlserve.nn.layers import (
    GELU,
    Affine,
    Clip,
    HardSigmoid,
    HardSwish,
    Linear,
    LogSoftmax,
    PReLU,
    ReLU,
    SiLU,
    Softplus,
)

MAX = float(np.finfo(np.float32).max)

SPECS = [
    ("mlp:16,8", (12,)),
    ("mlp:16,8,tanh", (12,)),
    ("cnn:8,8/16", (1, 12, 12)),
    ("lenet5", (1, 28, 28)),
    ("resnet:8", (1, 16, 16)),
]


def rows_for(model, n=6, seed=0):
    """Seeded rows for every input of a model."""
    rng = np.random.default_rng(seed)
    feeds = {}
    for value in model.graph.input:
        shape = [d.dim_value for d in value.type.tensor_type.shape.dim[1:]]
        feeds[value.name] = rng.standard_normal((n, *shape)).astype(np.float32)
    return feeds


def parsed(body, *, x="float[N, 6] x", y="float[N, 4] y"):
    """A graph in ONNX's text form, with seeded weights w (6, 4), wt (4, 6) and b (4)."""
    model = parser.parse_model(
        f'<ir_version: 10, opset_import: ["" : 21]> g ({x}) => ({y}) {{ {body} }}'
    )
    rng = np.random.default_rng(1)
    for name, shape in (("w", (6, 4)), ("wt", (4, 6)), ("b", (4,))):
        array = rng.standard_normal(shape).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return model


@pytest.mark.parametrize(("spec", "shape"), SPECS)
def test_a_network_of_ours_comes_back_from_its_file(spec, shape):
    network = build(spec, input_shape=shape, n_outputs=3, task="classification", scale=0.5)
    model = to_onnx(network)
    rows = rows_for(model)
    found = import_onnx(model, rows)
    assert found.difference < 1e-4  # float32 sums in another order
    assert found.network.task == "classification"
    wanted = network.predict(rows)
    for name, answers in found.network.predict(rows).items():
        np.testing.assert_allclose(answers, wanted[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "body",
    [
        "y = Gemm(x, w, b)",
        "y = Gemm <transB = 1, alpha = 0.5, beta = 2.0> (x, wt, b)",
        "y = MatMul(x, w)",
        "h = MatMul(x, w) y = Add(h, b)",
        "h = MatMul(x, w) y = Add(b, h)",
        "h = Gemm(x, w, b) y = Relu(h)",
        "h = Gemm(x, w, b) y = Softmax(h)",
        "h = Gemm(x, w, b) i = Identity(h) y = Tanh(i)",
        "h = Gemm(x, w, b) y = Sub(h, b)",
        "h = Gemm(x, w, b) y = Add(b, h)",
        "h = Gemm(x, w, b) i = Sigmoid(h) y = Mul(h, i)",
        "h = Gemm(x, w, b) c = Constant <value = float {3.0}> () y = Sub(c, h)",
        "c = Constant <value = float {255.0}> () s = Div(x, c) y = Gemm(s, w, b)",
    ],
)
def test_dense_layers_are_known_however_they_are_spelled(body):
    model = parsed(body)
    found = import_onnx(model, rows_for(model))
    assert [type(n.layer) for n in found.network.nodes].count(Linear) == 1
    assert [value.name for value in to_onnx(found.network).graph.output] == ["y"]


def number(name, value):
    """A Constant of one number in ONNX's text form."""
    return f"{name} = Constant <value = float {{{float(value)}}}> () "


HALF, ROOT = number("half", 0.5), number("root", 2**0.5)
ONE, THREE, SIX = number("one", 1), number("three", 3), number("six", 6)
CUBE, SLANT = number("cube", 0.044715), number("slant", (2 / np.pi) ** 0.5)


@pytest.mark.parametrize(
    ("body", "layer"),
    [
        ("y = LogSoftmax(h)", LogSoftmax()),
        (number("o", 0) + SIX + "y = Clip(h, o, six)", Clip(0, 6)),
        (SIX + "r = Relu(h) y = Min(r, six)", Clip(-MAX, 6)),
        (number("o", -1) + "y = Clip(h, o)", Clip(-1, MAX)),
        (number("o", 0) + "y = Max(o, h)", ReLU()),
        ("y = HardSigmoid(h)", HardSigmoid(0.2)),
        ("y = HardSwish(h)", HardSwish()),
        ("y = PRelu(h, b)", PReLU(4)),
        ("i = Sigmoid(h) y = Mul(i, h)", SiLU()),
        (
            number("a", 1 / 6) + "i = HardSigmoid <alpha = 0.16666667> (h) y = Mul(h, i)",
            HardSwish(),
        ),
        (
            number("o", 0)
            + THREE
            + SIX
            + "a = Add(h, three) c = Clip(a, o, six) m = Mul(h, c) y = Div(m, six)",
            HardSwish(),
        ),
        (
            number("o", 0)
            + THREE
            + SIX
            + "a = Add(three, h) c = Clip(a, o, six) d = Div(c, six) y = Mul(h, d)",
            HardSwish(),
        ),
        (
            number("o", 0) + THREE + SIX + "a = Add(h, three) c = Clip(a, o, six) y = Div(c, six)",
            HardSigmoid(),
        ),
        (
            HALF
            + ROOT
            + ONE
            + "d = Div(h, root) e = Erf(d) a = Add(e, one) m = Mul(h, a) y = Mul(m, half)",
            GELU(),
        ),
        (
            HALF
            + ROOT
            + ONE
            + "m = Mul(h, half) d = Div(h, root) e = Erf(d) a = Add(one, e) y = Mul(m, a)",
            GELU(),
        ),
        (
            HALF
            + THREE
            + CUBE
            + SLANT
            + ONE
            + "p = Pow(h, three) c = Mul(cube, p) s = Add(h, c) k = Mul(s, slant) t = Tanh(k) "
            "a = Add(t, one) m = Mul(half, h) y = Mul(m, a)",
            GELU("tanh"),
        ),
        (ONE + "e = Exp(h) a = Add(e, one) y = Log(a)", Softplus()),
    ],
)
def test_functions_are_known_however_they_are_spelled(body, layer):
    model = parsed("h = Gemm(x, w, b) " + body)
    network = import_onnx(model, rows_for(model)).network
    assert type(network.nodes[-1].layer) is type(layer)
    if not layer.params():
        assert network.nodes[-1].layer.config() == pytest.approx(layer.config())


def test_limits_written_as_attributes_are_read():
    model = parsed("h = Gemm(x, w, b) y = Clip <min = 0.0, max = 6.0> (h)")
    model.opset_import[0].version = 9
    model.ir_version = 4
    found = import_onnx(model, rows_for(model))
    assert found.network.nodes[-1].layer.config() == {"low": 0, "high": 6}


@pytest.mark.parametrize(
    "body",
    [
        "m = Mul(h, b) y = Add(m, b)",
        "m = Mul(b, h) n = Sub(b, m) y = Div(n, b)",
        "r = Relu(h) y = Sub(r, b)",
    ],
)
def test_constants_beside_channels_become_one_layer(body):
    model = parsed("h = Gemm(x, w, b) " + body)
    network = import_onnx(model, rows_for(model)).network
    assert [type(n.layer) for n in network.nodes].count(Affine) == 1


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("h = Gemm(x, w, b) y = Det(h)", r"\(Det\)"),
        ('h = Gemm(x, w, b) y = Einsum <equation = "ij->ij"> (h)', r"\(Einsum\)"),
        ("h = Gemm(x, w, b) i = Sin(h) y = Cosh(i)", r"\(Cosh\).*\(Sin\)"),
    ],
)
def test_what_no_layer_stands_for_is_named_node_by_node(body, message):
    model = parsed(body, y="float[N, 4] y")
    rows = {"x": np.zeros((3, 6), np.float32)}
    if "Det" in body:
        model.graph.output[0].type.tensor_type.shape.ClearField("dim")
        rows = {"x": np.zeros((4, 6), np.float32)}
    with pytest.raises(NotImportableError, match=message):
        import_onnx(model, rows)


def test_an_imported_network_is_pruned_and_trained_again_on_labels(trained_mlp, mlp_rows):
    model = to_onnx(trained_mlp)
    x = mlp_rows.x.astype(np.float32)
    imported = import_onnx(model, {"input": x[:8]}).network
    pruned = PruneChannels(0.5).apply(imported, Data(Rows({"input": x}, mlp_rows.y))).network
    assert pruned.n_parameters < imported.n_parameters
    wishes = {"max_drop": 0.2, "minimize": "bytes", "batches": (1,), "prune": 0.5}
    found = compress(model, train=mlp_rows, **wishes)
    assert found.best.candidate.name.startswith("pruned 50 %")
    theirs = onnx.load_model_from_string(found.best.candidate.model).graph
    assert [v.name for v in theirs.input] == [v.name for v in model.graph.input]
    assert [v.name for v in theirs.output] == [v.name for v in model.graph.output]


@pytest.mark.parametrize(
    ("labels", "task"),
    [
        (np.array([0, 3, 1]), "classification"),
        (np.array([0, 4, 1]), None),
        (np.zeros((3, 4), np.float32), "regression"),
        (None, None),
    ],
)
def test_labels_tell_what_numbers_without_a_softmax_mean(labels, task):
    model = parsed("y = Gemm(x, w, b)")
    assert import_onnx(model, rows_for(model), labels=labels).network.task == task
