"""Layer normalization."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self, final

import numpy as np

from hlserve.errors import ConfigError
from hlserve.nn.channels import ChannelFlow, Channels
from hlserve.nn.graph_builder import GraphBuilder
from hlserve.nn.layer import Backward, Layer, Shape
from hlserve.nn.param import Array, Param
from hlserve.nn.workspace import Workspace


@final
@dataclass(eq=False)
class LayerNorm(Layer):
    """y = scale (x - mean) / sqrt(variance + epsilon) + bias over the features of every step.

    Shapes: x (batch, features) or (batch, ..., features), kept; scale and bias (features,).
    The variance is the biased one. Source: Ba et al. 2016, arXiv:1607.06450. ONNX:
    LayerNormalization with axis=-1.
    """

    features: int
    epsilon: float = 1e-5
    scale: Param = field(init=False)
    bias: Param = field(init=False)

    def __post_init__(self) -> None:
        self.epsilon = float(self.epsilon)
        if self.features < 1 or not self.epsilon > 0:
            raise ConfigError(
                f"features (={self.features}) must be at least 1 and epsilon (={self.epsilon}) "
                "above 0"
            )
        self.scale = Param(np.ones(self.features, np.float32), out_axis=0)
        self.bias = Param(np.zeros(self.features, np.float32), out_axis=0)

    def forward(
        self, *inputs: Array, training: bool, workspace: Workspace
    ) -> tuple[Array, Backward]:
        """See Layer."""
        (x,) = inputs
        scale, bias = self.scale, self.bias
        per_step = (*x.shape[:-2], 1, x.shape[-1])
        centred = workspace.empty("centred", x.shape)
        y = workspace.empty("y", x.shape)
        np.subtract(x, _mean(x, workspace.scratch("mean", per_step), workspace), out=centred)
        np.multiply(centred, centred, out=y)
        inverse = _mean(y, workspace.empty("inverse", per_step), workspace)
        inverse += self.epsilon
        np.reciprocal(np.sqrt(inverse, out=inverse), out=inverse)
        normal = np.multiply(centred, inverse, out=centred)
        np.multiply(normal, scale.value[:, None], out=y)
        y += bias.value[:, None]

        def backward(dy: Array, *, need_dx: bool = True) -> tuple[Array, ...]:
            product = np.multiply(dy, normal, out=workspace.scratch("product", x.shape))
            scale.grad += _sums(product, workspace)
            bias.grad += _sums(dy, workspace)
            if not need_dx:
                return ()
            # dx = inverse (g - mean(g) - normal mean(g normal)) with g = scale dy
            product *= scale.value[:, None]
            slant = _mean(product, workspace.scratch("slant", per_step), workspace)
            dx = np.multiply(dy, scale.value[:, None], out=dy)
            np.multiply(normal, slant, out=product)
            product += _mean(dx, workspace.scratch("mean", per_step), workspace)
            dx -= product
            dx *= inverse
            return (dx,)

        return y, backward

    def emit(self, g: GraphBuilder, *inputs: str) -> str:
        """See Layer."""
        operands = [*inputs, g.param(self.scale), g.param(self.bias)]
        return g.node("LayerNormalization", operands, axis=-1, epsilon=self.epsilon)

    def output_shape(self, *shapes: Shape) -> Shape:
        """See Layer."""
        if len(shapes) != 1 or shapes[0][-1:] != (self.features,):
            raise ConfigError(
                f"LayerNorm expects rows of shape ({self.features},) or (..., "
                f"{self.features}), got {', '.join(map(str, shapes))}"
            )
        return shapes[0]

    def params(self) -> dict[str, Param]:
        """See Layer."""
        return {"scale": self.scale, "bias": self.bias}

    def initialize(self, rng: np.random.Generator) -> None:
        """Scale one, bias zero."""
        self.scale.value[...] = 1
        self.bias.value[...] = 0

    def with_arrays(self, arrays: Mapping[str, Array]) -> Self:
        """See Layer."""
        layer = type(self)(len(arrays["scale"]), self.epsilon)
        layer.scale = self.scale.with_value(arrays["scale"])
        layer.bias = self.bias.with_value(arrays["bias"])
        return layer

    def channel_flow(
        self, flow: ChannelFlow, inputs: Sequence[Channels], shapes: Sequence[Shape]
    ) -> Channels:
        """No feature may go: mean and variance are over all of them."""
        flow.protect(inputs[0].ids)
        return inputs[0]


# Sums as products with ones take a fifth of the time of np.add.reduce.


def _mean(x: Array, out: Array, workspace: Workspace) -> Array:
    """Over the features, which keep an axis of one."""
    share = workspace.scratch("share", (1, x.shape[-2]))
    share.fill(1 / x.shape[-2])
    return np.matmul(share, x, out=out)


def _sums(x: Array, workspace: Workspace) -> Array:
    """Of every feature, over all steps and rows."""
    ones = workspace.scratch("ones", x.shape[-1:])
    ones.fill(1)
    sums = np.matmul(x, ones, out=workspace.scratch("sums", x.shape[:-1]))
    total: Array = sums.reshape(-1, x.shape[-2]).sum(axis=0)
    return total
