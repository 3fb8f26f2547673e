"""Numbers held between two limits."""

from __future__ import annotations

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
class Clip(Layer):
    """y = min(max(x, low), high); the gradient at the limits is 0.

    From 0 to 6, as by default, it is ReLU6 (Howard et al. 2017, arXiv:1704.04861). Shapes: any,
    kept. ONNX: Clip.
    """

    low: float = 0.0
    high: float = 6.0

    def __post_init__(self) -> None:
        self.low, self.high = float(self.low), float(self.high)
        if not (np.isfinite([self.low, self.high]).all() and self.low < self.high):
            raise ConfigError(
                f"low (={self.low}) and high (={self.high}) must be finite, low the smaller one"
            )

    def forward(
        self, *inputs: Array, training: bool, workspace: Workspace
    ) -> tuple[Array, Backward]:
        """See Layer."""
        (x,) = inputs
        y = np.clip(x, self.low, self.high, out=workspace.empty("y", x.shape))

        def backward(dy: Array, *, need_dx: bool = True) -> tuple[Array, ...]:
            is_open = np.greater(x, self.low, out=workspace.scratch("is_open", x.shape, np.bool_))
            is_below = np.less(x, self.high, out=workspace.scratch("is_below", x.shape, np.bool_))
            np.logical_and(is_open, is_below, out=is_open)
            return (np.multiply(dy, is_open, out=dy),)

        return y, backward

    def emit(self, g: GraphBuilder, *inputs: str) -> str:
        """See Layer."""
        low = g.constant(np.array(self.low, np.float32), "low")
        return g.node("Clip", [*inputs, low, g.constant(np.array(self.high, np.float32), "high")])

    def output_shape(self, *shapes: Shape) -> Shape:
        """See Layer."""
        return only_shape("Clip", shapes)
