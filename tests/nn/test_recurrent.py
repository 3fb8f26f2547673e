"""What recurrent layers do as a part of networks: lengths, specs, learning."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from compress import export
from hlserve.errors import ConfigError, DataError
from hlserve.nn import fit
from hlserve.nn.architectures import build, build_for
from hlserve.nn.gradcheck import check_gradients
from hlserve.nn.layers import GRU, LSTM, RNN, Linear, PaddingMask, Reshape, Softmax
from hlserve.nn.network import Input, Network, Node, sequential
from hlserve.nn.param import Array
from hlserve.nn.rows import require_mask
from hlserve.nn.workspace import Workspace

KINDS = [LSTM, GRU, RNN]
every_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
every_form = pytest.mark.parametrize("last_only", [False, True], ids=["all", "last"])


def masked(kind: type[Any], *, last_only: bool) -> Network:
    layer = kind(3, 4, bidirectional=True, last_only=last_only)
    network = Network(
        [Input("x", (5, 3)), Input("mask", (5,), "int64")],
        [Node("layer", layer, ("x", "mask"))],
        {"y": "layer"},
    )
    return network.initialize(np.random.default_rng(0))


def prefix(lengths: list[int]) -> Array:
    return (np.arange(5) < np.array(lengths)[:, None]).astype(np.int64)


@every_kind
@every_form
def test_what_lies_behind_the_end_does_not_matter(kind: type[Any], last_only: bool) -> None:
    network = masked(kind, last_only=last_only)
    x, mask = np.random.default_rng(0).random((3, 5, 3), np.float32), prefix([2, 5, 1])
    other = np.where(mask[..., None] == 1, x, np.float32(7))
    y, again = (network.predict({"x": rows, "mask": mask})["y"] for rows in (x, other))
    np.testing.assert_array_equal(again, y)
    if not last_only:
        assert not y[mask == 0].any()


@every_kind
@every_form
def test_a_masked_sequence_equals_the_short_one(kind: type[Any], last_only: bool) -> None:
    network = masked(kind, last_only=last_only)
    x = np.random.default_rng(0).random((4, 5, 3), np.float32)
    y = network.predict({"x": x, "mask": prefix([3] * 4)})["y"]
    short = sequential([network.node("layer").layer], Input("x", (3, 3)))
    expected = short.predict(x[:, :3])["output"]
    np.testing.assert_allclose(y if last_only else y[:, :3], expected, atol=1e-6)  # float32 sums


@every_kind
@every_form
def test_an_empty_sequence_has_zero_states_in_onnx_runtime_too(
    kind: type[Any], last_only: bool
) -> None:
    network = masked(kind, last_only=last_only)
    x, mask = np.random.default_rng(0).random((2, 5, 3), np.float32), prefix([0, 4])
    rows = {"x": x, "mask": mask}
    assert not network.predict(rows)["y"][0].any()
    export.check_parity(network, export.to_onnx(network), rows)


@every_kind
@pytest.mark.parametrize(
    ("mask", "message"),
    [
        ([0, 0, 1, 1, 1], "'mask': row 1 has a 1 behind a 0, at step 2, .*pad sequences at their"),
        ([1, 0, 1, 0, 0], "'mask': row 1 has a 1 behind a 0, at step 2, .*leave no step out"),
        ([2, 1, 0, 0, 0], "'mask': row 1 holds 2, expected 1 for the steps"),
        ([1, -1, 0, 0, 0], "'mask': row 1 holds -1, expected 1 for the steps"),
        ([1.0, 0.5, 0, 0, 0], "'mask': dtype is float64, expected a mask of integers"),
    ],
    ids=["padded in front", "holes", "twos", "below 0", "numbers"],
)
def test_what_is_no_prefix_is_refused_since_onnx_knows_lengths_alone(
    kind: type[Any], mask: list[float], message: str
) -> None:
    network = masked(kind, last_only=True)
    rows = {"x": np.zeros((3, 5, 3), np.float32), "mask": np.array([[1, 1, 0, 0, 0], mask, mask])}
    for answer in (network.predict, network.forward):
        with pytest.raises(DataError, match=message):
            answer(rows)  # type: ignore[operator]
    whole = {"x": rows["x"], "mask": np.array([[1, 1, 1, 0, 0]] * 3, np.bool_)}
    assert np.isfinite(network.predict(whole)["y"]).all()


def test_the_row_that_is_no_prefix_is_the_first_that_a_loop_over_its_steps_finds() -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        mask = rng.integers(0, 2, rng.integers(1, 6, 2))
        found = [
            (row, step)
            for row, steps in enumerate(mask.tolist())
            for step in range(1, len(steps))
            if steps[step] > steps[step - 1]
        ]
        if not found:
            require_mask("mask", mask, is_prefix=True)
            continue
        row, step = found[0]
        with pytest.raises(DataError, match=f"row {row} has a 1 behind a 0, at step {step},"):
            require_mask("mask", mask, is_prefix=True)


@every_kind
def test_gradients_that_vanish_do_so_before_they_are_subnormal(kind: type[Any]) -> None:
    layer = kind(3, 8, last_only=True)
    layer.initialize(np.random.default_rng(0))
    layer.recurrent_weight.value[...] *= 0.5
    x = np.random.default_rng(0).standard_normal((400, 3, 4)).astype(np.float32)
    _, backward = layer.forward(x, training=True, workspace=Workspace())
    (dx,) = backward(np.ones((8, 4), np.float32))
    sizes = np.abs(dx)
    assert not sizes[:100].any()
    assert sizes[-1].all()
    # Slopes near zero make a few subnormal products of gradients that are none.
    is_subnormal = (sizes > 0) & (sizes < np.finfo(np.float32).tiny)
    assert is_subnormal.mean() < 1e-3


def test_padding_inside_a_sequence_counts_as_an_id() -> None:
    network = Network(
        [Input("ids", (5,), "int64")], [Node("m", PaddingMask(), ("ids",))], {"m": "m"}
    )
    ids = np.array([[4, 0, 2, 0, 0], [0, 0, 0, 0, 0], [0, 0, 0, 0, 1]])
    expected = [[1, 1, 1, 0, 0], [0] * 5, [1] * 5]
    np.testing.assert_array_equal(network.predict(ids)["m"], expected)
    export.check_parity(network, export.to_onnx(network), ids)


# ----- specs


@pytest.mark.parametrize(
    ("spec", "n_parameters"),
    [  # gates * hidden * (inputs + hidden + 1), a GRU's second bias, both ways, and the dense end
        ("lstm:16", 4 * 16 * (28 + 16 + 1) + 16 * 10 + 10),
        ("gru:16", 3 * 16 * (28 + 16 + 1) + 16 + 16 * 10 + 10),
        ("rnn:16", 16 * (28 + 16 + 1) + 16 * 10 + 10),
        ("bilstm:16", 2 * 4 * 16 * (28 + 16 + 1) + 32 * 10 + 10),
        ("bigru:8,4", 6 * 8 * (28 + 8 + 1) + 16 + 6 * 4 * (16 + 4 + 1) + 8 + 8 * 10 + 10),
        ("birnn:8,4", 2 * 8 * (28 + 8 + 1) + 2 * 4 * (16 + 4 + 1) + 8 * 10 + 10),
    ],
)
@pytest.mark.parametrize("shape", [(28, 28), (1, 28, 28)], ids=["sequences", "images"])
def test_specs_build_what_they_say(spec: str, n_parameters: int, shape: tuple[int, ...]) -> None:
    network = build(spec, input_shape=shape, n_outputs=10, task="classification")
    assert network.n_parameters == n_parameters
    assert network.inputs[0].shape == shape
    assert isinstance(network.nodes[0].layer, Reshape) == (shape != (28, 28))
    assert all(param.value.any() for name, param in network.params().items() if "weight" in name)
    rng = np.random.default_rng(0)
    check_gradients(network, rng.random((2, *shape)), rng=rng, until=network.logits_node)


@every_kind
def test_recurrent_weights_start_orthogonal_and_forget_gates_open(kind: type[Any]) -> None:
    layer = kind(3, 6, bidirectional=True)
    layer.initialize(np.random.default_rng(0))
    gates = layer.recurrent_weight.value.reshape(-1, 6, 6)
    products = gates @ gates.transpose(0, 2, 1)
    np.testing.assert_allclose(
        products, np.broadcast_to(np.eye(6), products.shape), atol=1e-6
    )  # float32
    bias = np.zeros_like(layer.bias.value)
    if kind is LSTM:
        bias[:, 2 * 6 : 3 * 6] = 1  # f of i, o, f, c
    np.testing.assert_array_equal(layer.bias.value, bias)


def test_multiply_accumulates_are_those_of_every_step() -> None:
    network = build("bilstm:16", input_shape=(9, 3), n_outputs=2, task="classification")
    assert network.macs() == 9 * 2 * 4 * 16 * (3 + 16) + 32 * 2


def test_flat_rows_are_sequences_of_single_numbers() -> None:
    rows = np.random.default_rng(0).random((20, 12), np.float32)
    network = build_for("gru:4", rows, rows.sum(axis=1), task="regression")
    assert network.shapes["reshape_2"] == (12, 1)
    assert network.predict(rows)["output"].shape == (20, 1)


@pytest.mark.parametrize(
    ("spec", "shape", "message"),
    [
        ("lstm", (28, 28), "expected the sizes of the recurrent layers, as in lstm:64 or"),
        ("bigru:0", (28, 28), "expected the sizes of the recurrent layers"),
        ("rnn:8", (3, 32, 32), r"\(1, height, width\), the rows have shape \(3, 32, 32\)"),
    ],
)
def test_specs_that_do_not_fit_are_refused(spec: str, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(spec, input_shape=shape, n_outputs=2, task="classification")


# ----- learning


def accuracy(network: Network, rows: Array | dict[str, Array], labels: Array) -> float:
    answers = network.predict(rows)["probabilities"].argmax(axis=1)
    return float((answers == labels).mean())


def test_an_lstm_learns_which_of_two_marks_came_first() -> None:
    rng = np.random.default_rng(0)
    rows = 0.1 * rng.standard_normal((1200, 12, 2), np.float32)
    times = np.argsort(rng.random((1200, 12)), axis=1)[:, :2]  # of either mark, never the same
    for mark in (0, 1):
        rows[np.arange(1200), times[:, mark], mark] += 2
    labels = (times[:, 0] < times[:, 1]).astype(np.int64)
    network = build_for("lstm:16", rows[:1000], labels[:1000], task="classification")
    fit(network, rows[:1000], labels[:1000], epochs=12, progress=False)
    assert accuracy(network, rows[1000:], labels[1000:]) > 0.97  # guessing has 0.5


def test_a_masked_gru_of_both_ways_learns_what_stands_at_both_ends() -> None:
    rng = np.random.default_rng(0)
    ids = rng.integers(1, 7, (1500, 10))
    lengths = rng.integers(3, 11, 1500)
    ids[np.arange(10) >= lengths[:, None]] = 0
    labels = (ids[:, 0] > ids[np.arange(1500), lengths - 1]).astype(np.int64)
    rows = {"x": np.eye(7, dtype=np.float32)[ids], "ids": ids}
    network = Network(
        [Input("x", (10, 7)), Input("ids", (10,), "int64")],
        [
            Node("mask", PaddingMask(), ("ids",)),
            Node("gru", GRU(7, 16, bidirectional=True, last_only=True), ("x", "mask")),
            Node("linear", Linear(32, 2), ("gru",)),
            Node("softmax", Softmax(), ("linear",)),
        ],
        {"probabilities": "softmax"},
        task="classification",
    ).initialize(np.random.default_rng(0))
    train, test = (
        {n: a[part] for n, a in rows.items()} for part in (slice(1200), slice(1200, None))
    )
    fit(network, train, labels[:1200], epochs=12, progress=False)
    assert accuracy(network, test, labels[1200:]) > 0.97  # guessing has about 0.6
    export.check_parity(network, export.to_onnx(network), test)
