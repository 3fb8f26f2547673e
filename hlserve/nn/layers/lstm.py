"""Long short-term memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Self, final

import numpy as np

from hlserve.nn.channels import ChannelFlow, Channels
from hlserve.nn.graph_builder import GraphBuilder
from hlserve.nn.layer import Backward, Layer, MaskKind, Shape
from hlserve.nn.layers import recurrence
from hlserve.nn.layers.recurrence import CellBackward, Steps
from hlserve.nn.param import Array, Param
from hlserve.nn.workspace import Workspace

_GATES = 4  # i, o, f, c


@final
@dataclass(eq=False)
class LSTM(Layer):
    """Long short-term memory over a whole sequence (Hochreiter & Schmidhuber 1997).

    Gates in ONNX's order: input i, output o, forget f, cell g. For every step:
    i, o, f = sigmoid(W x + R h + b), g = tanh(W x + R h + b), c = f c + i g, h = o tanh(c).
    States start at zero. PyTorch and ONNX have a second bias, which adds nothing: it is left out
    here, and zero in ONNX.

    Shapes: x (batch, time, input_size), and perhaps a mask (batch, time), int64, ones and then
    zeros -> y (batch, time, hidden), or (batch, hidden) of the last step with ``last_only``;
    hidden is hidden_size, or twice that with ``bidirectional``, forward half first. Behind the
    end that a mask says states are zero; the last one is that of the sequence's own last step,
    for the reverse direction that of its first. weight (directions, 4 * hidden_size,
    input_size). ONNX: LSTM.
    """

    second_input: ClassVar[MaskKind | None] = "prefix mask"

    input_size: int
    hidden_size: int
    bidirectional: bool = False
    last_only: bool = False
    weight: Param = field(init=False)
    recurrent_weight: Param = field(init=False)
    bias: Param = field(init=False)

    def __post_init__(self) -> None:
        recurrence.require_sizes("LSTM", self)
        self.weight, self.recurrent_weight, self.bias = recurrence.zero_params(self, _GATES)

    def forward(
        self, *inputs: Array, training: bool, workspace: Workspace
    ) -> tuple[Array, Backward]:
        """See Layer."""
        # The slots hold 2 h: the output gate is kept doubled, see _walk.
        return recurrence.run(self, self._walk, inputs, workspace, state_scale=0.5)

    def emit(self, g: GraphBuilder, *inputs: str) -> str:
        """See Layer."""
        return recurrence.emit("LSTM", self, g, inputs, np.zeros_like(self.bias.value))

    def output_shape(self, *shapes: Shape) -> Shape:
        """See Layer."""
        return recurrence.output_shape("LSTM", self, shapes)

    def params(self) -> dict[str, Param]:
        """See Layer."""
        return {
            "weight": self.weight,
            "recurrent_weight": self.recurrent_weight,
            "bias": self.bias,
        }

    def initialize(self, rng: np.random.Generator) -> None:
        """See recurrence.initialize; forget gates start open (Jozefowicz et al. 2015)."""
        recurrence.initialize(self, rng)
        self.bias.value[:, 2 * self.hidden_size : 3 * self.hidden_size] = 1

    def macs(self, *shapes: Shape) -> int:
        """See Layer."""
        return recurrence.macs(self, shapes[0][0])

    def with_arrays(self, arrays: Mapping[str, Array]) -> Self:
        """See Layer."""
        layer = type(self)(*recurrence.sizes_of(arrays), self.bidirectional, self.last_only)
        layer.weight = self.weight.with_value(arrays["weight"])
        layer.recurrent_weight = self.recurrent_weight.with_value(arrays["recurrent_weight"])
        layer.bias = self.bias.with_value(arrays["bias"])
        return layer

    def channel_flow(
        self, flow: ChannelFlow, inputs: Sequence[Channels], shapes: Sequence[Shape]
    ) -> Channels:
        """See recurrence.channel_flow."""
        return recurrence.channel_flow(self, flow, inputs, _GATES)

    def _walk(self, direction: int, steps: Steps, workspace: Workspace) -> CellBackward:
        """One direction.

        sigmoid(z) = (1 + tanh(z / 2)) / 2, so with the halves in a copy of the weights one tanh
        covers all gates, and 1 + tanh(z / 2), twice the sigmoid, is kept.
        """
        walk = _Walk(self, direction, steps, workspace)
        for t in range(steps.time):
            walk.step(t)
        return walk.backward


class _Walk:
    """Arrays of one pass in one direction; those of a step are contiguous in it.

    ``gates`` (time, 4 * hidden, batch): 2 i, 2 o, 2 f, g. ``cells`` (time + 1, hidden, batch):
    c after t steps. ``bounded`` (time, hidden, batch): tanh(c).
    """

    def __init__(self, layer: LSTM, direction: int, steps: Steps, workspace: Workspace) -> None:
        self._layer, self._direction, self._steps = layer, direction, steps
        self._workspace = workspace
        self._inputs, self._hidden = layer.input_size, layer.hidden_size
        _, slots, batch = steps.slots.shape
        self._weights = self._halved_weights()
        self._gates = workspace.empty("gates", (slots - 1, _GATES * self._hidden, batch))
        self._cells = workspace.empty("cells", (slots, self._hidden, batch))
        self._bounded = workspace.empty("bounded", (slots - 1, self._hidden, batch))
        self._cells[0] = 0

    def step(self, t: int) -> None:
        """The state behind step t."""
        hidden, gates, cell = self._hidden, self._gates[t], self._cells[t + 1]
        n = len(self._steps.slots) if t > 0 else self._inputs + 1  # the first state is zero
        np.matmul(self._weights[:, :n], self._steps.slots[:n, t], out=gates)
        np.tanh(gates, out=gates)
        sigmoids = gates[: 3 * hidden]
        sigmoids += 1
        i, o, f, g = self._split(gates)
        np.multiply(f, self._cells[t], out=cell)
        cell += np.multiply(i, g, out=self._workspace.scratch("a", cell.shape))
        cell *= 0.5
        if self._steps.mask is not None:
            cell *= self._steps.mask[t]
        bounded = np.tanh(cell, out=self._bounded[t])
        np.multiply(o, bounded, out=self._steps.slots[-hidden:, t + 1])

    def backward(self, d_states: Sequence[Array | None], *, need_dx: bool) -> Array | None:
        """See CellBackward.

        The gates become ``dz``, twice the gradient of what their tanh takes.
        """
        time, _, batch = self._gates.shape
        recurrent = self._weights[:, -self._hidden :].T
        names = ("dh", "dc", "a", "b")
        dh, dc, a, b = (self._workspace.scratch(n, (self._hidden, batch)) for n in names)
        rest = self._workspace.scratch("rest", (3 * self._hidden, batch))
        dh.fill(0)
        dc.fill(0)
        for t in reversed(range(time)):
            d_state = d_states[t]
            if d_state is not None:
                dh += d_state
            self._step_back(t, dh, dc, (a, b, rest))
            if t > 0:
                np.matmul(recurrent, self._gates[t], out=dh)
            recurrence.flush(t, dh, self._workspace)
            recurrence.flush(t, dc, self._workspace)
        return self._finish(need_dx)

    def _step_back(self, t: int, dh: Array, dc: Array, spare: tuple[Array, Array, Array]) -> None:
        """Turns the gates of step t into ``dz``, and dc into that of the step before.

        The slope of a gate's tanh is u (2 - u) where u = 1 + tanh is kept, and 1 - g^2. Products
        that two gradients share are made once, in place: beside the matrix products a step is
        bound by memory.
        """
        (a, b, rest), hidden, bounded = spare, self._hidden, self._bounded[t]
        i, o, f, g = self._split(self._gates[t])
        np.subtract(2, self._gates[t, : 3 * hidden], out=rest)
        np.multiply(dh, o, out=a)
        np.multiply(a, bounded, out=b)
        np.multiply(b, rest[hidden : 2 * hidden], out=o)
        b *= bounded
        a -= b  # 2 dh o (1 - tanh(c)^2)
        dc += a
        dc *= 0.5
        if self._steps.mask is not None:
            dc *= self._steps.mask[t]
        np.multiply(dc, i, out=a)
        np.multiply(a, g, out=b)
        np.multiply(b, rest[:hidden], out=i)
        b *= g
        np.subtract(a, b, out=g)
        dc *= f  # twice what the step before gets: it halves the sum
        np.multiply(dc, self._cells[t], out=f)
        f *= rest[2 * hidden :]

    def _finish(self, need_dx: bool) -> Array | None:
        """The gradients of the weights, all steps in one product, and dL/dx."""
        layer, d, inputs, hidden = self._layer, self._direction, self._inputs, self._hidden
        time, rows, batch = self._gates.shape
        dz = self._workspace.scratch("dz", (rows, time, batch))
        np.copyto(dz, self._gates.transpose(1, 0, 2))
        flat = dz.reshape(rows, time * batch)
        dw = self._workspace.scratch("dw", self._weights.shape)
        np.matmul(flat, self._steps.flat().T, out=dw)
        dw *= 0.5
        dw[: 3 * hidden] *= 0.5
        dw[:, inputs + 1 :] *= 0.5
        layer.weight.grad[d] += dw[:, :inputs]
        layer.bias.grad[d] += dw[:, inputs]
        layer.recurrent_weight.grad[d] += dw[:, inputs + 1 :]
        if not need_dx:
            return None
        dx = self._workspace.empty("dx", (inputs, time * batch))
        np.matmul(self._weights[:, :inputs].T, flat, out=dx)
        dx *= 0.5
        return dx.reshape(inputs, time, batch)

    def _halved_weights(self) -> Array:
        """(4 * hidden, input_size + 1 + hidden): [W b R], sigmoid gates and 2 h halved."""
        layer, d, inputs = self._layer, self._direction, self._layer.input_size
        shape = (_GATES * self._hidden, inputs + 1 + self._hidden)
        weights = self._workspace.empty("weights", shape)
        weights[:, :inputs] = layer.weight.value[d]
        weights[:, inputs] = layer.bias.value[d]
        np.multiply(layer.recurrent_weight.value[d], 0.5, out=weights[:, inputs + 1 :])
        weights[: 3 * self._hidden] *= 0.5
        return weights

    def _split(self, gates: Array) -> tuple[Array, Array, Array, Array]:
        h = self._hidden
        return gates[:h], gates[h : 2 * h], gates[2 * h : 3 * h], gates[3 * h :]
