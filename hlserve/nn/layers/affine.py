"""A factor and a shift for every channel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self, final

import numpy as np

from hlserve.errors import ConfigError
from hlserve.nn.channels import ChannelFlow, Channels
from hlserve.nn.graph_builder import GraphBuilder
from hlserve.nn.layer import Backward, Layer, Shape, only_shape
from hlserve.nn.param import Array, Param
from hlserve.nn.workspace import Workspace


@final
@dataclass(eq=False)
class Affine(Layer):
    """y = scale x + bias, both trained, one of each a channel.

    Shapes: any, kept; scale and bias (channels,). The channels lie on ``axis`` of a row: 0 in
    (features,), (channels, length) and (channels, height, width), 1 in (time, features). It is
    what a normalization by fixed numbers leaves, and the layer scale of Touvron et al. 2021,
    arXiv:2103.17239, section 3. ONNX: Mul, Add.
    """

    channels: int
    axis: int = 0
    scale: Param = field(init=False)
    bias: Param = field(init=False)

    def __post_init__(self) -> None:
        if self.channels < 1 or self.axis < 0:
            raise ConfigError(
                f"channels (={self.channels}) must be at least 1 and axis (={self.axis}) not "
                "below 0"
            )
        self.scale = Param(np.ones(self.channels, np.float32), out_axis=0)
        self.bias = Param(np.zeros(self.channels, np.float32), out_axis=0)

    def forward(
        self, *inputs: Array, training: bool, workspace: Workspace
    ) -> tuple[Array, Backward]:
        """See Layer."""
        (x,) = inputs
        along = self._along(x.ndim)
        scale = self.scale.value.reshape(along)
        y = np.multiply(x, scale, out=workspace.empty("y", x.shape))
        y += self.bias.value.reshape(along)

        def backward(dy: Array, *, need_dx: bool = True) -> tuple[Array, ...]:
            others = tuple(i for i in range(x.ndim) if i != self.axis)
            product = np.multiply(dy, x, out=workspace.scratch("product", x.shape))
            self.scale.grad += np.add.reduce(product, axis=others)
            self.bias.grad += np.add.reduce(dy, axis=others)
            return (np.multiply(dy, scale, out=dy),)

        return y, backward

    def emit(self, g: GraphBuilder, *inputs: str) -> str:
        """See Layer."""
        along = self._along(len(g.row_shapes[inputs[0]]) + 1)[:-1]
        shape = g.constant(np.array(along, np.int64), "shape")
        scale, bias = (
            g.node("Reshape", [g.param(param), shape]) for param in self.params().values()
        )
        return g.node("Add", [g.node("Mul", [*inputs, scale]), bias])

    def output_shape(self, *shapes: Shape) -> Shape:
        """See Layer."""
        shape = only_shape("Affine", shapes)
        if shape[self.axis : self.axis + 1] != (self.channels,):
            raise ConfigError(
                f"Affine expects rows with {self.channels} channels on axis {self.axis}, got "
                f"{shape}"
            )
        return shape

    def params(self) -> dict[str, Param]:
        """See Layer."""
        return {"scale": self.scale, "bias": self.bias}

    def initialize(self, rng: np.random.Generator) -> None:
        """Scale one, bias zero."""
        self.scale.value[...] = 1
        self.bias.value[...] = 0

    def with_arrays(self, arrays: Mapping[str, Array]) -> Self:
        """See Layer."""
        layer = type(self)(len(arrays["scale"]), self.axis)
        layer.scale = self.scale.with_value(arrays["scale"])
        layer.bias = self.bias.with_value(arrays["bias"])
        return layer

    def channel_flow(
        self, flow: ChannelFlow, inputs: Sequence[Channels], shapes: Sequence[Shape]
    ) -> Channels:
        """Scale and bias go with their channel."""
        units = flow.along(inputs[0], self.axis, self.channels)
        for param in self.params().values():
            flow.bind(param, 0, units, is_producer=False)
        return inputs[0]

    def _along(self, n_axes: int) -> tuple[int, ...]:
        """The shape of the parameters beside an array of so many axes, the batch among them."""
        return tuple(self.channels if i == self.axis else 1 for i in range(n_axes))
