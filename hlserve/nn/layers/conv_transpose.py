"""Transposed convolution: the way back of a convolution as a layer."""

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
from hlserve.nn.layer import Backward, Layer, Shape, only_shape
from hlserve.nn.layers.contiguous import c_contiguous
from hlserve.nn.layers.convolution import Convolution, add_bias_gradient, check_channels
from hlserve.nn.layers.window import IntOrPair, Pads, Window
from hlserve.nn.param import Array, Param
from hlserve.nn.workspace import Workspace


@final
@dataclass(eq=False)
class ConvTranspose2d(Layer):
    """What a Conv2d of these sizes hands back for a gradient: rows grow by the stride.

    Shapes: x (batch, in_channels, height, width) -> y (batch, out_channels, out_height,
    out_width) with out = (size - 1) stride - 2 padding + dilation (kernel - 1) + 1 +
    output_padding; W (in_channels, out_channels / groups, kernel height, kernel width). Sizes
    are an int or (height, width); padding may also be (above, left, below, right). Source:
    Dumoulin & Visin 2016, arXiv:1603.07285, chapter 4. ONNX: ConvTranspose.
    """

    in_channels: int
    out_channels: int
    kernel_size: IntOrPair
    stride: IntOrPair = 1
    padding: Pads = 0
    output_padding: IntOrPair = 0
    groups: int = 1
    has_bias: bool = True
    dilation: IntOrPair = 1
    weight: Param = field(init=False)
    bias: Param | None = field(init=False)
    window: Window = field(init=False, repr=False)
    _added: tuple[int, int] = field(init=False, repr=False)
    _convolution: Convolution = field(init=False, repr=False)

    def __post_init__(self) -> None:
        check_channels(self.in_channels, self.out_channels, self.groups)
        self.window = Window.of(self.kernel_size, self.stride, self.padding, self.dilation)
        self._added = Window.of(self.kernel_size, 1, self.output_padding).padding
        pairs = zip(self._added, self.window.stride, strict=True)
        if any(added >= stride for added, stride in pairs):
            raise ConfigError(
                f"output_padding (={self.output_padding}) must be smaller than stride "
                f"(={self.stride})"
            )
        self._convolution = Convolution(self.window, self.groups)
        shape = (self.in_channels, self.out_channels // self.groups, *self.window.kernel)
        self.weight = Param(np.zeros(shape, np.float32), out_axis=1, in_axis=0)
        self.bias = None
        if self.has_bias:
            self.bias = Param(np.zeros(self.out_channels, np.float32), out_axis=0)

    def forward(
        self, *inputs: Array, training: bool, workspace: Workspace
    ) -> tuple[Array, Backward]:
        """See Layer."""
        x = c_contiguous(inputs[0], "x_in_order", workspace)
        w, bias, convolution = self.weight, self.bias, self._convolution
        shape = (*self.output_shape(x.shape[:-1]), x.shape[-1])
        y = convolution.input_gradient(x, w.value, shape, workspace)
        if bias is not None:
            y += bias.value[:, None, None, None]

        def backward(dy: Array, *, need_dx: bool = True) -> tuple[Array, ...]:
            dy = c_contiguous(dy, "dy", workspace)
            if bias is not None:
                add_bias_gradient(bias.grad, dy, workspace)
            # The gradient of the weight reads what this pass over dy has lowered.
            dx = convolution.output(dy, w.value, None, workspace)
            convolution.add_weight_gradient(w.grad, x, dy, workspace)
            return (dx,) if need_dx else ()

        return y, backward

    def emit(self, g: GraphBuilder, *inputs: str) -> str:
        """See Layer."""
        return g.node(
            "ConvTranspose",
            [*inputs, *(g.param(param) for param in self.params().values())],
            kernel_shape=self.window.kernel,
            strides=self.window.stride,
            pads=self.window.pads,
            output_padding=self._added,
            dilations=self.window.dilation,
            group=self.groups,
        )

    def output_shape(self, *shapes: Shape) -> Shape:
        """See Layer."""
        shape = only_shape("ConvTranspose2d", shapes)
        if len(shape) != 3 or shape[0] != self.in_channels:
            raise ConfigError(
                f"ConvTranspose2d expects rows of shape ({self.in_channels}, height, width), got "
                f"{shape}; change in_channels or put a Reshape before it"
            )
        pads, window = self.window.pads, self.window
        places = [
            (n - 1) * window.stride[axis]
            + window.reach[axis]
            + self._added[axis]
            - pads[axis]
            - pads[axis + 2]
            for axis, n in enumerate(shape[1:])
        ]
        if min(places) < 1:
            raise ConfigError(
                f"nothing of rows of shape {shape} is left with padding {window.padding_text}"
            )
        return (self.out_channels, *places)

    def params(self) -> dict[str, Param]:
        """See Layer."""
        return {"weight": self.weight} | ({} if self.bias is None else {"bias": self.bias})

    def initialize(self, rng: np.random.Generator) -> None:
        """He uniform weights (He et al. 2015), zero bias."""
        shape = self.weight.value.shape
        fan_in = len(self.weight.value) // self.groups * prod(shape[2:])
        self.weight.value[...] = he_uniform(rng, shape, fan_in=fan_in)
        if self.bias is not None:
            self.bias.value[...] = 0

    def macs(self, *shapes: Shape) -> int:
        """See Layer."""
        return prod(shapes[0][1:]) * self.weight.value.size

    def with_arrays(self, arrays: Mapping[str, Array]) -> Self:
        """See Layer; a layer without bias gets one where ``arrays`` has it."""
        w = arrays["weight"]
        layer = type(self)(
            len(w),
            w.shape[1] * self.groups,
            tuple(w.shape[2:]),
            self.stride,
            self.padding,
            self.output_padding,
            self.groups,
            "bias" in arrays,
            self.dilation,
        )
        layer.weight = self.weight.with_value(w)
        if layer.bias is not None:
            layer.bias = layer.bias.with_value(arrays["bias"])
        return layer

    def channel_flow(
        self, flow: ChannelFlow, inputs: Sequence[Channels], shapes: Sequence[Shape]
    ) -> Channels:
        """New units; with groups, which must keep their sizes, none may go."""
        read = flow.along(inputs[0], 0, self.in_channels)
        units = flow.new(self.out_channels)
        if self.groups > 1:
            flow.protect(read)
            flow.protect(units)
        else:
            flow.bind(self.weight, 0, read, is_producer=False)
            flow.bind(self.weight, 1, units, is_producer=True)
        if self.bias is not None:
            flow.bind(self.bias, 0, units, is_producer=True)
        return Channels(units)
