"""What is left of a sequence when its steps are reduced to one: their mean, their maximum."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np

from hlserve.errors import ConfigError
from hlserve.nn.channels import ChannelFlow, Channels
from hlserve.nn.graph_builder import GraphBuilder
from hlserve.nn.layer import Backward, Layer, MaskKind, Shape
from hlserve.nn.param import Array
from hlserve.nn.workspace import Workspace

_MASKED = -1e30  # below any activation
_FLOAT = 1  # TensorProto.FLOAT


@final
@dataclass(eq=False)
class MeanOverTime(Layer):
    """The mean of every feature over the steps.

    Shapes: x (batch, time, features) -> y (batch, features); a second input is a mask (batch,
    time) int64, and only steps at 1 count. A row without any gives zeros. ONNX: ReduceMean, with
    a mask Mul, ReduceSum and Div.
    """

    second_input: ClassVar[MaskKind | None] = "mask"

    def forward(
        self, *inputs: Array, training: bool, workspace: Workspace
    ) -> tuple[Array, Backward]:
        """See Layer."""
        x = inputs[0]
        time, features, batch = x.shape
        share = workspace.empty("share", (time, batch))  # of every step in the mean
        if len(inputs) == 2:
            np.copyto(share, inputs[1], casting="same_kind")
            count = np.add.reduce(share, axis=0, out=workspace.scratch("count", (batch,)))
            share /= np.maximum(count, 1, out=count)
        else:
            share.fill(1 / time)
        y = workspace.empty("y", (features, batch))
        weighed = workspace.scratch("weighed", x.shape)
        np.add.reduce(np.multiply(x, share[:, None], out=weighed), axis=0, out=y)

        def backward(dy: Array, *, need_dx: bool = True) -> tuple[Array, ...]:
            return (np.multiply(dy, share[:, None], out=workspace.empty("dx", x.shape)),)

        return y, backward

    def emit(self, g: GraphBuilder, *inputs: str) -> str:
        """See Layer."""
        time_axis = g.constant(np.array([1], np.int64), "axes")
        if len(inputs) == 1:
            return g.node("ReduceMean", [*inputs, time_axis], keepdims=0)
        is_step = g.node("Cast", [inputs[1]], to=_FLOAT)
        last = g.constant(np.array([2], np.int64), "axes")
        weighed = g.node("Mul", [inputs[0], g.node("Unsqueeze", [is_step, last])])
        total = g.node("ReduceSum", [weighed, time_axis], keepdims=0)
        count = g.node("ReduceSum", [is_step, time_axis], keepdims=1)
        count = g.node("Max", [count, g.constant(np.array(1, np.float32), "one")])
        return g.node("Div", [total, count])

    def output_shape(self, *shapes: Shape) -> Shape:
        """See Layer."""
        return _features("MeanOverTime", shapes)

    def channel_flow(
        self, flow: ChannelFlow, inputs: Sequence[Channels], shapes: Sequence[Shape]
    ) -> Channels:
        """The same features, now on the first axis."""
        return Channels(flow.along(inputs[0], 1, shapes[0][1]))


@final
@dataclass(eq=False)
class MaxOverTime(Layer):
    """The largest value of every feature over the steps; of equal ones the first gets the gradient.

    Shapes: x (batch, time, features) -> y (batch, features); a second input is a mask (batch,
    time) int64, and only steps at 1 count. A mask holds at least one 1: a row without gives
    -1e30, far below any activation. ONNX: ReduceMax, with a mask behind a Where.
    """

    second_input: ClassVar[MaskKind | None] = "mask"

    def forward(
        self, *inputs: Array, training: bool, workspace: Workspace
    ) -> tuple[Array, Backward]:
        """See Layer."""
        x = inputs[0]
        if len(inputs) == 2:
            x = _masked(x, inputs[1], workspace)
        y = workspace.empty("y", x.shape[1:])
        np.maximum.reduce(x, axis=0, out=y)

        def backward(dy: Array, *, need_dx: bool = True) -> tuple[Array, ...]:
            dx = workspace.empty("dx", x.shape)
            is_first = workspace.scratch("is_first", y.shape, np.bool_)
            is_free = workspace.scratch("is_free", y.shape, np.bool_)
            is_free.fill(True)
            for step, dx_step in zip(x, dx, strict=True):
                np.equal(step, y, out=is_first)
                is_first &= is_free
                is_free ^= is_first
                np.multiply(dy, is_first, out=dx_step)
            return (dx,)

        return y, backward

    def emit(self, g: GraphBuilder, *inputs: str) -> str:
        """See Layer."""
        x = inputs[0]
        if len(inputs) == 2:
            last = g.constant(np.array([2], np.int64), "axes")
            is_step = g.node("Greater", [inputs[1], g.constant(np.array(0, np.int64), "zero")])
            masked = g.constant(np.array(_MASKED, np.float32), "masked")
            x = g.node("Where", [g.node("Unsqueeze", [is_step, last]), x, masked])
        return g.node("ReduceMax", [x, g.constant(np.array([1], np.int64), "axes")], keepdims=0)

    def output_shape(self, *shapes: Shape) -> Shape:
        """See Layer."""
        return _features("MaxOverTime", shapes)

    def channel_flow(
        self, flow: ChannelFlow, inputs: Sequence[Channels], shapes: Sequence[Shape]
    ) -> Channels:
        """The same features, now on the first axis."""
        return Channels(flow.along(inputs[0], 1, shapes[0][1]))


def _masked(x: Array, mask: Array, workspace: Workspace) -> Array:
    is_masked = np.equal(mask, 0, out=workspace.scratch("is_masked", mask.shape, np.bool_))
    kept = workspace.empty("kept", x.shape)
    np.copyto(kept, x)
    np.copyto(kept, _MASKED, where=is_masked[:, None])
    return kept


def _features(kind: str, shapes: Sequence[Shape]) -> Shape:
    first = shapes[0] if shapes else ()
    if len(first) != 2 or first[0] < 1 or tuple(shapes[1:]) not in ((), (first[:1],)):
        raise ConfigError(
            f"{kind} expects rows of shape (time, features), and if a second input a mask "
            f"(time,), got {', '.join(map(str, shapes))}"
        )
    return first[1:]
