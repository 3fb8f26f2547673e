"""Hard swish, SiLU from straight pieces."""

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
class HardSwish(Layer):
    """y = x min(max(x / 6 + 1/2, 0), 1) (Howard et al. 2019, arXiv:1905.02244, section 5.2).

    The gradient at -3 is 0 and at 3 is 1. Shapes: any, kept. ONNX: HardSwish.
    """

    def forward(
        self, *inputs: Array, training: bool, workspace: Workspace
    ) -> tuple[Array, Backward]:
        """See Layer."""
        (x,) = inputs
        gate = np.multiply(x, 1 / 6, out=workspace.empty("gate", x.shape))
        gate += 0.5
        np.clip(gate, 0, 1, out=gate)
        y = np.multiply(x, gate, out=workspace.empty("y", x.shape))

        def backward(dy: Array, *, need_dx: bool = True) -> tuple[Array, ...]:
            # Between the kinks the slope is x / 3 + 1/2 = 2 gate - 1/2, beyond them the gate.
            slope = np.multiply(gate, 2, out=workspace.scratch("slope", x.shape))
            slope -= 0.5
            is_flat = workspace.scratch("is_flat", x.shape, np.bool_)
            for limit in (0, 1):
                np.copyto(slope, limit, where=np.equal(gate, limit, out=is_flat))
            return (np.multiply(dy, slope, out=dy),)

        return y, backward

    def emit(self, g: GraphBuilder, *inputs: str) -> str:
        """See Layer."""
        return g.node("HardSwish", inputs)

    def output_shape(self, *shapes: Shape) -> Shape:
        """See Layer."""
        return only_shape("HardSwish", shapes)
