"""Convolution over one axis, such as time."""

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
from hlserve.nn.layers.contiguous import c_contiguous
from hlserve.nn.layers.convolution import Convolution, add_bias_gradient, check_channels
from hlserve.nn.layers.window import Pads, Window
from hlserve.nn.param import Array, Param
from hlserve.nn.workspace import Workspace


@final
@dataclass(eq=False)
class Conv1d(Layer):
    """Cross-correlation with zero padding, and a bias where ``has_bias``.

    Shapes: x (batch, in_channels, length) -> y (batch, out_channels, out_length) with out =
    floor((length + 2 padding - dilation (kernel - 1) - 1) / stride) + 1; W (out_channels,
    in_channels / groups, kernel). ``padding`` may be (before, behind). As Conv2d over images of
    height 1. ONNX: Conv.
    """

    in_channels: int
    out_channels: int
    kernel_size: int
    stride: int = 1
    padding: Pads = 0
    dilation: int = 1
    groups: int = 1
    has_bias: bool = True
    weight: Param = field(init=False)
    bias: Param | None = field(init=False)
    window: Window = field(init=False, repr=False)
    _convolution: Convolution = field(init=False, repr=False)

    def __post_init__(self) -> None:
        check_channels(self.in_channels, self.out_channels, self.groups)
        self.window = Window.along_width(self.kernel_size, self.stride, self.padding, self.dilation)
        self._convolution = Convolution(self.window, self.groups)
        shape = (self.out_channels, self.in_channels // self.groups, self.kernel_size)
        self.weight = Param(np.zeros(shape, np.float32), out_axis=0, in_axis=1)
        self.bias = None
        if self.has_bias:
            self.bias = Param(np.zeros(self.out_channels, np.float32), out_axis=0)

    def forward(
        self, *inputs: Array, training: bool, workspace: Workspace
    ) -> tuple[Array, Backward]:
        """See Layer."""
        image, w, bias = inputs[0][:, None], self.weight, self.bias
        kernel, convolution = w.value[:, :, None], self._convolution
        y = convolution.output(image, kernel, None if bias is None else bias.value, workspace)

        def backward(dy: Array, *, need_dx: bool = True) -> tuple[Array, ...]:
            dy = c_contiguous(dy, "dy", workspace)[:, None]
            convolution.add_weight_gradient(w.grad[:, :, None], dy, image, workspace)
            if bias is not None:
                add_bias_gradient(bias.grad, dy, workspace)
            if not need_dx:
                return ()
            return (convolution.input_gradient(dy, kernel, image.shape, workspace)[:, 0],)

        return y[:, 0], backward

    def emit(self, g: GraphBuilder, *inputs: str) -> str:
        """See Layer."""
        return g.node(
            "Conv",
            [*inputs, *(g.param(param) for param in self.params().values())],
            kernel_shape=[self.kernel_size],
            strides=[self.stride],
            pads=self.window.pads[1::2],
            dilations=[self.dilation],
            group=self.groups,
        )

    def output_shape(self, *shapes: Shape) -> Shape:
        """See Layer."""
        if len(shapes) != 1 or len(shapes[0]) != 2 or shapes[0][0] != self.in_channels:
            raise ConfigError(
                f"Conv1d expects rows of shape ({self.in_channels}, length), got "
                f"{', '.join(map(str, shapes))}; change in_channels or turn the axes"
            )
        return (self.out_channels, self.window.output_size(1, shapes[0][1])[1])

    def params(self) -> dict[str, Param]:
        """See Layer."""
        return {"weight": self.weight} | ({} if self.bias is None else {"bias": self.bias})

    def initialize(self, rng: np.random.Generator) -> None:
        """He uniform weights (He et al. 2015), zero bias."""
        shape = self.weight.value.shape
        self.weight.value[...] = he_uniform(rng, shape, fan_in=prod(shape[1:]))
        if self.bias is not None:
            self.bias.value[...] = 0

    def macs(self, *shapes: Shape) -> int:
        """See Layer."""
        return self.output_shape(*shapes)[1] * self.weight.value.size

    def with_arrays(self, arrays: Mapping[str, Array]) -> Self:
        """See Layer; a layer without bias gets one where ``arrays`` has it."""
        w = arrays["weight"]
        groups = self._convolution.groups_of(self.weight.value, w)
        layer = type(self)(
            w.shape[1] * groups,
            len(w),
            w.shape[2],
            self.stride,
            self.padding,
            self.dilation,
            groups,
            "bias" in arrays,
        )
        layer.weight = self.weight.with_value(w)
        if layer.bias is not None:
            layer.bias = layer.bias.with_value(arrays["bias"])
        return layer

    def channel_flow(
        self, flow: ChannelFlow, inputs: Sequence[Channels], shapes: Sequence[Shape]
    ) -> Channels:
        """See Layer."""
        return self._convolution.channel_flow(flow, inputs[0], self.weight, self.bias)
