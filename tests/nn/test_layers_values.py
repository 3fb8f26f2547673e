"""Values at the edges: saturation, random masks, raw inputs of every number type."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import DTypeLike

from hlserve.errors import ConfigError
from hlserve.nn.layer import Layer
from hlserve.nn.layers import Dropout, Linear, Scale, Sigmoid, Softmax, Standardize
from hlserve.nn.network import Input, sequential
from hlserve.nn.param import Array
from hlserve.nn.workspace import Workspace


def forward(layer: Layer, x: Array, seed: int | None = None) -> Array:
    """The output for batch-last x; in training where a seed is given."""
    rng = None if seed is None else np.random.default_rng(seed)
    return layer.forward(x, training=rng is not None, workspace=Workspace(rng=rng))[0]


EXTREMES = np.array([[-np.inf, -1e30, -200, -80, 0, 80, 200, 1e30, np.inf]], np.float32)


def test_sigmoid_saturates_without_a_warning() -> None:
    y = forward(Sigmoid(), EXTREMES)[0]
    with np.errstate(over="ignore"):  # exp(1e30) in the reference
        expected = 1 / (1 + np.exp(-EXTREMES[0].astype(np.float64)))
    np.testing.assert_allclose(y, expected, rtol=1e-6, atol=1e-37)


def test_sigmoid_keeps_small_probabilities() -> None:
    y = forward(Sigmoid(), np.array([[-20, -40]], np.float32))[0]
    np.testing.assert_allclose(y, np.exp([-20, -40]), rtol=1e-5)


@pytest.mark.parametrize("offset", [0, 1e4, -1e4])
def test_softmax_sees_only_differences(offset: float) -> None:
    x = np.array([[1, 0], [2, 500], [3, -500]], np.float32)
    y = forward(Softmax(), x + np.float32(offset))
    np.testing.assert_allclose(y.sum(axis=0), 1, rtol=1e-6)
    np.testing.assert_allclose(y[:, 0], np.exp([1, 2, 3]) / np.exp([1, 2, 3]).sum(), rtol=1e-5)
    np.testing.assert_array_equal(y[:, 1], [0, 1, 0])


# ----- dropout


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_dropout_drops_its_share_and_keeps_the_mean(rate: float) -> None:
    x = np.ones((200, 500), np.float32)
    y = forward(Dropout(rate), x, seed=0)
    share = 1e5 * rate  # 100,000 draws
    assert abs(np.count_nonzero(y == 0) - share) < 5 * np.sqrt(share * (1 - rate))
    np.testing.assert_allclose(y[y != 0], 1 / (1 - rate), rtol=1e-6)


def test_dropout_draws_anew_every_step_and_repeats_with_the_seed() -> None:
    x, layer = np.ones((20, 30), np.float32), Dropout(0.5)
    workspace = Workspace(rng=np.random.default_rng(0))
    first = layer.forward(x, training=True, workspace=workspace)[0].copy()
    second = layer.forward(x, training=True, workspace=workspace)[0].copy()
    assert (first != second).any()
    np.testing.assert_array_equal(forward(layer, x, seed=0), first)


def test_dropout_is_nothing_in_prediction() -> None:
    x = np.ones((3, 4), np.float32)
    assert forward(Dropout(0.9), x) is x


def test_dropout_without_random_numbers_says_what_to_pass() -> None:
    with pytest.raises(ConfigError, match=r"workspace=network\.workspace\(np\.random"):
        Dropout(0.5).forward(np.ones((2, 2)), training=True, workspace=Workspace())


@pytest.mark.parametrize("rate", [-0.1, 1.0, float("nan")])
def test_a_rate_that_is_no_rate_is_refused(rate: float) -> None:
    with pytest.raises(ConfigError, match="must be at least 0 and below 1"):
        Dropout(rate)


# ----- preprocessing


@pytest.mark.parametrize("dtype", ["uint8", "int16", "int64", "float32", "float64", "bool"])
@pytest.mark.parametrize("layer", [Scale(1 / 255, 0.5), Standardize([3.0, 1.0], [2.0, 0.0])])
def test_raw_rows_of_every_type_become_floats(layer: Layer, dtype: DTypeLike) -> None:
    rows = np.array([[0, 1], [200, 3], [7, 255]]).astype(dtype)
    y = sequential([layer], Input("x", (2,))).predict(rows)["output"]
    assert y.dtype == np.float32
    wide = rows.astype(np.float64)
    is_scale = isinstance(layer, Scale)
    expected = wide / 255 + 0.5 if is_scale else (wide - [3, 1]) / [2, 1]
    np.testing.assert_allclose(y, expected, rtol=1e-6)


@pytest.mark.parametrize("layer", [Scale(1 / 255), Standardize([0.5] * 4, [2.0] * 4)])
def test_batch_first_memory_stays_batch_first(layer: Layer) -> None:
    rows = np.arange(12, dtype=np.uint8).reshape(3, 4)
    assert forward(layer, rows.T).T.flags.c_contiguous
    assert forward(layer, np.ascontiguousarray(rows.T)).flags.c_contiguous


def test_a_column_that_never_varies_is_only_centred() -> None:
    layer = Standardize(np.array([5.0, 1.0]), np.array([0.0, 2.0]))
    y = sequential([layer], Input("x", (2,))).predict(np.array([[5.0, 3.0], [6.0, -1.0]]))
    np.testing.assert_array_equal(y["output"], [[0, 1], [1, -1]])
    assert layer.config() == {"mean": (5.0, 1.0), "std": (1.0, 2.0)}


def test_columns_with_a_large_mean_keep_their_digits() -> None:
    rows = 1e6 + np.arange(8, dtype=np.float32)[:, None]
    y = sequential([Standardize([1e6], [4.0])], Input("x", (1,))).predict(rows)["output"]
    np.testing.assert_array_equal(y[:, 0], np.arange(8) / 4)


def test_a_scale_of_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"factor \(=0.0\)"):
        Scale(0)


# ----- starting values


@pytest.mark.parametrize("features", [50, 400])
def test_linear_starts_with_he_uniform_weights_and_no_bias(features: int) -> None:
    layer = Linear(features, 300)
    layer.initialize(np.random.default_rng(0))
    limit = np.sqrt(6 / features)
    assert 0.99 * limit < np.abs(layer.weight.value).max() <= limit
    assert not layer.bias.value.any()
