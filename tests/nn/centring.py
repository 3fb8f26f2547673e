"""A layer with a running statistic, as small as one can be."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import final

import numpy as np

from hlserve.nn.graph_builder import GraphBuilder
from hlserve.nn.layer import Backward, Layer, Shape
from hlserve.nn.param import Array, Param
from hlserve.nn.workspace import Workspace


@final
@dataclass(eq=False)
class Centring(Layer):
    """y = x - mean; of the batch in training, the running mean in prediction."""

    features: int
    mean: Param = field(init=False)

    def __post_init__(self) -> None:
        self.mean = Param(np.zeros(self.features, np.float32), is_trained=False)

    def forward(
        self, *inputs: Array, training: bool, workspace: Workspace
    ) -> tuple[Array, Backward]:
        (x,) = inputs
        mean = x.mean(axis=1) if training else self.mean.value
        if training:
            self.mean.value += 0.1 * (mean - self.mean.value)

        def backward(dy: Array, *, need_dx: bool = True) -> tuple[Array, ...]:
            return (dy - dy.mean(axis=1, keepdims=True),)

        return x - mean[:, np.newaxis], backward

    def emit(self, g: GraphBuilder, *inputs: str) -> str:
        return g.node("Sub", [*inputs, g.param(self.mean)])

    def output_shape(self, *shapes: Shape) -> Shape:
        return shapes[0]

    def params(self) -> dict[str, Param]:
        return {"mean": self.mean}
