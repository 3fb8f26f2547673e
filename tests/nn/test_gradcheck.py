"""The checker is checked: it must pass what is right and fail what is a little wrong."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from hlserve.nn.gradcheck import check_gradients
from hlserve.nn.layer import Backward, Layer, Shape
from hlserve.nn.layers import Dropout, Linear, Tanh
from hlserve.nn.network import Input, Network, Node, sequential
from hlserve.nn.param import Array, Param
from hlserve.nn.workspace import Workspace


@dataclass(eq=False)
class Affine(Layer):
    """y = gain * x + offset, each gradient wrong by a factor of its own."""

    gain_error: float = 1.0
    offset_error: float = 1.0
    input_error: float = 1.0
    gain: Param = field(init=False)
    offset: Param = field(init=False)

    def __post_init__(self) -> None:
        self.gain = Param(np.full(4, 1.5, np.float32))
        self.offset = Param(np.full(4, 0.5, np.float32))

    def forward(
        self, *inputs: Array, training: bool, workspace: Workspace
    ) -> tuple[Array, Backward]:
        (x,) = inputs

        def backward(dy: Array, *, need_dx: bool = True) -> tuple[Array, ...]:
            self.gain.grad += self.gain_error * (dy * x).sum(axis=1)
            self.offset.grad += self.offset_error * dy.sum(axis=1)
            return (self.input_error * dy * self.gain.value[:, None],)

        return self.gain.value[:, None] * x + self.offset.value[:, None], backward

    def emit(self, g: Any, *inputs: str) -> str:
        raise NotImplementedError

    def output_shape(self, *shapes: Shape) -> Shape:
        return shapes[0]

    def params(self) -> dict[str, Param]:
        return {"gain": self.gain, "offset": self.offset}


def check(layer: Layer, seed: int = 0) -> None:
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((5, 4), np.float32)
    check_gradients(sequential([layer], Input("x", (4,))), rows, rng=rng)


@pytest.mark.parametrize("seed", range(20))
def test_right_gradients_pass_for_any_directions(seed: int) -> None:
    check(Affine(), seed)


@pytest.mark.parametrize("factor", [1.001, 0.999, -1.0, 0.0, np.nan])
@pytest.mark.parametrize(
    ("error", "name"),
    [("gain_error", "affine_1.gain"), ("offset_error", "affine_1.offset"), ("input_error", "x")],
)
@pytest.mark.parametrize("seed", range(5))
def test_one_wrong_gradient_fails_and_is_named(
    error: str, name: str, factor: float, seed: int
) -> None:
    with pytest.raises(AssertionError, match=f"wrong gradient of '{name}'"):
        check(Affine(**{error: factor}), seed)


def test_the_message_says_both_values_and_their_ratio() -> None:
    with pytest.raises(AssertionError, match=r"backward says .*, a central difference .*1\.001"):
        check(Affine(gain_error=1.001))


def test_every_input_of_a_graph_is_checked() -> None:
    nodes = [Node("a", Affine(), ("x",)), Node("b", Affine(), ("a",))]
    network = Network([Input("x", (4,))], nodes, {"y": "b"})
    rng = np.random.default_rng(0)
    check_gradients(network, rng.standard_normal((3, 4)), rng=rng)
    check_gradients(network, rng.standard_normal((3, 4)), rng=rng, until="a")


def test_random_masks_are_the_same_in_every_pass() -> None:
    layers = [Linear(4, 6), Dropout(0.5), Tanh(), Linear(6, 2)]
    rng = np.random.default_rng(0)
    network = sequential(layers, Input("x", (4,))).initialize(rng)
    check_gradients(network, rng.standard_normal((5, 4)), rng=rng)


def test_the_network_and_the_rows_are_left_alone() -> None:
    rng = np.random.default_rng(0)
    network = sequential([Linear(4, 3)], Input("x", (4,))).initialize(rng)
    network.grad[...] = 7
    value, rows = network.value.copy(), rng.standard_normal((5, 4))
    before = rows.copy()
    check_gradients(network, rows, rng=rng)
    assert network.dtype == np.float32
    np.testing.assert_array_equal(network.value, value)
    np.testing.assert_array_equal(network.grad, 7)
    np.testing.assert_array_equal(rows, before)
