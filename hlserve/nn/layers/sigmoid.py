"""Logistic function."""

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
class Sigmoid(Layer):
    """y = 1 / (1 + exp(-x)). Shapes: any, kept. ONNX: Sigmoid."""

    def forward(
        self, *inputs: Array, training: bool, workspace: Workspace
    ) -> tuple[Array, Backward]:
        """See Layer."""
        (x,) = inputs
        y = np.negative(x, out=workspace.empty("y", x.shape))
        with np.errstate(over="ignore"):  # exp(-x) = inf is right: y becomes exactly 0
            np.exp(y, out=y)
        np.add(y, 1, out=y)
        np.reciprocal(y, out=y)

        def backward(dy: Array, *, need_dx: bool = True) -> tuple[Array, ...]:
            slope = np.subtract(1, y, out=workspace.scratch("slope", y.shape))
            np.multiply(slope, y, out=slope)
            return (np.multiply(dy, slope, out=dy),)

        return y, backward

    def emit(self, g: GraphBuilder, *inputs: str) -> str:
        """See Layer."""
        return g.node("Sigmoid", inputs)

    def output_shape(self, *shapes: Shape) -> Shape:
        """See Layer."""
        return only_shape("Sigmoid", shapes)
