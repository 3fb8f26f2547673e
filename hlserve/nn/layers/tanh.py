"""Hyperbolic tangent."""

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
class Tanh(Layer):
    """y = tanh(x). Shapes: any, kept. ONNX: Tanh."""

    def forward(
        self, *inputs: Array, training: bool, workspace: Workspace
    ) -> tuple[Array, Backward]:
        """See Layer."""
        (x,) = inputs
        y = np.tanh(x, out=workspace.empty("y", x.shape))

        def backward(dy: Array, *, need_dx: bool = True) -> tuple[Array, ...]:
            slope = np.multiply(y, y, out=workspace.scratch("slope", y.shape))
            np.subtract(1, slope, out=slope)
            return (np.multiply(dy, slope, out=dy),)

        return y, backward

    def emit(self, g: GraphBuilder, *inputs: str) -> str:
        """See Layer."""
        return g.node("Tanh", inputs)

    def output_shape(self, *shapes: Shape) -> Shape:
        """See Layer."""
        return only_shape("Tanh", shapes)
