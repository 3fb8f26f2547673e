"""Hard sigmoid, the sigmoid from straight pieces."""

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
class HardSigmoid(Layer):
    """y = min(max(slope x + 1/2, 0), 1); the gradient where it bends is 0.

    The slope is 1/6 by default, as in Howard et al. 2019, arXiv:1905.02244, section 5.2; 0.2 is
    usual too. Shapes: any, kept. ONNX: HardSigmoid with beta 0.5.
    """

    slope: float = 1 / 6

    def __post_init__(self) -> None:
        self.slope = float(self.slope)
        if not 0 < self.slope < np.inf:
            raise ConfigError(f"slope (={self.slope}) must be above 0 and finite")

    def forward(
        self, *inputs: Array, training: bool, workspace: Workspace
    ) -> tuple[Array, Backward]:
        """See Layer."""
        (x,) = inputs
        y = np.multiply(x, self.slope, out=workspace.empty("y", x.shape))
        y += 0.5
        np.clip(y, 0, 1, out=y)

        def backward(dy: Array, *, need_dx: bool = True) -> tuple[Array, ...]:
            is_open = np.greater(y, 0, out=workspace.scratch("is_open", y.shape, np.bool_))
            is_below = np.less(y, 1, out=workspace.scratch("is_below", y.shape, np.bool_))
            np.logical_and(is_open, is_below, out=is_open)
            np.multiply(dy, is_open, out=dy)
            return (np.multiply(dy, self.slope, out=dy),)

        return y, backward

    def emit(self, g: GraphBuilder, *inputs: str) -> str:
        """See Layer."""
        return g.node("HardSigmoid", inputs, alpha=self.slope, beta=0.5)

    def output_shape(self, *shapes: Shape) -> Shape:
        """See Layer."""
        return only_shape("HardSigmoid", shapes)
