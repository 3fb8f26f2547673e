"""Softplus, a smooth ReLU."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np

from hlserve.nn.graph_builder import GraphBuilder
from hlserve.nn.layer import Backward, Layer, Shape, only_shape
from hlserve.nn.param import Array
from hlserve.nn.workspace import Workspace


@final
@dataclass(eq=False)
class Softplus(Layer):
    """y = log(1 + exp(x)), computed as max(x, 0) + log(1 + exp(-|x|)), which cannot overflow.

    Shapes: any, kept. ONNX: Softplus. Source: Dugas et al. 2000.
    """

    def forward(
        self, *inputs: Array, training: bool, workspace: Workspace
    ) -> tuple[Array, Backward]:
        """See Layer."""
        (x,) = inputs
        y = np.abs(x, out=workspace.empty("y", x.shape))
        np.negative(y, out=y)
        np.exp(y, out=y)
        np.log1p(y, out=y)
        y += np.maximum(x, 0, out=workspace.scratch("positive", x.shape))

        def backward(dy: Array, *, need_dx: bool = True) -> tuple[Array, ...]:
            # The logistic function of x, from y without losing small values: 1 - exp(-y).
            slope = np.negative(y, out=workspace.scratch("slope", y.shape))
            np.expm1(slope, out=slope)
            dx = np.multiply(dy, slope, out=dy)
            return (np.negative(dx, out=dx),)

        return y, backward

    def emit(self, g: GraphBuilder, *inputs: str) -> str:
        """See Layer."""
        return g.node("Softplus", inputs)

    def output_shape(self, *shapes: Shape) -> Shape:
        """See Layer."""
        return only_shape("Softplus", shapes)
