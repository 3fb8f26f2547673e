"""Recurrent layers from ONNX files: every way to read their states, or why there is none."""

import numpy as np
import pytest
from onnx import numpy_helper, parser

from compress.export import to_onnx
from compress.onnx_import import NotImportableError, import_onnx
from hlserve.nn.layers import GRU, LSTM, RNN, Linear, MeanOverTime
from hlserve.nn.network import Input, Network, Node

ROWS, TIME, FEATURES, HIDDEN = 7, 6, 4, 5
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


def rows(seed=0):
    """Sequences (rows, time, features)."""
    rng = np.random.default_rng(seed)
    return {"x": rng.standard_normal((ROWS, TIME, FEATURES)).astype(np.float32)}


def parsed(body, *, kind="LSTM", directions=1, y="float[N, M] y"):
    """A graph over x (N, time, features) with seeded weights w, r and b of an operator.

    ``t`` is x with time ahead, ``h0`` zeros for as many rows as there are.
    """
    text = f"""<ir_version: 10, opset_import: ["" : 21]>
    g (float[N, {TIME}, {FEATURES}] x) => ({y}) {{
        t = Transpose <perm = [1, 0, 2]> (x)
        s = Shape <start = 0, end = 1> (x)
        d = Constant <value = int64[1] {{{directions}}}> ()
        h = Constant <value = int64[1] {{{HIDDEN}}}> ()
        dsh = Concat <axis = 0> (d, s, h)
        h0 = ConstantOfShape (dsh)
        {body}
    }}"""
    model = parser.parse_model(text)
    rng, gates = np.random.default_rng(1), GATES[kind] * HIDDEN
    shapes = {"w": (gates, FEATURES), "r": (gates, HIDDEN), "b": (2 * gates,), "p": (3 * HIDDEN,)}
    constants = {name: rng.standard_normal((directions, *s)) for name, s in shapes.items()}
    constants = {name: array.astype(np.float32) for name, array in constants.items()}
    constants |= {"zero": np.array([0]), "one": np.array([1]), "flat": np.array([0, -1])}
    constants |= {"first": np.array(0), "last": np.array(-1), "far": np.array([TIME])}
    constants |= {"joined": np.array([0, 0, -1]), "ones": np.ones((1, ROWS, HIDDEN), np.float32)}
    read = {name for node in model.graph.node for name in node.input}
    for name, array in constants.items():
        if name in read:
            model.graph.initializer.append(numpy_helper.from_array(array, name))
    return model


def kinds(network):
    """The layers of a network, the last state marked."""
    return [
        type(node.layer).__name__ + ("*" if getattr(node.layer, "last_only", False) else "")
        for node in network.nodes
    ]


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize("is_both", [False, True])
@pytest.mark.parametrize("last_only", [False, True])
def test_a_recurrent_layer_of_ours_comes_back_from_its_file(kind, is_both, last_only):
    width = HIDDEN * (1 + is_both)
    layer = {"LSTM": LSTM, "GRU": GRU, "RNN": RNN}[kind]
    ends = [Node("second", layer(width, 3, last_only=last_only), ("first",))]
    if not last_only:
        ends += [Node("mean", MeanOverTime(), ("second",))]
    network = Network(
        [Input("x", (TIME, FEATURES))],
        [
            Node("first", layer(FEATURES, HIDDEN, bidirectional=is_both), ("x",)),
            *ends,
            Node("head", Linear(3, 2), (ends[-1].name,)),
        ],
        {"y": "head"},
    )
    network.initialize(np.random.default_rng(0))
    for param in network.params().values():
        param.value += 0.1  # biases too
    found = import_onnx(to_onnx(network), rows())
    expected = [kind, kind + "*", "Linear"] if last_only else [kind, kind, "MeanOverTime", "Linear"]
    assert kinds(found.network) == expected
    wanted = network.predict(rows())["y"]
    np.testing.assert_allclose(found.network.predict(rows())["y"], wanted, atol=1e-5)


@pytest.mark.parametrize(
    ("body", "directions", "expected"),
    [
        ("a, z = LSTM <hidden_size = 5> (t, w, r, b) y = Squeeze(z, zero)", 1, ["LSTM*"]),
        (
            "a = LSTM <hidden_size = 5> (t, w, r) q = Squeeze(a, one) y = Gather(q, last)",
            1,
            ["LSTM*"],
        ),
        (
            "a = LSTM <hidden_size = 5> (t, w, r, b, , h0, h0) q = Slice(a, m, far, zero)"
            "c = Squeeze(q) y = Identity(c)",
            1,
            ["LSTM*"],
        ),
        (
            'a, z = LSTM <hidden_size = 5, direction = "bidirectional"> (t, w, r, b)'
            "f = Gather(z, first) g = Gather(z, last) y = Concat <axis = 1> (f, g)",
            2,
            ["LSTM*"],
        ),
        (
            'a, z = LSTM <hidden_size = 5, direction = "bidirectional"> (t, w, r, b)'
            "k = Transpose <perm = [1, 0, 2]> (z) y = Reshape(k, flat)",
            2,
            ["LSTM*"],
        ),
        (
            'a = LSTM <hidden_size = 5, direction = "bidirectional"> (t, w, r, b)'
            "k = Transpose <perm = [0, 2, 1, 3]> (a) q = Reshape(k, joined) p2 = Relu(q)"
            "k2 = Transpose <perm = [1, 0, 2]> (p2) y = Flatten(k2)",
            2,
            ["LSTM", "Flatten", "ReLU"],
        ),
        (
            "a = LSTM <hidden_size = 5> (t, w, r, b) q = Squeeze(a, one) i = Tanh(q)"
            "y = Gather(i, last)",
            1,
            ["LSTM*", "Tanh"],
        ),
        (
            "a = LSTM <hidden_size = 5> (t, w, r, b) q = Squeeze(a, one)"
            "y = ReduceMax <keepdims = 0> (q, zero)",
            1,
            ["LSTM", "MaxOverTime"],
        ),
        (
            "a = LSTM <hidden_size = 5> (t, w, r, b) q = Squeeze(a, one) y = Gather(q, first)",
            1,
            ["LSTM", "Slice", "Flatten"],
        ),
        (
            'a = LSTM <hidden_size = 5, direction = "bidirectional"> (t, w, r, b)'
            "k = Transpose <perm = [2, 0, 1, 3]> (a) q = Reshape(k, joined)"
            "y = Gather <axis = 1> (q, last)",
            2,
            ["LSTM", "Slice", "Flatten"],
        ),
        (
            "a, z = LSTM <hidden_size = 5> (t, w, r, b) q = Squeeze(a, one) i = Squeeze(z, zero)"
            "k = ReduceMean <keepdims = 0> (q, zero) y = Add(k, i)",
            1,
            ["LSTM", "MeanOverTime", "Slice", "Flatten", "Add"],
        ),
        (
            'a, z = LSTM <hidden_size = 5, direction = "bidirectional"> (t, w, r, b)'
            "k = Transpose <perm = [2, 0, 1, 3]> (a) q = Reshape(k, joined)"
            "i = ReduceMax <keepdims = 0> (q, one) f = Gather(z, first) g = Gather(z, last)"
            "j = Concat <axis = 1> (f, g) y = Add(i, j)",
            2,
            [*("Add", "Concat", "LSTM", "MaxOverTime"), *("Slice", "Slice", "Flatten") * 2],
        ),
    ],
)
def test_states_are_known_whichever_way_they_are_read(body, directions, expected):
    model = parsed(body, directions=directions)
    model.graph.initializer.append(numpy_helper.from_array(np.array([TIME - 1]), "m"))
    found = import_onnx(model, rows())
    assert sorted(kinds(found.network)) == sorted(expected)
    assert found.difference < 1e-5  # float32 sums in another order


@pytest.mark.parametrize(
    ("kind", "body", "reason"),
    [
        ("GRU", "a, z = GRU <hidden_size = 5> (t, w, r, b) y = Squeeze(z, zero)", "reset gate"),
        (
            "LSTM",
            'a, z = LSTM <hidden_size = 5, direction = "reverse"> (t, w, r, b)y = Squeeze(z, zero)',
            "backwards only",
        ),
        (
            "LSTM",
            "a, z, c = LSTM <hidden_size = 5> (t, w, r, b) y = Squeeze(c, zero)",
            "cell states",
        ),
        (
            "LSTM",
            "a, z = LSTM <hidden_size = 5> (t, w, r, b, , , , p) y = Squeeze(z, zero)",
            "peepholes",
        ),
        (
            "LSTM",
            "l = Expand(five, s) li = Cast <to = 6> (l)"
            "a, z = LSTM <hidden_size = 5> (t, w, r, b, li) y = Squeeze(z, zero)",
            "sequence_lens",
        ),
        (
            "LSTM",
            "o = CastLike(one, h0) q = Add(h0, o) a, z = LSTM <hidden_size = 5> (t, w, r, b, , q)"
            "y = Squeeze(z, zero)",
            "first states",
        ),
        (
            "LSTM",
            'a, z = LSTM <hidden_size = 5, activations = ["HardSigmoid", "Tanh", "Tanh"]>'
            "(t, w, r, b) y = Squeeze(z, zero)",
            "HardSigmoid",
        ),
        (
            "LSTM",
            'a, z = LSTM <hidden_size = 5, direction = "bidirectional"> (t, w, r, b)'
            "y = Gather(z, first)",
            "only a part",
        ),
    ],
)
def test_a_recurrent_layer_that_ours_are_not_is_refused_with_the_reason(kind, body, reason):
    model = parsed(body, kind=kind, directions=1 + ("bidirectional" in body))
    model.graph.initializer.append(numpy_helper.from_array(np.array(5), "five"))
    with pytest.raises(NotImportableError, match=rf"\({kind}|Squeeze|Gather\).*{reason}"):
        import_onnx(model, rows())


def test_a_model_that_takes_time_ahead_of_rows_is_refused():
    model = parser.parse_model(
        """<ir_version: 10, opset_import: ["" : 21]> g (float[T, N, 4] x) => (float[N, 5] y) {
            a, z = LSTM <hidden_size = 5> (x, w, r) y = Squeeze(z, zero)
        }"""
    )
    rng = np.random.default_rng(0)
    for name, shape in (("w", (1, 20, 4)), ("r", (1, 20, 5))):
        array = rng.standard_normal(shape).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    model.graph.initializer.append(numpy_helper.from_array(np.array([0]), "zero"))
    with pytest.raises(NotImportableError, match=r"not one entry a row|rows must come first"):
        import_onnx(model, rows())


def test_states_that_leave_time_ahead_of_rows_are_refused_as_an_output():
    model = parsed(
        "a = LSTM <hidden_size = 5> (t, w, r, b) y = Squeeze(a, one)", y="float[T, N, M] y"
    )
    with pytest.raises(NotImportableError, match="not one entry a row"):
        import_onnx(model, rows())
