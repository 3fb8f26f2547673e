"""The plain recurrent layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal, Self, final

import numpy as np

from hlserve.errors import ConfigError
from hlserve.nn.channels import ChannelFlow, Channels
from hlserve.nn.graph_builder import GraphBuilder
from hlserve.nn.layer import Backward, Layer, MaskKind, Shape
from hlserve.nn.layers import recurrence
from hlserve.nn.layers.recurrence import CellBackward, Steps
from hlserve.nn.param import Array, Param
from hlserve.nn.workspace import Workspace

Activation = Literal["tanh", "relu"]
_ONNX_ACTIVATIONS = {"tanh": "Tanh", "relu": "Relu"}


@final
@dataclass(eq=False)
class RNN(Layer):
    """h = tanh(W x + R h + b) for every step, or relu (Elman 1990). States start at zero.

    Shapes, masks and directions are those of LSTM, with one gate: weight (directions,
    hidden_size, input_size). PyTorch and ONNX have a second bias, which adds nothing: it is left
    out here, and zero in ONNX. ONNX: RNN.
    """

    second_input: ClassVar[MaskKind | None] = "prefix mask"

    input_size: int
    hidden_size: int
    activation: Activation = "tanh"
    bidirectional: bool = False
    last_only: bool = False
    weight: Param = field(init=False)
    recurrent_weight: Param = field(init=False)
    bias: Param = field(init=False)

    def __post_init__(self) -> None:
        recurrence.require_sizes("RNN", self)
        if self.activation not in _ONNX_ACTIVATIONS:
            raise ConfigError(f"RNN: activation is {self.activation!r}, expected 'tanh' or 'relu'")
        self.weight, self.recurrent_weight, self.bias = recurrence.zero_params(self, 1)

    def forward(
        self, *inputs: Array, training: bool, workspace: Workspace
    ) -> tuple[Array, Backward]:
        """See Layer."""
        return recurrence.run(self, self._walk, inputs, workspace)

    def emit(self, g: GraphBuilder, *inputs: str) -> str:
        """See Layer."""
        activations = [_ONNX_ACTIVATIONS[self.activation]] * (1 + self.bidirectional)
        second_bias = np.zeros_like(self.bias.value)
        return recurrence.emit("RNN", self, g, inputs, second_bias, activations=activations)

    def output_shape(self, *shapes: Shape) -> Shape:
        """See Layer."""
        return recurrence.output_shape("RNN", self, shapes)

    def params(self) -> dict[str, Param]:
        """See Layer."""
        return {
            "weight": self.weight,
            "recurrent_weight": self.recurrent_weight,
            "bias": self.bias,
        }

    def initialize(self, rng: np.random.Generator) -> None:
        """See recurrence.initialize."""
        recurrence.initialize(self, rng)

    def macs(self, *shapes: Shape) -> int:
        """See Layer."""
        return recurrence.macs(self, shapes[0][0])

    def with_arrays(self, arrays: Mapping[str, Array]) -> Self:
        """See Layer."""
        sizes = recurrence.sizes_of(arrays)
        layer = type(self)(*sizes, self.activation, self.bidirectional, self.last_only)
        layer.weight = self.weight.with_value(arrays["weight"])
        layer.recurrent_weight = self.recurrent_weight.with_value(arrays["recurrent_weight"])
        layer.bias = self.bias.with_value(arrays["bias"])
        return layer

    def channel_flow(
        self, flow: ChannelFlow, inputs: Sequence[Channels], shapes: Sequence[Shape]
    ) -> Channels:
        """See recurrence.channel_flow."""
        return recurrence.channel_flow(self, flow, inputs, 1)

    def _walk(self, direction: int, steps: Steps, workspace: Workspace) -> CellBackward:
        """One direction; a step is one product with [W b R]."""
        hidden, slots, mask = self.hidden_size, steps.slots, steps.mask
        weights = self._joined_weights(direction, workspace)
        z = workspace.scratch("z", (hidden, slots.shape[2]))
        states = slots[-hidden:]
        for t in range(steps.time):
            np.matmul(weights, slots[:, t], out=z)
            if self.activation == "tanh":
                np.tanh(z, out=states[:, t + 1])
            else:
                np.maximum(z, 0, out=states[:, t + 1])
            if mask is not None:
                states[:, t + 1] *= mask[t]

        def backward(d_states: Sequence[Array | None], *, need_dx: bool) -> Array | None:
            dz = workspace.empty("dz", (hidden, steps.time, slots.shape[2]))
            dh = workspace.scratch("dh", (hidden, slots.shape[2]))
            dh.fill(0)
            for t in reversed(range(steps.time)):
                d_state = d_states[t]
                if d_state is not None:
                    dh += d_state
                if mask is not None:
                    dh *= mask[t]
                np.multiply(dh, self._slope(states[:, t + 1], workspace), out=dz[:, t])
                np.matmul(weights[:, -hidden:].T, dz[:, t], out=dh)
                recurrence.flush(t, dh, workspace)
            return self._finish(direction, dz, steps, workspace, need_dx=need_dx)

        return backward

    def _slope(self, state: Array, workspace: Workspace) -> Array:
        """The activation's derivative, from what it gave."""
        slope = workspace.scratch("slope", state.shape)
        if self.activation == "relu":
            return np.greater(state, 0, out=slope)
        np.multiply(state, state, out=slope)
        return np.subtract(1, slope, out=slope)

    def _finish(
        self, direction: int, dz: Array, steps: Steps, workspace: Workspace, *, need_dx: bool
    ) -> Array | None:
        """The gradients of the weights, all steps in one product, and dL/dx."""
        inputs, (hidden, time, batch) = self.input_size, dz.shape
        flat = dz.reshape(hidden, time * batch)
        dw = workspace.scratch("dw", (hidden, inputs + 1 + hidden))
        np.matmul(flat, steps.flat().T, out=dw)
        self.weight.grad[direction] += dw[:, :inputs]
        self.bias.grad[direction] += dw[:, inputs]
        self.recurrent_weight.grad[direction] += dw[:, inputs + 1 :]
        if not need_dx:
            return None
        dx = workspace.empty("dx", (inputs, time * batch))
        np.matmul(self.weight.value[direction].T, flat, out=dx)
        return dx.reshape(inputs, time, batch)

    def _joined_weights(self, direction: int, workspace: Workspace) -> Array:
        """[W b R], (hidden_size, input_size + 1 + hidden_size)."""
        inputs, hidden = self.input_size, self.hidden_size
        weights = workspace.empty("weights", (hidden, inputs + 1 + hidden))
        weights[:, :inputs] = self.weight.value[direction]
        weights[:, inputs] = self.bias.value[direction]
        weights[:, inputs + 1 :] = self.recurrent_weight.value[direction]
        return weights
