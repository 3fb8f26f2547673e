"""Gated recurrent unit."""

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

_GATES = 3  # z, r, h


@final
@dataclass(eq=False)
class GRU(Layer):
    """Gated recurrent unit over a whole sequence (Cho et al. 2014, arXiv:1406.1078).

    Gates in ONNX's order: update z, reset r, candidate n (ONNX: h). For every step:
    z, r = sigmoid(W x + R h + b), n = tanh(W x + b + r (R h + b')), h = (1 - z) n + z h. The
    reset gate multiplies the product with R, as in PyTorch and cuDNN and in ONNX with
    linear_before_reset=1; in the paper it multiplies h ahead of it. So the candidate has a
    bias on either side, the other gates one (PyTorch and ONNX have two, of which one adds
    nothing). States start at zero.

    Shapes, masks and directions are those of LSTM, with three gates: weight (directions,
    3 * hidden_size, input_size), recurrent_bias, b', (directions, hidden_size). ONNX: GRU.
    """

    second_input: ClassVar[MaskKind | None] = "prefix mask"

    input_size: int
    hidden_size: int
    bidirectional: bool = False
    last_only: bool = False
    weight: Param = field(init=False)
    recurrent_weight: Param = field(init=False)
    bias: Param = field(init=False)
    recurrent_bias: Param = field(init=False)

    def __post_init__(self) -> None:
        recurrence.require_sizes("GRU", self)
        self.weight, self.recurrent_weight, self.bias = recurrence.zero_params(self, _GATES)
        shape = (1 + self.bidirectional, self.hidden_size)
        self.recurrent_bias = Param(np.zeros(shape, np.float32), out_axis=1)

    def forward(
        self, *inputs: Array, training: bool, workspace: Workspace
    ) -> tuple[Array, Backward]:
        """See Layer."""
        return recurrence.run(self, self._walk, inputs, workspace)

    def emit(self, g: GraphBuilder, *inputs: str) -> str:
        """See Layer."""
        second_bias = np.zeros_like(self.bias.value)
        second_bias[:, 2 * self.hidden_size :] = self.recurrent_bias.value
        return recurrence.emit("GRU", self, g, inputs, second_bias, linear_before_reset=1)

    def output_shape(self, *shapes: Shape) -> Shape:
        """See Layer."""
        return recurrence.output_shape("GRU", self, shapes)

    def params(self) -> dict[str, Param]:
        """See Layer."""
        return {
            "weight": self.weight,
            "recurrent_weight": self.recurrent_weight,
            "bias": self.bias,
            "recurrent_bias": self.recurrent_bias,
        }

    def initialize(self, rng: np.random.Generator) -> None:
        """See recurrence.initialize."""
        recurrence.initialize(self, rng)

    def macs(self, *shapes: Shape) -> int:
        """See Layer."""
        return recurrence.macs(self, shapes[0][0])

    def with_arrays(self, arrays: Mapping[str, Array]) -> Self:
        """See Layer."""
        layer = type(self)(*recurrence.sizes_of(arrays), self.bidirectional, self.last_only)
        layer.weight = self.weight.with_value(arrays["weight"])
        layer.recurrent_weight = self.recurrent_weight.with_value(arrays["recurrent_weight"])
        layer.bias = self.bias.with_value(arrays["bias"])
        layer.recurrent_bias = self.recurrent_bias.with_value(arrays["recurrent_bias"])
        return layer

    def channel_flow(
        self, flow: ChannelFlow, inputs: Sequence[Channels], shapes: Sequence[Shape]
    ) -> Channels:
        """See recurrence.channel_flow; the candidate's second bias follows too."""
        states = recurrence.channel_flow(self, flow, inputs, _GATES)
        flow.bind(self.recurrent_bias, 1, states.ids[: self.hidden_size], is_producer=True)
        return states

    def _walk(self, direction: int, steps: Steps, workspace: Workspace) -> CellBackward:
        """One direction; sigmoid(z) = (1 + tanh(z / 2)) / 2, so 1 + tanh(z / 2) is kept."""
        walk = _Walk(self, direction, steps, workspace)
        walk.project_inputs()
        for t in range(steps.time):
            walk.step(t)
        return walk.backward


class _Walk:
    """Arrays of one pass in one direction.

    ``fed`` (3 * hidden, time, batch): W x + b of all steps, one product; those of z and r are
    halved, and n takes the candidate's place. ``gates`` (time, 3 * hidden, batch): 2 z, 2 r,
    (R h + b') / 2.
    """

    def __init__(self, layer: GRU, direction: int, steps: Steps, workspace: Workspace) -> None:
        self._layer, self._direction, self._steps = layer, direction, steps
        self._workspace = workspace
        self._inputs, self._hidden = layer.input_size, layer.hidden_size
        _, slots, batch = steps.slots.shape
        self._states = steps.slots[-self._hidden :]
        self._input_weights = self._joined_input_weights()
        self._recurrent_weights = self._joined_recurrent_weights()
        self._fed = workspace.empty("fed", (_GATES * self._hidden, slots - 1, batch))
        self._gates = workspace.empty("gates", (slots - 1, _GATES * self._hidden, batch))

    def project_inputs(self) -> None:
        """W x + b of all steps."""
        rows, time, batch = self._fed.shape
        flat = self._fed.reshape(rows, time * batch)
        np.matmul(self._input_weights, self._steps.flat()[: self._inputs + 1], out=flat)

    def step(self, t: int) -> None:
        """The state behind step t."""
        hidden, gates, fed = self._hidden, self._gates[t], self._fed[:, t]
        np.matmul(self._recurrent_weights, self._steps.slots[self._inputs :, t], out=gates)
        sigmoids = gates[: 2 * hidden]
        sigmoids += fed[: 2 * hidden]
        np.tanh(sigmoids, out=sigmoids)
        sigmoids += 1
        z, r, product = self._split(gates)
        candidate = fed[2 * hidden :]
        new = self._workspace.scratch("new", z.shape)
        candidate += np.multiply(r, product, out=new)
        np.tanh(candidate, out=candidate)
        # h = n + z (h - n)
        np.subtract(self._states[:, t], candidate, out=new)
        new *= z
        new *= 0.5
        new += candidate
        if self._steps.mask is not None:
            new *= self._steps.mask[t]
        np.copyto(self._states[:, t + 1], new)

    def backward(self, d_states: Sequence[Array | None], *, need_dx: bool) -> Array | None:
        """See CellBackward.

        ``dz`` is twice the gradient of what each tanh takes: of (R h + b') / 2, z, r, n, in this
        order, so that those of R lie together and those of W do.
        """
        time, _, batch = self._gates.shape
        dz = self._workspace.empty("dz", ((_GATES + 1) * self._hidden, time, batch))
        dh = self._workspace.scratch("dh", (self._hidden, batch))
        through = self._workspace.scratch("through", dh.shape)
        turned = self._turned_recurrent_weights()
        dh.fill(0)
        for t in reversed(range(time)):
            d_state = d_states[t]
            if d_state is not None:
                dh += d_state
            if self._steps.mask is not None:
                dh *= self._steps.mask[t]
            self._step_back(t, dh, dz[:, t])
            np.multiply(dh, self._gates[t, : self._hidden], out=through)
            np.matmul(turned, dz[: _GATES * self._hidden, t], out=dh)
            dh += through
            dh *= 0.5
            recurrence.flush(t, dh, self._workspace)
        return self._finish(dz, need_dx)

    def _step_back(self, t: int, dh: Array, dz: Array) -> None:
        """Writes ``dz`` (4 * hidden, batch) of step t."""
        hidden = self._hidden
        z, r, product = self._split(self._gates[t])
        candidate = self._fed[2 * hidden :, t]
        d_product, d_z, d_r, d_n = (dz[i * hidden : (i + 1) * hidden] for i in range(4))
        rest = self._workspace.scratch("rest", dh.shape)
        a = self._workspace.scratch("a", dh.shape)
        np.subtract(2, z, out=rest)  # 2 (1 - z)
        np.multiply(dh, rest, out=a)
        # dz = dh (h - n) slope, with u (2 - u) for the slope where u = 1 + tanh is kept
        np.subtract(self._states[:, t], candidate, out=d_z)
        d_z *= a
        d_z *= z
        np.multiply(candidate, candidate, out=rest)
        np.subtract(1, rest, out=rest)
        np.multiply(a, rest, out=d_n)
        np.multiply(d_n, r, out=d_product)
        np.subtract(2, r, out=rest)
        rest *= product
        np.multiply(rest, d_product, out=d_r)

    def _finish(self, dz: Array, need_dx: bool) -> Array | None:
        """The gradients of the weights, all steps in one product, and dL/dx."""
        layer, d, inputs, hidden = self._layer, self._direction, self._inputs, self._hidden
        rows, time, batch = dz.shape
        flat, slots = dz.reshape(rows, time * batch), self._steps.flat()
        dw = self._workspace.scratch("dw", (_GATES * hidden, inputs + 1))
        np.matmul(flat[hidden:], slots[: inputs + 1].T, out=dw)
        dw *= 0.5
        dw[: 2 * hidden] *= 0.5
        layer.weight.grad[d] += dw[:, :inputs]
        layer.bias.grad[d] += dw[:, inputs]
        dr = self._workspace.scratch("dr", (_GATES * hidden, 1 + hidden))
        np.matmul(flat[: _GATES * hidden], slots[inputs:].T, out=dr)
        dr *= 0.25
        layer.recurrent_bias.grad[d] += dr[:hidden, 0]
        layer.recurrent_weight.grad[d, 2 * hidden :] += dr[:hidden, 1:]
        layer.recurrent_weight.grad[d, : 2 * hidden] += dr[hidden:, 1:]
        if not need_dx:
            return None
        dx = self._workspace.empty("dx", (inputs, time * batch))
        np.matmul(self._input_weights[:, :inputs].T, flat[hidden:], out=dx)
        dx *= 0.5
        return dx.reshape(inputs, time, batch)

    def _joined_input_weights(self) -> Array:
        """[W b], (3 * hidden, input_size + 1); z and r halved."""
        shape = (_GATES * self._hidden, self._inputs + 1)
        weights = self._workspace.empty("input_weights", shape)
        weights[:, :-1] = self._layer.weight.value[self._direction]
        weights[:, -1] = self._layer.bias.value[self._direction]
        weights[: 2 * self._hidden] *= 0.5
        return weights

    def _joined_recurrent_weights(self) -> Array:
        """[b' R] / 2, (3 * hidden, 1 + hidden); b' is zero but for the candidate."""
        shape = (_GATES * self._hidden, 1 + self._hidden)
        weights = self._workspace.empty("recurrent_weights", shape)
        weights[:, 1:] = self._layer.recurrent_weight.value[self._direction]
        weights[: 2 * self._hidden, 0] = 0
        weights[2 * self._hidden :, 0] = self._layer.recurrent_bias.value[self._direction]
        weights *= 0.5
        return weights

    def _turned_recurrent_weights(self) -> Array:
        """R.T / 2 (hidden, 3 * hidden) for gates in the order of ``dz``: n, z, r."""
        hidden = self._hidden
        turned = self._workspace.empty("turned", (hidden, _GATES * hidden))
        turned[:, :hidden] = self._recurrent_weights[2 * hidden :, 1:].T
        turned[:, hidden:] = self._recurrent_weights[: 2 * hidden, 1:].T
        return turned

    def _split(self, gates: Array) -> tuple[Array, Array, Array]:
        hidden = self._hidden
        return gates[:hidden], gates[hidden : 2 * hidden], gates[2 * hidden :]
