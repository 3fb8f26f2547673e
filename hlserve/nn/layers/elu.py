"""Exponential linear unit."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import numpy as np

from hlserve.errors import ConfigError
from hlserve.nn.graph_builder import GraphBuilder
from hlserve.nn.layer import Backward, Layer, Shape, only_shape
from hlserve.nn.param import Array
from hlserve.nn.workspace import Workspace


@final
@dataclass(eq=False)
class ELU(Layer):
    """y = x above 0, alpha (exp(x) - 1) below (Clevert et al. 2015, arXiv:1511.07289).

    The gradient at 0 is ``alpha``. Shapes: any, kept. ONNX: Elu.
    """

    alpha: float = 1.0

    def __post_init__(self) -> None:
        self.alpha = float(self.alpha)
        if not 0 < self.alpha < math.inf:
            raise ConfigError(f"alpha (={self.alpha}) must be above 0 and finite")

    def forward(
        self, *inputs: Array, training: bool, workspace: Workspace
    ) -> tuple[Array, Backward]:
        """See Layer."""
        (x,) = inputs
        y = np.minimum(x, 0, out=workspace.empty("y", x.shape))
        np.expm1(y, out=y)
        y *= self.alpha
        y += np.maximum(x, 0, out=workspace.scratch("positive", x.shape))

        def backward(dy: Array, *, need_dx: bool = True) -> tuple[Array, ...]:
            # min(y, 0) + (alpha below, 1 above), which is faster than a choice number by number
            slope = workspace.scratch("slope", y.shape)
            is_open = np.greater(y, 0, out=workspace.scratch("is_open", y.shape, np.bool_))
            np.multiply(is_open, 1 - self.alpha, out=slope, dtype=slope.dtype)
            slope += self.alpha
            slope += np.minimum(y, 0, out=workspace.scratch("negative", y.shape))
            return (np.multiply(dy, slope, out=dy),)

        return y, backward

    def emit(self, g: GraphBuilder, *inputs: str) -> str:
        """See Layer."""
        return g.node("Elu", inputs, alpha=self.alpha)

    def output_shape(self, *shapes: Shape) -> Shape:
        """See Layer."""
        return only_shape("ELU", shapes)
