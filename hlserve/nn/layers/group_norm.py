"""Normalization over groups of channels, or over each channel by itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self, final

import numpy as np

from hlserve.errors import ConfigError
from hlserve.nn.channels import ChannelFlow, Channels
from hlserve.nn.graph_builder import GraphBuilder
from hlserve.nn.layer import Backward, Layer, Shape, only_shape
from hlserve.nn.layers.contiguous import c_contiguous
from hlserve.nn.param import Array, Param
from hlserve.nn.workspace import Workspace


@final
@dataclass(eq=False)
class GroupNorm(Layer):
    """y = scale (x - mean) / sqrt(variance + epsilon) + bias, row by row.

    Mean and variance, the biased one, are over all places of the channels of one group; scale
    and bias (channels,). As many groups as channels are instance normalization. Shapes: x
    (batch, channels, length) or (batch, channels, height, width), kept. Source: Wu & He 2018,
    arXiv:1803.08494. ONNX: InstanceNormalization between two Reshapes, Mul, Add.
    """

    groups: int
    channels: int
    epsilon: float = 1e-5
    scale: Param = field(init=False)
    bias: Param = field(init=False)

    def __post_init__(self) -> None:
        self.epsilon = float(self.epsilon)
        is_split = 1 <= self.groups <= self.channels and self.channels % self.groups == 0
        if not is_split or not self.epsilon > 0:
            raise ConfigError(
                f"groups (={self.groups}) must be at least 1 and divide channels "
                f"(={self.channels}), and epsilon (={self.epsilon}) be above 0"
            )
        self.scale = Param(np.ones(self.channels, np.float32), out_axis=0)
        self.bias = Param(np.zeros(self.channels, np.float32), out_axis=0)

    def forward(
        self, *inputs: Array, training: bool, workspace: Workspace
    ) -> tuple[Array, Backward]:
        """See Layer."""
        x = c_contiguous(inputs[0], "x", workspace)
        grouped = (self.groups, -1, x.shape[-1]) if x.size else (self.groups, 0, x.shape[-1])
        n = max(1, x[..., :1].size // self.groups)
        normal = workspace.empty("normal", x.shape)
        inverse = workspace.empty("inverse", (self.groups, 1, x.shape[-1]))
        xs, normals = x.reshape(grouped), normal.reshape(grouped)
        mean = _mean(xs, workspace.scratch("mean", inverse.shape), n)
        np.subtract(xs, mean, out=normals)
        squares = np.multiply(normals, normals, out=workspace.scratch("product", xs.shape))
        _mean(squares, inverse, n)
        inverse += self.epsilon
        np.reciprocal(np.sqrt(inverse, out=inverse), out=inverse)
        normals *= inverse
        y = np.multiply(normal, _spread(self.scale.value, x), out=workspace.empty("y", x.shape))
        y += _spread(self.bias.value, x)

        def backward(dy: Array, *, need_dx: bool = True) -> tuple[Array, ...]:
            dx = c_contiguous(dy, "dy", workspace)
            others = tuple(range(1, x.ndim))
            product = np.multiply(dx, normal, out=workspace.scratch("product", x.shape))
            self.scale.grad += np.add.reduce(product, axis=others)
            self.bias.grad += np.add.reduce(dx, axis=others)
            # dx = inverse (g - mean(g) - normal mean(g normal)) with g = scale dy
            np.multiply(dx, _spread(self.scale.value, x), out=dx)
            gs, products = dx.reshape(grouped), product.reshape(grouped)
            np.multiply(gs, normals, out=products)
            slant = _mean(products, workspace.scratch("slant", inverse.shape), n)
            np.multiply(normals, slant, out=products)
            gs -= _mean(gs, workspace.scratch("mean", inverse.shape), n)
            gs -= products
            gs *= inverse
            return (dx,)

        return y, backward

    def emit(self, g: GraphBuilder, *inputs: str) -> str:
        """See Layer."""
        if self.groups == self.channels:
            operands = [*inputs, g.param(self.scale), g.param(self.bias)]
            return g.node("InstanceNormalization", operands, epsilon=self.epsilon)
        shape = g.row_shapes[inputs[0]]
        grouped = g.constant(np.array([0, self.groups, -1], np.int64), "grouped")
        ones = g.constant(np.ones(self.groups, np.float32), "ones")
        zeros = g.constant(np.zeros(self.groups, np.float32), "zeros")
        normal = g.node(
            "InstanceNormalization",
            [g.node("Reshape", [*inputs, grouped]), ones, zeros],
            epsilon=self.epsilon,
        )
        y = g.node("Reshape", [normal, g.constant(np.array([0, *shape], np.int64), "shape")])
        along = g.constant(np.array([-1, *(1 for _ in shape[1:])], np.int64), "along")
        scale, bias = (g.node("Reshape", [g.param(p), along]) for p in self.params().values())
        return g.node("Add", [g.node("Mul", [y, scale]), bias])

    def output_shape(self, *shapes: Shape) -> Shape:
        """See Layer."""
        shape = only_shape("GroupNorm", shapes)
        if len(shape) not in (2, 3) or shape[0] != self.channels:
            raise ConfigError(
                f"GroupNorm expects rows of shape ({self.channels}, length) or ({self.channels}, "
                f"height, width), got {shape}"
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
        """See Layer; where every channel is a group, it stays one."""
        channels = len(arrays["scale"])
        groups = channels if self.groups == self.channels else self.groups
        layer = type(self)(groups, channels, self.epsilon)
        layer.scale = self.scale.with_value(arrays["scale"])
        layer.bias = self.bias.with_value(arrays["bias"])
        return layer

    def channel_flow(
        self, flow: ChannelFlow, inputs: Sequence[Channels], shapes: Sequence[Shape]
    ) -> Channels:
        """A channel may go only where it is a group of its own."""
        units = flow.along(inputs[0], 0, self.channels)
        if self.groups < self.channels or self.groups == 1:
            flow.protect(units)
        for param in self.params().values():
            flow.bind(param, 0, units, is_producer=False)
        return Channels(units)


def _mean(x: Array, out: Array, n: int) -> Array:
    """Over the places of a group, which keep an axis of one."""
    np.add.reduce(x, axis=1, keepdims=True, out=out)
    return np.multiply(out, 1 / n, out=out)


def _spread(value: Array, x: Array) -> Array:
    """One number a channel beside x (channels, ..., batch)."""
    return value.reshape(-1, *(1,) * (x.ndim - 1))
