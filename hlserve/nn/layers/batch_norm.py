"""Batch normalization."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Self, final

import numpy as np

from hlserve.errors import ConfigError
from hlserve.nn.channels import ChannelFlow, Channels
from hlserve.nn.graph_builder import GraphBuilder
from hlserve.nn.layer import Backward, Layer, Shape
from hlserve.nn.layers.contiguous import c_contiguous
from hlserve.nn.param import Array, Param
from hlserve.nn.workspace import Workspace

# Channels are taken in blocks of about this many bytes, so that what one pass over a block has
# read is still in the cache for the next.
_BLOCK_BYTES = 1 << 19


@final
@dataclass(eq=False)
class BatchNorm(Layer):
    """y = gamma (x - mean) / sqrt(variance + epsilon) + beta, channel by channel.

    In training mean and variance are those of the batch (and of all places), and the running
    ones move towards them: running += momentum (batch - running), the variance taken unbiased.
    In prediction they are the running ones.

    Shapes: x (batch, channels), (batch, channels, length) or (batch, channels, height, width),
    kept. A batch that holds one value a channel has no unbiased variance and an empty one has
    neither: the running ones stay as they are then. ONNX: BatchNormalization.

    Source: Ioffe & Szegedy 2015, arXiv:1502.03167, algorithm 1; momentum as PyTorch has it, 1
    minus that of ONNX.
    """

    channels: int
    momentum: float = 0.1
    epsilon: float = 1e-5
    gamma: Param = field(init=False)
    beta: Param = field(init=False)
    running_mean: Param = field(init=False)
    running_variance: Param = field(init=False)

    def __post_init__(self) -> None:
        if self.channels < 1 or not 0 < self.momentum <= 1 or not self.epsilon > 0:
            raise ConfigError(
                f"channels (={self.channels}) must be at least 1, momentum (={self.momentum}) "
                f"above 0 and up to 1, and epsilon (={self.epsilon}) above 0"
            )
        zeros, ones = np.zeros(self.channels, np.float32), np.ones(self.channels, np.float32)
        self.gamma, self.beta = Param(ones, out_axis=0), Param(zeros, out_axis=0)
        self.running_mean = Param(zeros.copy(), out_axis=0, is_trained=False)
        self.running_variance = Param(ones.copy(), out_axis=0, is_trained=False)

    def forward(
        self, *inputs: Array, training: bool, workspace: Workspace
    ) -> tuple[Array, Backward]:
        """See Layer."""
        x = c_contiguous(inputs[0], "x", workspace)
        y = workspace.empty("y", x.shape)
        if training:
            return y, self._trained(_by_channel(x), _by_channel(y), workspace)
        factor = self.gamma.value * _inverse_deviation(self.running_variance.value, self.epsilon)
        shift = self.beta.value - self.running_mean.value * factor
        for some, xs, ys in _blocks(_by_channel(x), _by_channel(y)):
            np.multiply(xs, factor[some, None], out=ys)
            np.add(ys, shift[some, None], out=ys)
        return y, self._fixed_backward(_by_channel(x), factor, workspace)

    def emit(self, g: GraphBuilder, *inputs: str) -> str:
        """See Layer."""
        params = [g.param(param) for param in self.params().values()]
        return g.node("BatchNormalization", [*inputs, *params], epsilon=self.epsilon)

    def output_shape(self, *shapes: Shape) -> Shape:
        """See Layer."""
        if len(shapes) != 1 or len(shapes[0]) not in (1, 2, 3) or shapes[0][0] != self.channels:
            raise ConfigError(
                f"BatchNorm expects rows of shape ({self.channels},), ({self.channels}, length) "
                f"or ({self.channels}, height, width), got {', '.join(map(str, shapes))}"
            )
        return shapes[0]

    def params(self) -> dict[str, Param]:
        """See Layer."""
        return {
            "gamma": self.gamma,
            "beta": self.beta,
            "running_mean": self.running_mean,
            "running_variance": self.running_variance,
        }

    def initialize(self, rng: np.random.Generator) -> None:
        """Changes nothing but scale: gamma and the running variance 1, beta and mean 0."""
        for param, value in zip(self.params().values(), (1, 0, 0, 1), strict=True):
            param.value[...] = value

    def with_arrays(self, arrays: Mapping[str, Array]) -> Self:
        """See Layer."""
        layer = type(self)(len(arrays["gamma"]), self.momentum, self.epsilon)
        for name, param in self.params().items():
            setattr(layer, name, param.with_value(arrays[name]))
        return layer

    def channel_flow(
        self, flow: ChannelFlow, inputs: Sequence[Channels], shapes: Sequence[Shape]
    ) -> Channels:
        """The units stay; every parameter follows them."""
        units = flow.along(inputs[0], 0, self.channels)
        for param in self.params().values():
            flow.bind(param, 0, units, is_producer=False)
        return inputs[0]

    # ----- below

    def _trained(self, x: Array, y: Array, workspace: Workspace) -> Backward:
        """Fills y from the batch's statistics; answers the way back."""
        mean, variance, factor = (np.empty(self.channels, x.dtype) for _ in range(3))
        n, ones = x.shape[1], _ones(x, workspace)
        gamma, beta = self.gamma.value, self.beta.value
        for some, xs, ys in _blocks(x, y):
            mean[some] = np.matmul(xs, ones) / max(1, n)
            around = _centered(xs, mean[some], workspace)
            variance[some] = np.vecdot(around, around) / max(1, n)
            factor[some] = _inverse_deviation(variance[some], self.epsilon)
            np.multiply(around, (gamma[some] * factor[some])[:, None], out=ys)
            np.add(ys, beta[some, None], out=ys)
        self._move_running(mean, variance, n)
        return self._trained_backward(x, mean, factor, workspace)

    def _move_running(self, mean: Array, variance: Array, n: int) -> None:
        if n > 1:
            self.running_mean.value += self.momentum * (mean - self.running_mean.value)
            unbiased = variance * (n / (n - 1))
            self.running_variance.value += self.momentum * (unbiased - self.running_variance.value)

    def _trained_backward(
        self, x: Array, mean: Array, factor: Array, workspace: Workspace
    ) -> Backward:
        """The way back through y = gamma factor (x - mean) + beta, both functions of x.

        dx = gamma factor (dy - mean(dy) - (x - mean) factor^2 mean(dy (x - mean))).
        """
        n = max(1, x.shape[1])

        def backward(dy: Array, *, need_dx: bool = True) -> tuple[Array, ...]:
            dx = c_contiguous(dy, "dy", workspace)
            ones = _ones(x, workspace)
            for some, xs, ds in _blocks(x, _by_channel(dx)):
                around = _centered(xs, mean[some], workspace)
                total, along = np.matmul(ds, ones), np.vecdot(ds, around)
                self.beta.grad[some] += total
                self.gamma.grad[some] += along * factor[some]
                if need_dx:
                    scale = self.gamma.value[some] * factor[some]
                    np.multiply(
                        around, (scale * factor[some] ** 2 * along / n)[:, None], out=around
                    )
                    np.add(around, (scale * total / n)[:, None], out=around)
                    np.multiply(ds, scale[:, None], out=ds)
                    np.subtract(ds, around, out=ds)
            return (dx,) if need_dx else ()

        return backward

    def _fixed_backward(self, x: Array, factor: Array, workspace: Workspace) -> Backward:
        """The way back through y = factor (x - running mean) + beta."""
        mean = self.running_mean.value.copy()
        inverse = _inverse_deviation(self.running_variance.value, self.epsilon)

        def backward(dy: Array, *, need_dx: bool = True) -> tuple[Array, ...]:
            dx = c_contiguous(dy, "dy", workspace)
            ds = _by_channel(dx)
            total, along = np.matmul(ds, _ones(ds, workspace)), np.vecdot(ds, x)
            self.beta.grad += total
            self.gamma.grad += (along - mean * total) * inverse
            np.multiply(ds, factor[:, None], out=ds)
            return (dx,) if need_dx else ()

        return backward


def _by_channel(x: Array) -> Array:
    """(channels, places * batch), a view."""
    return x.reshape(len(x), prod(x.shape[1:]))


def _blocks(x: Array, y: Array) -> Iterator[tuple[slice, Array, Array]]:
    channels = len(x)
    step = max(1, _BLOCK_BYTES * channels // max(1, x.nbytes))
    for first in range(0, channels, step):
        some = slice(first, first + step)
        yield some, x[some], y[some]


def _centered(x: Array, mean: Array, workspace: Workspace) -> Array:
    """Kept nowhere: to subtract again is cheaper than to fetch the result from memory."""
    return np.subtract(x, mean[:, None], out=workspace.scratch("centered", x.shape))


def _ones(x: Array, workspace: Workspace) -> Array:
    """For sums over a row of ``x`` as a product, which takes a quarter of the time of a sum."""
    ones = workspace.scratch("ones", x.shape[1:])
    ones.fill(1)
    return ones


def _inverse_deviation(variance: Array, epsilon: float) -> Array:
    return np.asarray(1 / np.sqrt(variance + epsilon), variance.dtype)
