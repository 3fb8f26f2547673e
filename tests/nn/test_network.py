"""The graph: its border, its checks, its walks."""

from __future__ import annotations

import numpy as np
import pytest

from compress import export
from hlserve.errors import ConfigError, DataError
from hlserve.nn.layers import Conv2d, Dropout, Flatten, Linear, MaxPool2d, ReLU, Scale, Softmax
from hlserve.nn.network import Input, Network, Node, sequential


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def small_cnn() -> Network:
    layers = [
        Scale(1 / 255),
        Conv2d(1, 3, 3, padding=1),
        ReLU(),
        MaxPool2d(2),
        Dropout(0.2),
        Flatten(),
        Linear(3 * 4 * 4, 5),
        Softmax(),
    ]
    network = sequential(layers, Input("image", (1, 8, 8)), output="probabilities")
    return network.initialize(np.random.default_rng(1))


def two_heads() -> Network:
    """One trunk that two heads read."""
    nodes = [
        Node("trunk", Linear(4, 6), ("x",)),
        Node("relu", ReLU(), ("trunk",)),
        Node("left", Linear(6, 2), ("relu",)),
        Node("right", Linear(6, 1), ("relu",)),
    ]
    network = Network([Input("x", (4,))], nodes, {"a": "left", "b": "right"})
    return network.initialize(np.random.default_rng(1))


# ----- prediction


def test_a_cnn_predicts_what_onnx_runtime_computes(rng: np.random.Generator) -> None:
    network = small_cnn()
    rows = rng.integers(0, 256, (9, 1, 8, 8)).astype(np.uint8)
    export.check_parity(network, export.to_onnx(network), rows)
    assert network.predict(rows)["probabilities"].shape == (9, 5)


def test_a_graph_with_two_outputs_predicts_both(rng: np.random.Generator) -> None:
    network, rows = two_heads(), rng.standard_normal((7, 4), np.float32)
    export.check_parity(network, export.to_onnx(network), rows)
    assert {name: y.shape for name, y in network.predict(rows).items()} == {
        "a": (7, 2),
        "b": (7, 1),
    }


@pytest.mark.parametrize("batch_size", [1, 3, 7, 100])
def test_predictions_do_not_depend_on_the_batch_size(
    batch_size: int, rng: np.random.Generator
) -> None:
    # outputs of one feature a row would be views of the workspace if they were not copied
    network, rows = two_heads(), rng.standard_normal((10, 4), np.float32)
    expected = network.predict(rows)
    for name, y in network.predict(rows, batch_size=batch_size).items():
        np.testing.assert_allclose(y, expected[name], rtol=1e-5, atol=1e-6)


def test_predicting_nothing_gives_empty_arrays() -> None:
    y = two_heads().predict(np.empty((0, 4), np.float32))
    assert {name: array.shape for name, array in y.items()} == {"a": (0, 2), "b": (0, 1)}


def test_flat_rows_fit_an_image_input(rng: np.random.Generator) -> None:
    network, rows = small_cnn(), rng.integers(0, 256, (3, 64)).astype(np.uint8)
    images = network.predict(rows.reshape(3, 1, 8, 8))["probabilities"]
    np.testing.assert_array_equal(network.predict({"any": rows})["probabilities"], images)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (np.zeros((3, 63)), r"input 'image': rows have shape \(63,\), expected \(1, 8, 8\)"),
        (np.zeros(64), r"\(64 numbers a row\)"),
    ],
)
def test_rows_of_another_size_are_refused(rows: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message):
        small_cnn().predict(rows)


def test_arrays_under_other_names_are_refused() -> None:
    with pytest.raises(DataError, match=r"takes \['x'\], got \['x', 'z'\]"):
        two_heads().predict({"x": np.zeros((1, 4)), "z": np.zeros((1, 4))})


# ----- passes


def test_passes_stop_where_they_are_told(rng: np.random.Generator) -> None:
    network, rows = small_cnn(), rng.standard_normal((2, 1, 8, 8), np.float32)
    scores, backward = network.forward(rows, until=network.logits_node)
    assert network.logits_node == "linear_7"
    assert scores.shape == (5, 2)
    assert backward(np.ones_like(scores)) == {}
    assert network.grad.any()


def test_input_gradients_come_batch_first_by_name(rng: np.random.Generator) -> None:
    network, rows = two_heads(), rng.standard_normal((3, 4), np.float32)
    y, backward = network.forward(rows, until="left")
    dx = backward(np.ones_like(y), to_inputs=True)
    assert {name: array.shape for name, array in dx.items()} == {"x": (3, 4)}


def test_a_network_without_parameters_has_input_gradients(rng: np.random.Generator) -> None:
    network = sequential([Scale(0.5), ReLU()], Input("x", (2,)))
    y, backward = network.forward(np.array([[1.0, -1.0]], np.float32))
    np.testing.assert_array_equal(backward(np.ones_like(y), to_inputs=True)["x"], [[0.5, 0]])


def test_activations_are_those_of_prediction(rng: np.random.Generator) -> None:
    network, rows = small_cnn(), rng.standard_normal((2, 1, 8, 8), np.float32)
    values = network.activations(rows, ["image", "flatten_6", "softmax_8"])
    np.testing.assert_allclose(values["softmax_8"].T, network.predict(rows)["probabilities"])
    assert values["image"].shape == (1, 8, 8, 2)
    assert values["flatten_6"].shape == (48, 2)


def test_two_outputs_need_a_name_to_run_to(rng: np.random.Generator) -> None:
    with pytest.raises(ConfigError, match=r"which of the outputs \['a', 'b'\]"):
        two_heads().forward(np.zeros((1, 4)))
    with pytest.raises(ConfigError, match=r"no node named \['c'\]"):
        two_heads().forward(np.zeros((1, 4)), until="c")


# ----- parameters


def test_parameters_are_views_of_one_flat_vector() -> None:
    network = small_cnn()
    assert list(network.params()) == [
        "conv2d_2.weight",
        "conv2d_2.bias",
        "linear_7.weight",
        "linear_7.bias",
    ]
    network.value.fill(3)
    network.grad.fill(4)
    for param in network.params().values():
        assert (param.value == 3).all()
        assert (param.grad == 4).all()
    assert network.n_parameters == 3 * 9 + 3 + 48 * 5 + 5


def test_macs_count_every_multiplication() -> None:
    assert small_cnn().macs() == 8 * 8 * 3 * 9 + 48 * 5


def test_a_copy_is_independent() -> None:
    network = small_cnn()
    other = network.copy()
    np.testing.assert_array_equal(other.value, network.value)
    other.value.fill(0)
    assert network.params()["conv2d_2.weight"].value.any()


def test_float64_copies_keep_the_values(rng: np.random.Generator) -> None:
    network, rows = two_heads(), rng.standard_normal((3, 4), np.float32)
    wide = network.astype(np.float64)
    assert wide.predict(rows)["a"].dtype == np.float64
    np.testing.assert_allclose(wide.predict(rows)["a"], network.predict(rows)["a"], rtol=1e-5)


def test_the_seed_fixes_every_parameter() -> None:
    values = [two_heads().initialize(np.random.default_rng(s)).value for s in (5, 5, 6)]
    np.testing.assert_array_equal(values[0], values[1])
    assert (values[0] != values[2]).any()


def test_replaced_layers_give_a_network_of_copies() -> None:
    network = two_heads()
    narrow = {"trunk": Linear(4, 3), "left": Linear(3, 2), "right": Linear(3, 1)}
    other = network.replace_layers(narrow)
    assert other.shapes["relu"] == (3,)
    assert network.shapes["relu"] == (6,)
    assert other.node("relu").layer is not network.node("relu").layer
    with pytest.raises(ConfigError, match="node 'left': Linear expects rows of shape"):
        network.replace_layers({"trunk": Linear(4, 3)})


# ----- graphs that cannot be


@pytest.mark.parametrize(
    ("nodes", "outputs", "message"),
    [
        ([Node("x", ReLU(), ("x",))], {"y": "x"}, "two parts of the network are named 'x'"),
        ([Node("a", ReLU(), ("b",))], {"y": "a"}, r"node 'a' reads \['b'\], which come later"),
        ([Node("a", Linear(3, 2), ("x",))], {"y": "a"}, r"node 'a': Linear expects .*got"),
        ([Node("a", ReLU(), ("x",))], {"y": "b"}, "output 'y' names 'b', which is not a node"),
    ],
)
def test_graphs_that_cannot_be_are_refused(
    nodes: list[Node], outputs: dict[str, str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        Network([Input("x", (4,))], nodes, outputs)


def test_a_network_needs_a_layer() -> None:
    with pytest.raises(ConfigError, match="at least one layer"):
        sequential([], Input("x", (4,)))


def test_asking_for_an_unknown_node_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"no node named 'z'; there are \['trunk', 'relu'"):
        two_heads().node("z")


# ----- channels


def test_channels_follow_filters_through_pooling_and_flattening() -> None:
    network = small_cnn()
    bindings = network.channel_flow().bindings()
    by_axis = {(id(b.param), b.axis): b.ids for b in bindings}
    filters = by_axis[id(network.params()["conv2d_2.weight"]), 0]
    features = by_axis[id(network.params()["linear_7.weight"]), 1]
    np.testing.assert_array_equal(features, np.repeat(filters, 16))


def test_what_goes_in_and_comes_out_is_protected() -> None:
    network = two_heads()
    flow = network.channel_flow()
    removable = {
        unit for b in flow.bindings() if b.is_producer for unit in b.ids.tolist()
    } - flow.protected()
    trunk = network.params()["trunk.bias"]
    (ids,) = (b.ids for b in flow.bindings() if b.param is trunk)
    assert removable == set(ids.tolist())
