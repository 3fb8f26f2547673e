"""Windows, pads, parts and reductions of ONNX files as layers, whichever way they are written.

``import_onnx`` compares the network and its export with the file in ONNX Runtime, so that what
it lets pass answers the same.
"""

import numpy as np
import onnx
import pytest
from onnx import parser

from compress.onnx_import import NotImportableError, import_onnx
from hlserve.nn.layers import (
    AvgPool1d,
    AvgPool2d,
    BatchNorm,
    Conv1d,
    Conv2d,
    ConvTranspose2d,
    Flatten,
    GlobalAvgPool,
    GroupNorm,
    LayerNorm,
    Linear,
    MaxPool1d,
    MaxPool2d,
    MeanOverTime,
    Pad,
    ReLU,
    Reshape,
    Slice,
    Standardize,
    Transpose,
)

WEIGHTS = {  # by name in the graphs below
    "k": (5, 3, 3, 3),
    "c": (5,),
    "k1": (4, 3, 3),
    "dw": (3, 1, 3, 3),
    "up": (3, 4, 3, 3),
    "up1": (3, 2, 4),
    "rows3": (3,),
    "rows8": (8,),
    "w8": (8, 4),
}


def graph(body, shape=(3, 8, 7), version=21):
    """A graph in ONNX's text form from rows x of this shape to y, with seeded weights."""
    sizes = ", ".join(map(str, shape))
    model = parser.parse_model(
        f'<ir_version: {10 if version > 9 else 4}, opset_import: ["" : {version}]> '
        f"g (float[N, {sizes}] x) => (float y) {{ {body} }}"
    )
    model.graph.output[0].type.tensor_type.ClearField("shape")
    rng = np.random.default_rng(1)
    read = {name for node in model.graph.node for name in node.input}
    for name in sorted(read & WEIGHTS.keys()):
        array = rng.uniform(0.5, 1.5, WEIGHTS[name]).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return model


def imported(model, n=5):
    """The network, looked at on seeded rows."""
    shape = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim[1:]]
    rows = np.random.default_rng(0).standard_normal((n, *shape)).astype(np.float32)
    return import_onnx(model, {"x": rows}).network


def layers(network):
    """Their types, in order."""
    return [type(node.layer) for node in network.nodes]


def ints(name, *values):
    """A Constant of whole numbers in ONNX's text form."""
    listed = ", ".join(map(str, values))
    return f"{name} = Constant <value = int64[{len(values)}] {{{listed}}}> () "


def number(name, value):
    """A Constant of one number."""
    return f"{name} = Constant <value = float {{{value}}}> () "


PADS = ints("pads", 0, 0, 1, 0, 0, 0, 2, 1)


@pytest.mark.parametrize(
    ("body", "layer", "padding"),
    [
        ("y = Conv <pads = [1, 1, 1, 1]> (x, k, c)", Conv2d, (1, 1)),
        ("y = Conv <pads = [0, 1, 2, 1], strides = [2, 2]> (x, k)", Conv2d, (0, 1, 2, 1)),
        ('y = Conv <auto_pad = "SAME_UPPER", strides = [2, 2]> (x, k, c)', Conv2d, (0, 1, 1, 1)),
        ('y = Conv <auto_pad = "SAME_LOWER", strides = [2, 2]> (x, k, c)', Conv2d, (1, 1, 0, 1)),
        ('y = Conv <auto_pad = "VALID"> (x, k, c)', Conv2d, (0, 0)),
        ("y = Conv <dilations = [2, 3], pads = [2, 3, 2, 3]> (x, k, c)", Conv2d, (2, 3)),
        ("y = Conv <group = 3, dilations = [1, 2]> (x, dw)", Conv2d, (0, 0)),
        (PADS + "p = Pad (x, pads) y = Conv (p, k, c)", Conv2d, (1, 0, 2, 1)),
        (PADS + "p = Pad (x, pads) y = Conv <pads = [0, 1, 0, 0]> (p, k)", Conv2d, (1, 1, 2, 1)),
        (
            ints("pads", 1, 0, 2, 1) + ints("axes", 2, 3)
            + number("zero", 0.0) + "p = Pad (x, pads, zero, axes) y = Conv (p, k, c)",
            Conv2d,
            (1, 0, 2, 1),
        ),
        ("y = MaxPool <kernel_shape = [3, 3], pads = [0, 0, 1, 1]> (x)", MaxPool2d, (0, 0, 1, 1)),
        (
            'y = MaxPool <kernel_shape = [3, 3], auto_pad = "SAME_UPPER", strides = [2, 2]> (x)',
            MaxPool2d,
            (0, 1, 1, 1),
        ),
        (
            "y = MaxPool <kernel_shape = [3, 3], strides = [2, 2], ceil_mode = 1> (x)",
            MaxPool2d,
            (0, 0, 1, 0),
        ),
        ("y = AveragePool <kernel_shape = [3, 2], pads = [1, 0, 1, 0]> (x)", AvgPool2d, (1, 0)),
        (
            "y = AveragePool <kernel_shape = [3, 3], strides = [2, 2], ceil_mode = 1> (x)",
            AvgPool2d,
            (0, 0, 1, 0),
        ),
        ("y = ConvTranspose <strides = [2, 2], pads = [1, 0, 0, 1]> (x, up)", ConvTranspose2d,
         (1, 0, 0, 1)),
    ],
)  # fmt: skip
def test_windows_become_one_layer_with_all_their_padding(body, layer, padding):
    network = imported(graph(body))
    assert layers(network) == [layer]
    found = network.nodes[0].layer.padding
    assert tuple(found) == padding


@pytest.mark.parametrize(
    ("body", "layer", "padding"),
    [
        ("y = Conv <pads = [0, 2], dilations = [2]> (x, k1)", Conv1d, (0, 2)),
        ('y = Conv <auto_pad = "SAME_UPPER"> (x, k1)', Conv1d, 1),
        ("y = MaxPool <kernel_shape = [2], strides = [2], ceil_mode = 1> (x)", MaxPool1d, (0, 1)),
        ("y = AveragePool <kernel_shape = [3], pads = [1, 1]> (x)", AvgPool1d, 1),
    ],
)
def test_windows_over_series_do_too(body, layer, padding):
    network = imported(graph(body, (3, 9)))
    assert layers(network) == [layer]
    assert network.nodes[0].layer.padding == padding


@pytest.mark.parametrize(
    ("body", "shape", "expected"),
    [
        ("y = ConvTranspose <strides = [2]> (x, up1)", (3, 6), [Reshape, ConvTranspose2d, Reshape]),
        (
            # positive, since ONNX Runtime 1.31 takes the Pad in and forgets that zeros may win
            PADS + "r = Relu (x) p = Pad (r, pads) y = MaxPool <kernel_shape = [3, 3]> (p)",
            (3, 8, 7),
            [ReLU, Pad, MaxPool2d],
        ),
        (
            PADS + number("v", 2.0) + "p = Pad (x, pads, v) y = Conv (p, k)",
            (3, 8, 7),
            [Pad, Conv2d],
        ),
        ("g = GlobalMaxPool (x) y = Flatten (g)", (3, 8, 7), [MaxPool2d, Flatten]),
        ("g = GlobalAveragePool (x) y = Flatten (g)", (3, 8, 7), [GlobalAvgPool]),
        (
            ints("a", -1, -2) + "y = ReduceMean <keepdims = 0> (x, a)",
            (3, 8, 7),
            [GlobalAvgPool],
        ),
        (ints("a", 2) + "y = ReduceMean (x, a)", (3, 9), [GlobalAvgPool, Reshape]),
        (ints("a", 1) + "y = ReduceMean <keepdims = 0> (x, a)", (4, 8), [MeanOverTime]),
        (
            ints("a", 1, 2) + "y = ReduceMean <keepdims = 0> (x, a)",
            (5, 4, 3),
            [Transpose, GlobalAvgPool],
        ),
        (
            ints("a", 2, 3) + "y = ReduceMax <keepdims = 0> (x, a)",
            (3, 8, 7),
            [MaxPool2d, Flatten],
        ),
        (
            ints("s", 1) + ints("e", 9) + ints("a", 1) + "y = Slice (x, s, e, a)",
            (3, 8, 7),
            [Slice],
        ),
        (
            ints("s", 0, 1) + ints("e", 4, -1) + ints("a", 2, 3) + ints("t", 2, 1)
            + "y = Slice (x, s, e, a, t)",
            (3, 8, 7),
            [Slice, Slice],
        ),
        (
            ints("n", 1, 2) + "a, b = Split <axis = 1> (x, n) y = Concat <axis = 1> (b, a)",
            (3, 8),
            None,
        ),
        ("y = Transpose <perm = [0, 2, 3, 1]> (x)", (3, 4, 5), [Transpose]),
        (
            "t = Transpose <perm = [0, 2, 3, 1]> (x) y = MatMul (t, w8)",
            (8, 4, 5),
            [Transpose, Linear],
        ),
        ("y = LayerNormalization (x, rows8, rows8)", (5, 8), [LayerNorm]),
        ("y = LayerNormalization <epsilon = 0.001> (x, rows8)", (8,), [LayerNorm]),
        ("y = InstanceNormalization (x, rows3, rows3)", (3, 5, 4), [GroupNorm]),
        ("y = BatchNormalization (x, rows3, rows3, rows3, rows3)", (3, 5, 4), [BatchNorm]),
        ("s = Sub (x, rows8) y = Div (s, rows8)", (8,), [Standardize, Standardize]),
        (
            ints("u", 1) + "s = Unsqueeze (x, u) q = Squeeze (s, u) y = Tanh (q)",
            (8,),
            None,
        ),
        (
            "s = Shape (x) " + ints("z", 0) + ints("f", -1) + number("unused", 0.0)
            + "n = Gather (s, z) t = Concat <axis = 0> (n, f) y = Reshape (x, t)",
            (3, 4, 5),
            [Flatten],
        ),
    ],
)  # fmt: skip
def test_parts_and_reductions_have_their_layers(body, shape, expected):
    found = layers(imported(graph(body, shape)))
    assert expected is None or found == expected


NORMAL = (
    ints("last", -1) + number("eps", 1e-5) + number("two", 2.0)
    + "m = ReduceMean (x, last) d = Sub (x, m) "
)  # fmt: skip


@pytest.mark.parametrize(
    "body",
    [
        "q = Pow (d, two) v = ReduceMean (q, last) e = Add (v, eps) r = Sqrt (e) y = Div (d, r)",
        "q = Mul (d, d) v = ReduceMean (q, last) e = Add (eps, v) r = Sqrt (e) n = Div (d, r) "
        "s = Mul (n, rows8) y = Add (s, rows8)",
        "q = Mul (d, d) v = ReduceMean (q, last) e = Add (v, eps) r = Sqrt (e) i = Reciprocal (r) "
        "n = Mul (d, i) s = Mul (rows8, n) y = Add (rows8, s)",
        "q = Mul (d, d) v = ReduceMean (q, last) e = Add (v, eps) r = Sqrt (e) n = Div (d, r) "
        "y = Add (n, rows8)",
    ],
)
@pytest.mark.parametrize("shape", [(8,), (5, 8)])
def test_layer_normalization_is_known_written_out(body, shape):
    assert layers(imported(graph(NORMAL + body, shape))) == [LayerNorm]


@pytest.mark.parametrize("version", [7, 9, 11, 13, 17, 21, 22])
def test_operators_of_any_age_are_read(version):
    body = (
        'h = Conv <auto_pad = "SAME_UPPER", strides = [2, 2]> (x, k, c) '
        "b = BatchNormalization (h, g, g, g, g) r = Relu (b) "
        "m = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (r) y = GlobalAveragePool (m)"
    ).replace("(x, k, c)", "(x, k)")
    model = graph(body, version=version)
    array = np.linspace(0.5, 1.5, 5, dtype=np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(array, "g"))
    found = imported(model)
    assert layers(found)[0] is Conv2d
    assert BatchNorm not in layers(found)


@pytest.mark.parametrize(
    ("body", "shape", "message"),
    [
        ('y = Pad <mode = "reflect"> (x, pads)', (3, 8, 7), r"\(Pad\): it pads otherwise"),
        ("y = LayerNormalization <axis = 1> (x, whole)", (3, 2), "there is a layer for the last"),
        (ints("a", 0) + "y = ReduceMean (x, a)", (3, 8), "not one entry a row"),
        (ints("a", 3) + "y = ReduceMean (x, a)", (3, 8, 7), r"reduces axes \[2\] of rows"),
        ("y = Transpose <perm = [1, 0, 2]> (x)", (5, 4), r"rows do not come first"),
        (
            "y = MaxPool <kernel_shape = [2, 2], dilations = [2, 2]> (x)",
            (3, 8, 7),
            "windows that have holes",
        ),
        (
            ints("s", 2) + ints("e", -9) + ints("a", 1) + ints("t", -1)
            + "y = Slice (x, s, e, a, t)",
            (3, 8),
            "turns an axis round",
        ),
        ("s = Div (rows8, x) y = Tanh (s)", (8,), "constant divided by an activation"),
    ],
)  # fmt: skip
def test_what_has_no_layer_is_refused_with_its_reason(body, shape, message):
    model = graph((PADS if "pads" in body else "") + body, shape)
    if "whole" in body:
        whole = np.ones((3, 2), np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(whole, "whole"))
    with pytest.raises(NotImportableError, match=message):
        imported(model)
