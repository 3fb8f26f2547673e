"""Gaussian error linear unit."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, final, get_args

import numpy as np

from hlserve.errors import ConfigError
from hlserve.nn.graph_builder import GraphBuilder
from hlserve.nn.layer import Backward, Layer, Shape, only_shape
from hlserve.nn.layers.error_function import erf
from hlserve.nn.param import Array
from hlserve.nn.workspace import Workspace

Approximate = Literal["none", "tanh"]

_SQRT_2_OVER_PI = math.sqrt(2 / math.pi)
_CUBIC = 0.044715  # Hendrycks & Gimpel 2016, section 2
_FLAT = 10.0  # from here on the tanh is 1 in float64 too; keeps 0 * inf out of its slope


@final
@dataclass(eq=False)
class GELU(Layer):
    """y = x P(X <= x) for a standard normal X (Hendrycks & Gimpel 2016, arXiv:1606.08415).

    P is (1 + erf(x / sqrt(2))) / 2, or with ``approximate="tanh"`` the paper's (1 +
    tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2. Shapes: any, kept. ONNX: Gelu.
    """

    approximate: Approximate = "none"

    def __post_init__(self) -> None:
        if self.approximate not in get_args(Approximate):
            raise ConfigError(
                f"approximate (={self.approximate!r}) must be one of {get_args(Approximate)}"
            )

    def forward(
        self, *inputs: Array, training: bool, workspace: Workspace
    ) -> tuple[Array, Backward]:
        """See Layer."""
        (x,) = inputs
        is_exact = self.approximate == "none"
        share = workspace.empty("share", x.shape)  # P(X <= x)
        if is_exact:
            np.multiply(x, math.sqrt(0.5), out=share)
            erf(share, out=share, workspace=workspace)
        else:
            _tanh_argument(x, share)
            np.tanh(share, out=share)
        share += 1
        share *= 0.5
        y = np.multiply(x, share, out=workspace.empty("y", x.shape))

        def backward(dy: Array, *, need_dx: bool = True) -> tuple[Array, ...]:
            slope = workspace.scratch("slope", x.shape)
            if is_exact:
                _density(x, slope)
            else:
                _tanh_density(x, share, slope, workspace)
            slope *= x
            slope += share
            return (np.multiply(dy, slope, out=dy),)

        return y, backward

    def emit(self, g: GraphBuilder, *inputs: str) -> str:
        """See Layer."""
        return g.node("Gelu", inputs, approximate=self.approximate)

    def output_shape(self, *shapes: Shape) -> Shape:
        """See Layer."""
        return only_shape("GELU", shapes)


def _density(x: Array, out: Array) -> None:
    """d/dx of the normal P: exp(-x^2 / 2) / sqrt(2 pi)."""
    with np.errstate(over="ignore"):  # x^2 = inf is right: the density becomes exactly 0
        np.multiply(x, x, out=out)
    out *= -0.5
    np.exp(out, out=out)
    out *= 1 / math.sqrt(2 * math.pi)


def _tanh_argument(x: Array, out: Array) -> None:
    with np.errstate(over="ignore"):  # tanh(inf) = 1 is right
        np.multiply(x, x, out=out)
        out *= _SQRT_2_OVER_PI * _CUBIC
        out += _SQRT_2_OVER_PI
        out *= x


def _tanh_density(x: Array, share: Array, out: Array, workspace: Workspace) -> None:
    """d/dx of P = (1 + tanh u) / 2: 2 P (1 - P) du/dx."""
    near = np.clip(x, -_FLAT, _FLAT, out=workspace.scratch("near", x.shape))
    np.multiply(near, near, out=out)
    out *= 6 * _SQRT_2_OVER_PI * _CUBIC
    out += 2 * _SQRT_2_OVER_PI
    out *= share
    out *= np.subtract(1, share, out=near)
