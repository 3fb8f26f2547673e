"""Sigmoid linear unit, also called swish."""

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
class SiLU(Layer):
    """y = x / (1 + exp(-x)) (Elfwing et al. 2017, arXiv:1702.03118, equation 5).

    Shapes: any, kept. ONNX: Sigmoid and Mul (Swish comes with opset 24).
    """

    def forward(
        self, *inputs: Array, training: bool, workspace: Workspace
    ) -> tuple[Array, Backward]:
        """See Layer."""
        (x,) = inputs
        gate = np.negative(x, out=workspace.empty("gate", x.shape))
        with np.errstate(over="ignore"):  # exp(-x) = inf is right: the gate becomes exactly 0
            np.exp(gate, out=gate)
        gate += 1
        np.reciprocal(gate, out=gate)
        y = np.multiply(x, gate, out=workspace.empty("y", x.shape))

        def backward(dy: Array, *, need_dx: bool = True) -> tuple[Array, ...]:
            slope = np.subtract(1, gate, out=workspace.scratch("slope", x.shape))
            slope *= y  # x gate (1 - gate)
            slope += gate
            return (np.multiply(dy, slope, out=dy),)

        return y, backward

    def emit(self, g: GraphBuilder, *inputs: str) -> str:
        """See Layer."""
        return g.node("Mul", [*inputs, g.node("Sigmoid", inputs)])

    def output_shape(self, *shapes: Shape) -> Shape:
        """See Layer."""
        return only_shape("SiLU", shapes)
