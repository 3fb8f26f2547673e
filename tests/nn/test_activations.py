"""Activations at the edges: saturation, kinks, and the error function they need."""

from __future__ import annotations

import math

import numpy as np
import pytest

from hlserve.errors import ConfigError
from hlserve.nn.layer import Layer
from hlserve.nn.layers import ELU, GELU, HardSwish, LeakyReLU, PReLU, SiLU, Softplus
from hlserve.nn.layers.error_function import erf
from hlserve.nn.param import Array
from hlserve.nn.workspace import Workspace

LARGE = np.array([[-1e30, -1e4, -200, -80, 0, 80, 200, 1e4, 1e30]], np.float32)


def passes(layer: Layer, x: Array) -> tuple[Array, Array]:
    """Output and slope for batch-last x."""
    y, backward = layer.forward(x, training=True, workspace=Workspace(x.dtype))
    result = y.copy()
    return result, backward(np.ones_like(x))[0].copy()


# float32: the fit errs by 6e-8, the rest is rounding; float64: rounding of 40 terms.
@pytest.mark.parametrize(("dtype", "atol"), [(np.float32, 2e-7), (np.float64, 1e-14)])
def test_erf_equals_the_one_of_the_standard_library(dtype: type, atol: float) -> None:
    x = np.concatenate([np.linspace(-7, 7, 20_001), np.logspace(-30, 30, 61)]).astype(dtype)
    y = erf(x, out=np.empty_like(x), workspace=Workspace(dtype))
    np.testing.assert_allclose(y, [math.erf(v) for v in x.tolist()], rtol=0, atol=atol)


def test_erf_may_write_over_its_argument_and_knows_infinity() -> None:
    x = np.array([-np.inf, -1, -0.0, 0.0, 1, np.inf], np.float32)
    y = erf(x, out=x, workspace=Workspace())
    assert y is x
    np.testing.assert_allclose(y, [-1, -math.erf(1), 0, 0, math.erf(1), 1], rtol=0, atol=2e-7)


@pytest.mark.parametrize(
    ("layer", "below", "above_slope"),
    [
        (GELU(), 0, 1),
        (GELU("tanh"), 0, 1),
        (SiLU(), 0, 1),
        (Softplus(), 0, 1),
        (HardSwish(), 0, 1),
        (ELU(0.5), -0.5, 1),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Layer) else None,
)
def test_saturation_is_exact_and_without_a_warning(
    layer: Layer, below: float, above_slope: float
) -> None:
    y, slope = passes(layer, LARGE)
    np.testing.assert_allclose(y[0, :3], below, rtol=0, atol=1e-30)
    np.testing.assert_allclose(y[0, 6:], LARGE[0, 6:], rtol=1e-6)
    np.testing.assert_allclose(slope[0, :3], 0, rtol=0, atol=1e-30)
    np.testing.assert_array_equal(slope[0, 6:], above_slope)


def test_softplus_keeps_small_values_and_slopes() -> None:
    y, slope = passes(Softplus(), np.array([[-20, -40]], np.float32))
    np.testing.assert_allclose(y[0], np.exp([-20, -40]), rtol=1e-5)
    np.testing.assert_allclose(slope[0], np.exp([-20, -40]), rtol=1e-5)


@pytest.mark.parametrize(
    ("layer", "slopes"),
    [
        (LeakyReLU(0.1), [0.1, 0.1, 1]),
        (LeakyReLU(0.0), [0.0, 0.0, 1]),
        (PReLU(), [0.25, 0.25, 1]),
        (ELU(2.0), [2 * math.exp(-1), 2, 1]),
    ],
)
def test_at_zero_the_slope_is_the_one_from_below(layer: Layer, slopes: list[float]) -> None:
    np.testing.assert_allclose(passes(layer, np.array([[-1.0, 0.0, 1.0]]))[1][0], slopes)


def test_hard_swish_is_flat_at_its_kinks_on_the_outer_side() -> None:
    _, slope = passes(HardSwish(), np.array([[-3.0, 3.0]]))
    np.testing.assert_array_equal(slope[0], [0, 1])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LeakyReLU(-0.1), r"slope \(=-0.1\)"),
        (lambda: LeakyReLU(float("nan")), r"slope \(=nan\)"),
        (lambda: ELU(0), r"alpha \(=0.0\)"),
        (lambda: ELU(math.inf), r"alpha \(=inf\)"),
        (lambda: GELU("erf"), r"approximate \(='erf'\) must be one of"),  # type: ignore[arg-type]
        (lambda: PReLU(0), r"channels \(=0\)"),
        (lambda: PReLU(2, axis=2), r"axis \(=2\)"),
    ],
)
def test_constructors_refuse_what_cannot_work(make: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()  # type: ignore[operator]


def test_slopes_for_other_channels_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"3 channels on axis 0, got \(4, 2, 2\)"):
        PReLU(3).output_shape((4, 2, 2))
    with pytest.raises(ConfigError, match=r"3 channels on axis 1, got \(3,\)"):
        PReLU(3, axis=1).output_shape((3,))
