"""Attention, embeddings and positions against formulas written down plainly."""

from __future__ import annotations

import math

import numpy as np
import pytest

from compress import export
from hlserve.errors import ConfigError, DataError
from hlserve.nn.layer import Layer
from hlserve.nn.layers import (
    Add,
    Embedding,
    LayerNorm,
    LearnedPositions,
    Linear,
    MaxOverTime,
    MeanOverTime,
    MultiHeadAttention,
    PositionalEncoding,
    PReLU,
    Transpose,
)
from hlserve.nn.network import Input, Network, Node, sequential
from hlserve.nn.param import Array
from hlserve.nn.workspace import Workspace


def drawn(layer: Layer) -> Layer:
    rng = np.random.default_rng(1)
    for param in layer.params().values():
        param.value = rng.standard_normal(param.value.shape)
        param.grad = np.zeros_like(param.value)
    return layer


def forward(layer: Layer, *rows: Array) -> Array:
    """Batch-first float64 output for batch-first rows."""
    inputs = [np.moveaxis(array, 0, -1) for array in rows]
    y, _ = layer.forward(*inputs, training=False, workspace=Workspace(np.float64))
    return np.moveaxis(y, -1, 0)


def plain_attention(layer: MultiHeadAttention, x: Array, n_steps: int) -> Array:
    """One row (time, dim), head by head and query by query; only the first keys count."""
    w, b = layer.in_weight.value, layer.params()["in_bias"].value
    q, k, v = np.split(x @ w.T + b, 3, axis=1)
    width = layer.dim // layer.n_heads
    mixed = np.zeros_like(x)
    for head in range(layer.n_heads):
        part = slice(head * width, (head + 1) * width)
        for step in range(len(x)):
            scores = k[:n_steps, part] @ q[step, part] / math.sqrt(width)
            weights = np.exp(scores) / np.exp(scores).sum()
            mixed[step, part] = weights @ v[:n_steps, part]
    return mixed @ layer.out_weight.value.T + layer.params()["out_bias"].value


def test_attention_is_the_formula() -> None:
    layer = MultiHeadAttention(6, 3)
    drawn(layer)
    rng = np.random.default_rng(0)
    x, n_steps = rng.standard_normal((4, 5, 6)), [5, 1, 3, 4]
    mask = (np.arange(5) < np.array(n_steps)[:, None]).astype(np.int64)
    expected = [plain_attention(layer, row, n) for row, n in zip(x, n_steps, strict=True)]
    np.testing.assert_allclose(forward(layer, x, mask), expected, rtol=1e-12, atol=1e-12)


def test_a_row_that_is_all_padding_looks_at_every_step_alike() -> None:
    layer = drawn(MultiHeadAttention(4, 2))
    x = np.random.default_rng(0).standard_normal((2, 3, 4))
    y = forward(layer, x, np.array([[0, 0, 0], [1, 1, 0]]))
    values = x[0] @ layer.params()["in_weight"].value[8:].T + layer.params()["in_bias"].value[8:]
    mixed = values.mean(axis=0) @ layer.params()["out_weight"].value.T
    expected = np.broadcast_to(mixed + layer.params()["out_bias"].value, (3, 4))
    np.testing.assert_allclose(y[0], expected, rtol=1e-12)


def test_large_scores_neither_overflow_nor_warn() -> None:
    layer = MultiHeadAttention(2, 1)
    for param in layer.params().values():
        param.value = np.full(param.value.shape, 100.0, np.float32)
        param.grad = np.zeros_like(param.value)
    x = np.random.default_rng(0).standard_normal((4, 2, 3)).astype(np.float32)
    y, backward = layer.forward(100 * x, training=True, workspace=Workspace())
    assert np.isfinite(y).all()
    assert np.isfinite(backward(np.ones_like(y))[0]).all()


# ----- what stands around it


def test_positions_are_sines_and_cosines() -> None:
    y = forward(PositionalEncoding(20, 5), np.zeros((1, 20, 5)))[0]
    for t in range(20):
        for i in range(5):
            angle = t / 10_000 ** (2 * (i // 2) / 5)
            expected = math.sin(angle) if i % 2 == 0 else math.cos(angle)
            assert y[t, i] == pytest.approx(expected, abs=1e-14)


def test_gradients_of_equal_ids_add_up() -> None:
    layer = Embedding(50, 3, padding_id=7)
    rng = np.random.default_rng(0)
    ids = rng.zipf(1.5, (9, 200)) % 50  # a few of them most of the time, as words are
    y, backward = layer.forward(ids, training=True, workspace=Workspace())
    dy = rng.integers(-9, 10, y.shape).astype(np.float32)  # whole numbers: every sum is exact
    expected = np.zeros((50, 3), np.float32)
    for t, b in np.ndindex(*ids.shape):
        expected[ids[t, b]] += dy[t, :, b]
    expected[7] = 0
    assert (ids == 7).any()
    backward(dy.copy())
    np.testing.assert_array_equal(layer.weight.grad, expected)


def test_padding_stays_zero_and_starts_so() -> None:
    network = sequential([Embedding(5, 3, padding_id=2)], Input("ids", (2,), "int64"))
    network.initialize(np.random.default_rng(0))
    y = network.predict(np.array([[2, 1], [0, 2]]))["output"]
    assert not y[0, 0].any()
    assert not y[1, 1].any()
    assert y[0, 1].any()


def test_an_id_must_be_known_to_every_layer_that_reads_it() -> None:
    nodes = [Node("a", Embedding(9, 2), ("ids",)), Node("b", Embedding(4, 2), ("ids",))]
    network = Network(
        [Input("ids", (3,), "int64")], [*nodes, Node("y", Add(), ("a", "b"))], {"y": "y"}
    )
    assert network.predict(np.array([[0, 3, 1]]))["y"].shape == (1, 3, 2)
    with pytest.raises(DataError, match=r"row 0 holds id 4, expected 0 to 3"):
        network.predict(np.array([[0, 4, 1]]))


def test_steps_that_are_masked_do_not_count() -> None:
    x = np.random.default_rng(0).standard_normal((3, 4, 2))
    mask = np.array([[1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]])
    mean, largest = forward(MeanOverTime(), x, mask), forward(MaxOverTime(), x, mask)
    np.testing.assert_allclose(mean[:2], [x[0, :2].mean(axis=0), x[1, 0]], rtol=1e-12)
    np.testing.assert_array_equal(largest[:2], [x[0, :2].max(axis=0), x[1, 0]])
    np.testing.assert_array_equal(mean[2], 0)


@pytest.mark.parametrize(
    "layer", [MultiHeadAttention(2, 1), MeanOverTime(), MaxOverTime()], ids=lambda x: str(type(x))
)
def test_masks_of_steps_may_have_holes_but_no_other_numbers(layer: Layer) -> None:
    network = Network(
        [Input("x", (4, 2)), Input("mask", (4,), "int64")],
        [Node("y", layer, ("x", "mask"))],
        {"y": "y"},
    )
    x = np.random.default_rng(0).standard_normal((2, 4, 2), np.float32)
    rows = {"x": x, "mask": np.array([[0, 1, 0, 1], [1, 1, 1, 0]])}
    export.check_parity(network, export.to_onnx(network), rows)
    rows["mask"][1, 2] = 3
    with pytest.raises(DataError, match="'mask': row 1 holds 3, expected 1 for the steps"):
        network.predict(rows)


def test_of_equal_maxima_the_first_gets_the_gradient() -> None:
    x = np.array([1.0, 3.0, 3.0, 0.0]).reshape(4, 1, 1)
    _, backward = MaxOverTime().forward(x, training=True, workspace=Workspace(np.float64))
    np.testing.assert_array_equal(backward(np.ones((1, 1)))[0].ravel(), [0, 1, 0, 0])


def test_normalized_steps_have_mean_zero_and_deviation_one() -> None:
    x = 5 + 3 * np.random.default_rng(0).standard_normal((4, 6, 50))
    y = forward(LayerNorm(50, 1e-12), x)
    np.testing.assert_allclose(y.mean(axis=-1), 0, rtol=0, atol=1e-12)
    np.testing.assert_allclose(y.std(axis=-1), 1, rtol=1e-10)


def test_units_stay_removable_through_transposes() -> None:
    layers = [Linear(3, 4), Transpose(), PReLU(4), Transpose(), Linear(4, 2)]
    network = sequential(layers, Input("x", (5, 3)))
    flow, params = network.channel_flow(), network.params()
    bound = {id(b.param): b.ids.tolist() for b in flow.bindings() if b.axis == 0}
    made = bound[id(params["linear_1.bias"])]
    assert bound[id(params["prelu_3.slope"])] == made
    assert not flow.protected().intersection(made)


# ----- what users may get wrong


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MultiHeadAttention(6, 4), r"dim \(=6\) must be a multiple of n_heads \(=4\)"),
        (lambda: MultiHeadAttention(6, 0), r"n_heads \(=0\)"),
        (lambda: Embedding(0, 3), r"n_embeddings \(=0\)"),
        (lambda: Embedding(4, 3, padding_id=4), r"padding_id \(=4\) must be from 0 to 3"),
        (lambda: LayerNorm(0), r"features \(=0\)"),
        (lambda: LayerNorm(3, 0.0), r"epsilon \(=0.0\)"),
        (lambda: PositionalEncoding(0, 4), r"time \(=0\)"),
        (lambda: LearnedPositions(4, 0), r"dim \(=0\)"),
    ],
)
def test_constructors_refuse_what_cannot_work(make: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()  # type: ignore[operator]


@pytest.mark.parametrize(
    ("layer", "shapes", "message"),
    [
        (MultiHeadAttention(4, 2), ((4,),), r"\(time, 4\), and if a second .* got \(4,\)"),
        (MultiHeadAttention(4, 2), ((3, 4), (4,)), r"mask \(time,\), got \(3, 4\), \(4,\)"),
        (Embedding(4, 2), ((3, 2),), r"rows of ids \(time,\) or \(\), got \(3, 2\)"),
        (LayerNorm(4), ((4, 3),), r"\(4,\) or \(\.\.\., 4\), got \(4, 3\)"),
        (PositionalEncoding(3, 4), ((4, 4),), r"expects rows of shape \(3, 4\), got \(4, 4\)"),
        (MeanOverTime(), ((4,),), r"MeanOverTime expects rows of shape \(time, features\)"),
        (MaxOverTime(), ((4, 2), (2,)), r"mask \(time,\), got \(4, 2\), \(2,\)"),
        (Transpose(), ((4,),), r"rows of two axes, got \(4,\)"),
        (Add(), ((4,),), r"two or more inputs of one shape, got \(4,\)"),
        (Add(), ((4,), (3,)), r"of one shape, got \(4,\), \(3,\)"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(
    layer: Layer, shapes: tuple[tuple[int, ...], ...], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        layer.output_shape(*shapes)


# ----- costs


@pytest.mark.parametrize(
    ("layer", "shape", "macs"),
    [
        (Linear(3, 5), (3,), 15),
        (Linear(3, 5), (4, 3), 60),
        (MultiHeadAttention(6, 2), (5, 6), 4 * 5 * 36 + 2 * 5 * 5 * 6),  # projections, then heads
    ],
)
def test_multiplications_are_counted_for_every_step(
    layer: Layer, shape: tuple[int, ...], macs: int
) -> None:
    assert layer.macs(shape) == macs
