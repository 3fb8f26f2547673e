"""Rectified linear unit."""

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
class ReLU(Layer):
    """y = max(x, 0); the gradient at 0 is 0. Shapes: any, kept. ONNX: Relu."""

    def forward(
        self, *inputs: Array, training: bool, workspace: Workspace
    ) -> tuple[Array, Backward]:
        """See Layer."""
        (x,) = inputs
        y = workspace.empty("y", x.shape)
        # against an array of zeros NumPy's maximum takes about half the time of a scalar 0
        zeros = workspace.scratch("zeros", x.shape[2:] if x.ndim > 2 else x.shape[1:])
        zeros.fill(0)
        np.maximum(x, zeros, out=y)

        def backward(dy: Array, *, need_dx: bool = True) -> tuple[Array, ...]:
            is_open = np.greater(y, 0, out=workspace.scratch("is_open", y.shape, np.bool_))
            return (np.multiply(dy, is_open, out=dy),)

        return y, backward

    def emit(self, g: GraphBuilder, *inputs: str) -> str:
        """See Layer."""
        return g.node("Relu", inputs)

    def output_shape(self, *shapes: Shape) -> Shape:
        """See Layer."""
        return only_shape("ReLU", shapes)
