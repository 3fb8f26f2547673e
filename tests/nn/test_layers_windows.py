"""Convolution against a naive loop, and pooling where values tie."""

from __future__ import annotations

import numpy as np
import pytest

from hlserve.nn.layers import Conv2d, Flatten, Linear, MaxPool2d
from hlserve.nn.network import Input, Network, sequential
from hlserve.nn.param import Array

Pair = tuple[int, int]


def naive_convolution(x: Array, w: Array, b: Array, stride: Pair, padding: Pair) -> Array:
    """Cross-correlation as it is written down: x (batch, in, h, w), one place after another."""
    rows, columns = padding
    x = np.pad(x, ((0, 0), (0, 0), (rows, rows), (columns, columns)))
    height, width = w.shape[2:]
    out_height = (x.shape[2] - height) // stride[0] + 1
    out_width = (x.shape[3] - width) // stride[1] + 1
    y = np.empty((len(x), len(w), out_height, out_width))
    for i in range(out_height):
        for j in range(out_width):
            top, left = i * stride[0], j * stride[1]
            patch = x[:, :, top : top + height, left : left + width]
            y[:, :, i, j] = np.einsum("bchw,ochw->bo", patch, w) + b
    return y


@pytest.mark.parametrize("size", [(7, 9), (6, 5)])
@pytest.mark.parametrize("padding", [(0, 0), (1, 1), (2, 3), (6, 6)])
@pytest.mark.parametrize("stride", [(1, 1), (2, 2), (3, 1), (1, 4)])
@pytest.mark.parametrize("kernel", [(1, 1), (3, 3), (5, 2), (2, 5)])
def test_convolution_and_its_gradients_equal_a_naive_loop(
    kernel: Pair, stride: Pair, padding: Pair, size: Pair
) -> None:
    # Convolution is linear in x and in (w, b), so <dy, conv(u)> = <gradient, u> for any u.
    rng = np.random.default_rng(0)
    net = sequential([Conv2d(2, 3, kernel, stride, padding)], Input("x", (2, *size)))
    net = net.astype(np.float64)
    net.value[...] = rng.standard_normal(net.value.size)
    weight, bias = net.params().values()
    x, nothing = rng.standard_normal((4, 2, *size)), np.zeros(3)

    y, backward = net.forward(x)
    expected = naive_convolution(x, weight.value, bias.value, stride, padding)
    np.testing.assert_allclose(np.moveaxis(y, -1, 0), expected, rtol=1e-12, atol=1e-12)

    dy = rng.standard_normal(expected.shape)
    dx = backward(np.moveaxis(dy, 0, -1).copy(), to_inputs=True)["x"]
    u = rng.standard_normal(x.shape)
    along_x = naive_convolution(u, weight.value, nothing, stride, padding)
    np.testing.assert_allclose(np.sum(dx * u), np.sum(dy * along_x), rtol=1e-9)
    u = rng.standard_normal(weight.value.shape)
    along_w = naive_convolution(x, u, nothing, stride, padding)
    np.testing.assert_allclose(np.sum(weight.grad * u), np.sum(dy * along_w), rtol=1e-9)
    np.testing.assert_allclose(bias.grad, dy.sum(axis=(0, 2, 3)), rtol=1e-12)


def _passes(network: Network, x: Array, dy: Array) -> tuple[Array, Array, Array]:
    network.grad.fill(0)
    y, backward = network.forward(x, workspace=network.workspace())
    y = np.moveaxis(y, -1, 0).copy()
    dx = backward(np.moveaxis(dy, 0, -1).copy(), to_inputs=True)["x"]
    return y, dx, network.grad.copy()


@pytest.mark.parametrize("stride", [1, 2])
def test_a_convolution_lowered_in_blocks_equals_the_small_ones(stride: int) -> None:
    # Lowered whole, these 64 rows take 25 MB, more than a block holds; one row fits into one.
    rng = np.random.default_rng(0)
    network = sequential([Conv2d(8, 3, 3, stride, 1)], Input("x", (8, 64, 64))).initialize(rng)
    x = rng.standard_normal((64, 8, 64, 64), np.float32)
    dy = rng.standard_normal((64, *network.shapes["conv2d_1"]), np.float32)
    y, dx, grad = _passes(network, x, dy)
    total = np.zeros_like(grad)
    for i in range(0, 64, 8):
        one_y, one_dx, one_grad = _passes(network, x[i : i + 8], dy[i : i + 8])
        np.testing.assert_allclose(one_y, y[i : i + 8], rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(one_dx, dx[i : i + 8], rtol=1e-5, atol=1e-5)
        total += one_grad
    # sums of 64 * 64 * 64 products, whose rounding grows with the square root of their number
    np.testing.assert_allclose(total, grad, atol=2e-2)


def test_the_workspace_of_a_large_convolution_stays_small() -> None:
    network = sequential([Conv2d(16, 16, 3, padding=1)], Input("x", (16, 32, 32)))
    rows = np.zeros((128, 16, 32, 32), np.float32)
    workspace = network.workspace()
    y, backward = network.forward(rows, workspace=workspace)
    backward(y.copy(), to_inputs=True)
    activation = rows.nbytes  # x turned, y, dy by rows, dx; lowered whole would be 3 more
    assert workspace.nbytes() < 4 * activation + 10_000_000


# ----- pooling


def test_of_equal_values_the_first_in_reading_order_gets_the_gradient() -> None:
    network = sequential([MaxPool2d(2)], Input("x", (1, 4, 4)))
    x = np.array([[1, 1, 0, 2], [1, 1, 2, 0], [0, 3, 5, 4], [3, 3, 4, 5]], np.float32)
    _, dx, _ = _passes(network, x[None, None], np.array([[[[1, 2], [3, 4]]]], np.float32))
    expected = [[1, 0, 0, 2], [0, 0, 0, 0], [0, 3, 4, 0], [0, 0, 0, 0]]
    np.testing.assert_array_equal(dx[0, 0], expected)


@pytest.mark.parametrize(("kernel", "stride"), [(2, 2), (3, 2), (3, 1), ((2, 3), (1, 3))])
def test_flat_areas_do_not_multiply_the_gradient(kernel: int | Pair, stride: int | Pair) -> None:
    network = sequential([MaxPool2d(kernel, stride)], Input("x", (2, 7, 8)))
    x = np.random.default_rng(0).integers(0, 2, (3, 2, 7, 8)).astype(np.float32)  # mostly ties
    dy = np.ones((3, *network.shapes["maxpool2d_1"]), np.float32)
    _, dx, _ = _passes(network, x, dy)
    assert dx.sum() == dy.sum()


def test_bias_gradients_below_a_pool_are_right_on_flat_images() -> None:
    # All outputs of the convolution tie, so the bias of a filter moves every pooled value by one.
    rng = np.random.default_rng(0)
    layers = [Conv2d(1, 4, 3, padding=0), MaxPool2d(2), Flatten(), Linear(4 * 3 * 3, 2)]
    network = sequential(layers, Input("x", (1, 8, 8))).initialize(rng)
    dy = rng.standard_normal((5, 2), np.float32)
    _passes(network, np.full((5, 1, 8, 8), 0.5, np.float32), dy)
    weight = network.params()["linear_4.weight"].value
    expected = (dy @ weight).reshape(5, 4, 9).sum(axis=(0, 2))
    actual = network.params()["conv2d_1.bias"].grad
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)


def test_rows_and_columns_outside_every_window_get_no_gradient() -> None:
    network = sequential([MaxPool2d(2)], Input("x", (1, 5, 7)))
    x = np.random.default_rng(0).standard_normal((2, 1, 5, 7), np.float32)
    workspace = network.workspace()
    for _ in range(2):  # the second pass reuses the buffers
        y, backward = network.forward(x, workspace=workspace)
        dx = backward(np.ones_like(y), to_inputs=True)["x"]
    assert not dx[:, :, 4].any()
    assert not dx[:, :, :, 6].any()
    assert dx.sum() == y.size
