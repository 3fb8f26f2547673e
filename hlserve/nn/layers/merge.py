"""Layers of several inputs: their sum, their product, and one behind another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import final

import numpy as np

from hlserve.errors import ConfigError
from hlserve.nn.channels import ChannelFlow, Channels
from hlserve.nn.graph_builder import GraphBuilder
from hlserve.nn.layer import Backward, Layer, Shape
from hlserve.nn.param import Array
from hlserve.nn.workspace import Workspace


@final
@dataclass(eq=False)
class Add(Layer):
    """The sum of two or more inputs, as where a residual block ends (He et al. 2016).

    Shapes: all inputs alike, kept. ONNX: Add.
    """

    def forward(
        self, *inputs: Array, training: bool, workspace: Workspace
    ) -> tuple[Array, Backward]:
        """See Layer."""
        y = np.add(inputs[0], inputs[1], out=workspace.empty("y", inputs[0].shape))
        for x in inputs[2:]:
            np.add(y, x, out=y)

        def backward(dy: Array, *, need_dx: bool = True) -> tuple[Array, ...]:
            if not need_dx:
                return ()
            copies = [workspace.empty(f"dx_{i}", dy.shape) for i in range(1, len(inputs))]
            for copy in copies:
                np.copyto(copy, dy)
            return (dy, *copies)

        return y, backward

    def emit(self, g: GraphBuilder, *inputs: str) -> str:
        """See Layer."""
        total = inputs[0]
        for x in inputs[1:]:
            total = g.node("Add", [total, x])
        return total

    def output_shape(self, *shapes: Shape) -> Shape:
        """See Layer."""
        if len(shapes) < 2 or len(set(shapes)) > 1:
            raise ConfigError(
                f"Add takes two or more inputs of one shape, got {', '.join(map(str, shapes))}"
            )
        return shapes[0]

    def channel_flow(
        self, flow: ChannelFlow, inputs: Sequence[Channels], shapes: Sequence[Shape]
    ) -> Channels:
        """What is added becomes one unit."""
        return _coupled(flow, inputs)


@final
@dataclass(eq=False)
class Multiply(Layer):
    """The product of two or more inputs, number by number.

    Shapes: all inputs alike, kept. With ``gate_axes`` those behind the first are gates, one a
    channel, which are spread over that many axes: with 2, (channels,) beside (channels, height,
    width), as in a squeeze-and-excitation block (Hu et al. 2018, arXiv:1709.01507). ONNX: Mul.
    """

    gate_axes: int = 0

    def __post_init__(self) -> None:
        if self.gate_axes not in (0, 1, 2):
            raise ConfigError(f"gate_axes (={self.gate_axes!r}) must be 0, 1 or 2")

    def forward(
        self, *inputs: Array, training: bool, workspace: Workspace
    ) -> tuple[Array, Backward]:
        """See Layer."""
        factors = [inputs[0], *(self._spread(x) for x in inputs[1:])]
        y = _product(factors, workspace.empty("y", inputs[0].shape))

        def backward(dy: Array, *, need_dx: bool = True) -> tuple[Array, ...]:
            if not need_dx:
                return ()
            grads = []
            for i in range(len(factors)):
                dx = workspace.empty(f"dx_{i}", dy.shape)
                _product([dy, *factors[:i], *factors[i + 1 :]], dx)
                grads.append(self._gathered(dx, f"gate_{i}", workspace) if i else dx)
            return tuple(grads)

        return y, backward

    def emit(self, g: GraphBuilder, *inputs: str) -> str:
        """See Layer."""
        product = inputs[0]
        for x in inputs[1:]:
            if self.gate_axes:
                axes = g.constant(np.arange(2, 2 + self.gate_axes), "axes")
                x = g.node("Unsqueeze", [x, axes])
            product = g.node("Mul", [product, x])
        return product

    def output_shape(self, *shapes: Shape) -> Shape:
        """See Layer."""
        n, first = self.gate_axes, shapes[0] if shapes else ()
        others = first[:1] if n else first
        has_axes = len(first) == n + 1 if n else True
        if len(shapes) < 2 or not has_axes or any(shape != others for shape in shapes[1:]):
            raise ConfigError(
                f"Multiply with gate_axes={n} takes rows and one or more "
                f"{f'gates of (channels,) for rows of {n + 1} axes' if n else 'of the same shape'}"
                f", got {', '.join(map(str, shapes))}"
            )
        return first

    def channel_flow(
        self, flow: ChannelFlow, inputs: Sequence[Channels], shapes: Sequence[Shape]
    ) -> Channels:
        """What is multiplied becomes one unit."""
        return _coupled(flow, inputs)

    # ----- below

    def _spread(self, gate: Array) -> Array:
        if not self.gate_axes:
            return gate
        return gate.reshape(len(gate), *(1,) * self.gate_axes, gate.shape[-1])

    def _gathered(self, dx: Array, key: str, workspace: Workspace) -> Array:
        """The gradient of a gate, which every place has read."""
        if not self.gate_axes:
            return dx
        places = dx.reshape(len(dx), prod(dx.shape[1:-1]), dx.shape[-1])
        return np.add.reduce(places, axis=1, out=workspace.empty(key, places[:, 0].shape))


@final
@dataclass(eq=False)
class Concat(Layer):
    """Inputs one behind another along an axis of the row, by default the first.

    Shapes: alike but for their size along ``axis``, which adds up. Vectors and images have their
    channels on axis 0, (time, features) its features on axis 1. ONNX: Concat.
    """

    axis: int = 0

    def __post_init__(self) -> None:
        if self.axis < 0:
            raise ConfigError(f"axis (={self.axis}) counts the axes of a row from 0 up")

    def forward(
        self, *inputs: Array, training: bool, workspace: Workspace
    ) -> tuple[Array, Backward]:
        """See Layer."""
        row = self.output_shape(*(x.shape[:-1] for x in inputs))
        y = workspace.empty("y", (*row, inputs[0].shape[-1]))
        for x, part in zip(inputs, self._parts(y, inputs), strict=True):
            np.copyto(part, x)

        def backward(dy: Array, *, need_dx: bool = True) -> tuple[Array, ...]:
            if not need_dx:
                return ()
            grads = [workspace.empty(f"dx_{i}", x.shape) for i, x in enumerate(inputs)]
            for dx, part in zip(grads, self._parts(dy, inputs), strict=True):
                np.copyto(dx, part)
            return tuple(grads)

        return y, backward

    def emit(self, g: GraphBuilder, *inputs: str) -> str:
        """See Layer."""
        return g.node("Concat", inputs, axis=self.axis + 1)

    def output_shape(self, *shapes: Shape) -> Shape:
        """See Layer."""
        axis = self.axis
        rests = {(*shape[:axis], *shape[axis + 1 :]) for shape in shapes}
        if len(shapes) < 2 or len(rests) > 1 or any(len(shape) <= axis for shape in shapes):
            raise ConfigError(
                f"Concat takes two or more inputs that differ along axis {axis} alone, got "
                f"{', '.join(map(str, shapes))}"
            )
        total = sum(shape[axis] for shape in shapes)
        return (*shapes[0][:axis], total, *shapes[0][axis + 1 :])

    def channel_flow(
        self, flow: ChannelFlow, inputs: Sequence[Channels], shapes: Sequence[Shape]
    ) -> Channels:
        """Along the channels one list of units behind the other; else the inputs' are coupled."""
        axes = {channels.axis for channels in inputs}
        if axes == {self.axis}:
            return Channels(np.concatenate([channels.ids for channels in inputs]), self.axis)
        return _coupled(flow, inputs)

    # ----- below

    def _parts(self, whole: Array, inputs: Sequence[Array]) -> list[Array]:
        """The views of ``whole`` that the inputs take."""
        ends = np.cumsum([x.shape[self.axis] for x in inputs]).tolist()
        before = (slice(None),) * self.axis
        starts = [0, *ends[:-1]]
        return [whole[(*before, slice(a, b))] for a, b in zip(starts, ends, strict=True)]


def _product(factors: Sequence[Array], out: Array) -> Array:
    np.multiply(factors[0], factors[1], out=out)
    for factor in factors[2:]:
        np.multiply(out, factor, out=out)
    return out


def _coupled(flow: ChannelFlow, inputs: Sequence[Channels]) -> Channels:
    """The units of the first input, each made one with those that meet it."""
    first = inputs[0]
    for other in inputs[1:]:
        if other.axis == first.axis and len(other.ids) == len(first.ids):
            flow.couple(first.ids, other.ids)
        else:  # channels on different axes meet: none may go alone
            flow.protect(first.ids)
            flow.protect(other.ids)
    return first
