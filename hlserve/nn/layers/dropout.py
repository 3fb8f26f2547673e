"""Dropout."""

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
class Dropout(Layer):
    """In training zeroes each value with probability ``rate`` and divides the rest by 1 - rate.

    Inverted dropout (Srivastava et al. 2014, section 10): in prediction it does nothing, and in
    ONNX it is no operator at all. The mask is drawn from the workspace's ``rng``. Shapes: any,
    kept.
    """

    rate: float

    def __post_init__(self) -> None:
        if not 0 <= self.rate < 1:
            raise ConfigError(f"rate (={self.rate}) must be at least 0 and below 1")

    def forward(
        self, *inputs: Array, training: bool, workspace: Workspace
    ) -> tuple[Array, Backward]:
        """See Layer.

        Raises:
            ConfigError: training without a random generator in the workspace.
        """
        (x,) = inputs
        if not training or self.rate == 0:
            return x, _unchanged
        factor = self._draw(x.shape, workspace)
        y = np.multiply(x, factor, out=workspace.empty("y", x.shape))

        def backward(dy: Array, *, need_dx: bool = True) -> tuple[Array, ...]:
            return (np.multiply(dy, factor, out=dy),)

        return y, backward

    def emit(self, g: GraphBuilder, *inputs: str) -> str:
        """See Layer."""
        return inputs[0]

    def output_shape(self, *shapes: Shape) -> Shape:
        """See Layer."""
        return only_shape("Dropout", shapes)

    def _draw(self, shape: Shape, workspace: Workspace) -> Array:
        """0 where a value is dropped, 1 / (1 - rate) elsewhere."""
        if workspace.rng is None:
            raise ConfigError(
                "Dropout needs random numbers in training: pass "
                "workspace=network.workspace(np.random.default_rng(seed))"
            )
        drawn = workspace.scratch("drawn", shape, np.float32)  # one draw for every dtype
        workspace.rng.random(dtype=np.float32, out=drawn)
        kept = workspace.scratch("kept", shape, np.bool_)
        np.greater_equal(drawn, self.rate, out=kept)
        factor = workspace.empty("factor", shape)
        return np.multiply(kept, 1 / (1 - self.rate), out=factor, dtype=workspace.dtype)


def _unchanged(dy: Array, *, need_dx: bool = True) -> tuple[Array, ...]:
    return (dy,)
