"""Fully connected layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Self, final

import numpy as np

from hlserve.errors import ConfigError
from hlserve.nn.channels import ChannelFlow, Channels
from hlserve.nn.graph_builder import GraphBuilder
from hlserve.nn.initializers import he_uniform
from hlserve.nn.layer import Backward, Layer, Shape
from hlserve.nn.param import Array, Param
from hlserve.nn.workspace import Workspace


@final
@dataclass(eq=False)
class Linear(Layer):
    """y = W x + b for every row, for every step of a sequence, for every place of an image.

    Shapes: x (batch, in_features) -> y (batch, out_features), or x (batch, time, in_features)
    -> y (batch, time, out_features), and so with more axes before the last; W (out_features,
    in_features). Without ``has_bias`` there is no b. ONNX: Gemm with transB=1; for more axes
    Transpose, MatMul and Add.
    """

    in_features: int
    out_features: int
    has_bias: bool = True
    weight: Param = field(init=False)
    bias: Param | None = field(init=False)

    def __post_init__(self) -> None:
        if self.in_features < 1 or self.out_features < 1:
            raise ConfigError(
                f"in_features (={self.in_features}) and out_features (={self.out_features}) "
                "must be at least 1"
            )
        shape = (self.out_features, self.in_features)
        self.weight = Param(np.zeros(shape, np.float32), out_axis=0, in_axis=1)
        zeros = np.zeros(self.out_features, np.float32)
        self.bias = Param(zeros, out_axis=0) if self.has_bias else None

    def forward(
        self, *inputs: Array, training: bool, workspace: Workspace
    ) -> tuple[Array, Backward]:
        """See Layer."""
        (x,) = inputs
        w = self.weight
        y = workspace.empty("y", (*x.shape[:-2], self.out_features, x.shape[-1]))
        np.matmul(w.value, x, out=y)  # of every step, where there are steps
        if self.bias is not None:
            y += self.bias.value[:, None]

        def backward(dy: Array, *, need_dx: bool = True) -> tuple[Array, ...]:
            self._add_gradients(
                _steps_as_rows(x, "x_rows", workspace),
                _steps_as_rows(dy, "dy_rows", workspace),
                workspace,
            )
            if not need_dx:
                return ()
            return (np.matmul(w.value.T, dy, out=workspace.empty("dx", x.shape)),)

        return y, backward

    def emit(self, g: GraphBuilder, *inputs: str) -> str:
        """See Layer."""
        bias = [] if self.bias is None else [g.param(self.bias)]
        if len(g.row_shapes[inputs[0]]) == 1:
            return g.node("Gemm", [*inputs, g.param(self.weight), *bias], transB=1)
        turned = g.node("Transpose", [g.param(self.weight)], perm=(1, 0))
        y = g.node("MatMul", [*inputs, turned])
        return g.node("Add", [y, *bias]) if bias else y

    def output_shape(self, *shapes: Shape) -> Shape:
        """See Layer."""
        if len(shapes) != 1 or shapes[0][-1:] != (self.in_features,):
            raise ConfigError(
                f"Linear expects rows of shape ({self.in_features},) or (..., "
                f"{self.in_features}), got {', '.join(map(str, shapes))}; "
                "put a Flatten before it or change in_features"
            )
        return (*shapes[0][:-1], self.out_features)

    def params(self) -> dict[str, Param]:
        """See Layer."""
        weight = {"weight": self.weight}
        return weight if self.bias is None else {**weight, "bias": self.bias}

    def initialize(self, rng: np.random.Generator) -> None:
        """He uniform weights (He et al. 2015), zero bias."""
        self.weight.value[...] = he_uniform(rng, self.weight.value.shape, fan_in=self.in_features)
        if self.bias is not None:
            self.bias.value[...] = 0

    def macs(self, *shapes: Shape) -> int:
        """See Layer."""
        return prod(shapes[0][:-1]) * self.in_features * self.out_features

    def with_arrays(self, arrays: Mapping[str, Array]) -> Self:
        """See Layer; a layer without bias gets one where ``arrays`` has it."""
        out_features, in_features = arrays["weight"].shape
        layer = type(self)(in_features, out_features, "bias" in arrays)
        layer.weight = self.weight.with_value(arrays["weight"])
        if layer.bias is not None:
            layer.bias = layer.bias.with_value(arrays["bias"])
        return layer

    def channel_flow(
        self, flow: ChannelFlow, inputs: Sequence[Channels], shapes: Sequence[Shape]
    ) -> Channels:
        """See Layer."""
        axis = len(shapes[0]) - 1
        read = flow.along(inputs[0], axis, self.in_features)
        units = flow.new(self.out_features)
        flow.bind(self.weight, 1, read, is_producer=False)
        flow.bind(self.weight, 0, units, is_producer=True)
        if self.bias is not None:
            flow.bind(self.bias, 0, units, is_producer=True)
        return Channels(units, axis)

    def _add_gradients(self, x: Array, dy: Array, workspace: Workspace) -> None:
        """Of the weight and the bias, for x (in_features, rows) and dy (out_features, rows)."""
        dw = workspace.scratch("dw", self.weight.value.shape)
        self.weight.grad += np.matmul(dy, x.T, out=dw)
        if self.bias is not None:
            ones = workspace.scratch("ones", dy.shape[1:])
            ones.fill(1)
            self.bias.grad += np.matmul(dy, ones)  # a quarter of the time of dy.sum(axis=1)


def _steps_as_rows(x: Array, key: str, workspace: Workspace) -> Array:
    """(..., features, batch) as (features, ... * batch), so that one product sums over all.

    Copied, which costs less than to sum a product a step; (features, batch) stays as it is.
    """
    if x.ndim == 2:
        return x
    features_first = np.moveaxis(x, -2, 0)
    rows = workspace.scratch(key, features_first.shape)
    np.copyto(rows, features_first)
    return rows.reshape(len(rows), prod(rows.shape[1:]))
