"""What recurrent layers share: the walks over a sequence, their shapes and their ONNX form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from hlserve.errors import ConfigError
from hlserve.nn.channels import ChannelFlow, Channels
from hlserve.nn.graph_builder import Attribute, GraphBuilder
from hlserve.nn.initializers import glorot_uniform, orthogonal
from hlserve.nn.layer import Backward, Shape
from hlserve.nn.param import Array, Param
from hlserve.nn.workspace import Workspace

MOST_GATE_WEIGHTS = 2**28  # more is a slip, or a damaged checkpoint
FLUSH_EVERY = 8  # steps
SMALLEST_GRADIENT = 1e-30  # float32 is subnormal below 1.2e-38: eight steps are left to shrink in
_ONNX_INT32 = 6  # TensorProto.INT32


class Recurrent(Protocol):
    """What these functions ask of a layer. Weights are laid out as ONNX has them."""

    input_size: int
    hidden_size: int
    bidirectional: bool
    last_only: bool
    weight: Param  # (directions, gates * hidden_size, input_size)
    recurrent_weight: Param  # (directions, gates * hidden_size, hidden_size)
    bias: Param  # (directions, gates * hidden_size)

    def params(self) -> dict[str, Param]:
        """See Layer."""


@dataclass(frozen=True, slots=True)
class Steps:
    """A batch of sequences in the order in which one direction walks them.

    Attributes:
        slots: (input_size + 1 + hidden_size, time + 1, batch). Slot t holds the input of step
            t, a 1 for the bias, and the state after t steps, which the cell writes. So a step
            is one matrix product with no additions behind it, and a weight's gradient one
            product over all steps.
        mask: (time, batch) of 0.0 and 1.0, or None. Where it is 0 the state becomes 0.
    """

    slots: Array
    mask: Array | None

    @property
    def time(self) -> int:
        """How many steps there are."""
        return int(self.slots.shape[1]) - 1

    def flat(self) -> Array:
        """All steps side by side, (input_size + 1 + hidden_size, time * batch), a view."""
        n, slots, batch = self.slots.shape
        return self.slots[:, :-1].reshape(n, (slots - 1) * batch)


class CellBackward(Protocol):
    """The way back through one walk."""

    def __call__(self, d_states: Sequence[Array | None], *, need_dx: bool) -> Array | None:
        """Adds to the gradients of one direction.

        ``d_states`` holds dL/d(state) of every step, (hidden_size, batch), None for zero.
        Answers dL/dx, (input_size, time, batch), if needed.
        """


class Cell(Protocol):
    """Walks one direction; writes the states into ``steps.slots``."""

    def __call__(self, direction: int, steps: Steps, workspace: Workspace) -> CellBackward:
        """The way back for this walk."""


# ----- construction


def require_sizes(kind: str, layer: Recurrent) -> None:
    """Refuses sizes below 1, and such as no memory holds.

    Raises:
        ConfigError: one is.
    """
    if layer.input_size < 1 or layer.hidden_size < 1:
        raise ConfigError(
            f"{kind}: input_size (={layer.input_size}) and hidden_size (={layer.hidden_size}) "
            "must be at least 1"
        )
    if layer.hidden_size * max(layer.input_size, layer.hidden_size) > MOST_GATE_WEIGHTS:
        raise ConfigError(
            f"{kind}: input_size (={layer.input_size}) and hidden_size (={layer.hidden_size}) "
            "are too large"
        )


def zero_params(layer: Recurrent, gates: int) -> tuple[Param, Param, Param]:
    """Weight, recurrent weight and bias for so many gates."""
    directions, rows = 1 + layer.bidirectional, gates * layer.hidden_size
    weight = np.zeros((directions, rows, layer.input_size), np.float32)
    recurrent_weight = np.zeros((directions, rows, layer.hidden_size), np.float32)
    return (
        Param(weight, out_axis=1, in_axis=2),
        Param(recurrent_weight, out_axis=1, in_axis=2),
        Param(np.zeros((directions, rows), np.float32), out_axis=1),
    )


def initialize(layer: Recurrent, rng: np.random.Generator) -> None:
    """Glorot uniform input weights, orthogonal recurrent ones, a gate at a time; zero biases.

    Source: Saxe et al. 2014, arXiv:1312.6120, for the orthogonal ones.
    """
    hidden, inputs = layer.hidden_size, layer.input_size
    for param in layer.params().values():
        param.value[...] = 0
    for weight, recurrent_weight in zip(
        layer.weight.value, layer.recurrent_weight.value, strict=True
    ):
        for start in range(0, len(weight), hidden):
            gate = slice(start, start + hidden)
            weight[gate] = glorot_uniform(rng, (hidden, inputs), fan_in=inputs, fan_out=hidden)
            recurrent_weight[gate] = orthogonal(rng, hidden)


def sizes_of(arrays: Mapping[str, Array]) -> tuple[int, int]:
    """input_size and hidden_size of a layer with these arrays."""
    return arrays["weight"].shape[2], arrays["recurrent_weight"].shape[2]


# ----- running


def run(
    layer: Recurrent,
    cell: Cell,
    inputs: Sequence[Array],
    workspace: Workspace,
    *,
    state_scale: float = 1.0,
) -> tuple[Array, Backward]:
    """The states of every direction, the forward half first, and the way back.

    Args:
        layer: says the sizes and what is answered.
        cell: walks one direction.
        inputs: x (time, input_size, batch), and perhaps a prefix mask (time, batch).
        workspace: of the layer.
        state_scale: a state is this times what the cell writes into the slots.
    """
    x, hidden, directions = inputs[0], layer.hidden_size, 1 + layer.bidirectional
    time, _, batch = x.shape
    mask = _float_mask(inputs[1:], workspace)
    is_last = None if mask is None else _is_last(mask, workspace)
    leading = () if layer.last_only else (time,)
    y = workspace.empty("y", (*leading, directions * hidden, batch))
    backs = []
    for direction in range(directions):
        order, half = _order(direction), slice(direction * hidden, (direction + 1) * hidden)
        own = workspace.scope(("forward", "reverse")[direction])
        steps = _steps(layer, x[order], None if mask is None else mask[order], own)
        backs.append(cell(direction, steps, own))
        states = steps.slots[-hidden:]  # (hidden, time + 1, batch)
        if layer.last_only:
            _last_state(states, None if direction else is_last, y[half], workspace)
            y[half] *= state_scale
        else:
            np.multiply(states[:, 1:].transpose(1, 0, 2), state_scale, out=y[order, half])

    def backward(dy: Array, *, need_dx: bool = True) -> tuple[Array, ...]:
        dx: Array | None = None
        for direction, walk_back in enumerate(backs):
            half = slice(direction * hidden, (direction + 1) * hidden)
            if layer.last_only:
                d_states = _from_last(dy[half], None if direction else is_last, time, workspace)
            else:
                d_states = list(dy[_order(direction), half])
            part = walk_back(d_states, need_dx=need_dx)
            if part is not None:
                turned = part.transpose(1, 0, 2)[_order(direction)]
                dx = turned if dx is None else np.add(dx, turned, out=dx)
        return () if dx is None else (dx,)

    return y, backward


def _order(direction: int) -> slice:
    return slice(None, None, -1 if direction else None)


def _steps(layer: Recurrent, x: Array, mask: Array | None, workspace: Workspace) -> Steps:
    time, inputs, batch = x.shape
    slots = workspace.empty("slots", (inputs + 1 + layer.hidden_size, time + 1, batch))
    np.copyto(slots[:inputs, :time], x.transpose(1, 0, 2))
    slots[inputs] = 1
    slots[inputs + 1 :, 0] = 0
    return Steps(slots, mask)


def _float_mask(masks: Sequence[Array], workspace: Workspace) -> Array | None:
    if not masks:
        return None
    mask = workspace.empty("mask", masks[0].shape)
    np.copyto(mask, masks[0], casting="unsafe")
    return mask


def _is_last(mask: Array, workspace: Workspace) -> Array:
    """1.0 at the last step of every sequence, as the mask is ones and then zeros."""
    is_last = workspace.empty("is_last", mask.shape)
    np.copyto(is_last, mask)
    is_last[:-1] -= mask[1:]
    return is_last


def _last_state(states: Array, is_last: Array | None, out: Array, workspace: Workspace) -> None:
    """The state behind the last step that counts; the walk back in time ends at time 0 anyway."""
    if is_last is None:
        np.copyto(out, states[:, -1])
        return
    hidden, slots, batch = states.shape
    chosen = workspace.scratch("chosen", (hidden, slots - 1, batch))
    np.add.reduce(np.multiply(states[:, 1:], is_last, out=chosen), axis=1, out=out)


def _from_last(
    dy: Array, is_last: Array | None, time: int, workspace: Workspace
) -> list[Array | None]:
    if is_last is None:
        return [*[None] * (time - 1), dy]
    spread = workspace.empty("d_states", (time, *dy.shape))
    return list(np.multiply(dy, is_last[:, None], out=spread))


def flush(t: int, gradient: Array, workspace: Workspace) -> None:
    """Now and then sets what is too small to matter to zero.

    A gradient that vanishes on its way back becomes subnormal, and arithmetic with such numbers
    takes ten times as long.
    """
    if t % FLUSH_EVERY:
        return
    size = np.abs(gradient, out=workspace.scratch("size", gradient.shape))
    is_tiny = workspace.scratch("is_tiny", gradient.shape, bool)
    np.copyto(gradient, 0, where=np.less(size, SMALLEST_GRADIENT, out=is_tiny))


# ----- what a Layer says


def output_shape(kind: str, layer: Recurrent, shapes: Sequence[Shape]) -> Shape:
    """The shape of one row's states, or of its last one.

    Raises:
        ConfigError: rows are not sequences of this layer's inputs, or a mask does not fit.
    """
    wanted = f"rows of shape (time, {layer.input_size})"
    if not shapes or len(shapes) > 2 or len(shapes[0]) != 2 or shapes[0][0] < 1:
        raise ConfigError(f"{kind} expects {wanted} and perhaps a mask (time,), got {shapes}")
    time, features = shapes[0]
    if features != layer.input_size:
        raise ConfigError(f"{kind} expects {wanted}, got {shapes[0]}; change input_size")
    if len(shapes) == 2 and shapes[1] != (time,):
        raise ConfigError(f"{kind} expects a mask of shape ({time},), got {shapes[1]}")
    width = layer.hidden_size * (1 + layer.bidirectional)
    return (width,) if layer.last_only else (time, width)


def macs(layer: Recurrent, time: int) -> int:
    """Multiply-accumulates of the matrix products of one row."""
    return time * (layer.weight.value.size + layer.recurrent_weight.value.size)


def channel_flow(
    layer: Recurrent, flow: ChannelFlow, inputs: Sequence[Channels], gates: int
) -> Channels:
    """A unit is a hidden unit, of both directions: its rows of every gate, and its column."""
    units = flow.new(layer.hidden_size)
    rows = np.tile(units, gates)
    features = flow.along(inputs[0], 1, layer.input_size)
    flow.bind(layer.weight, 2, features, is_producer=False)
    flow.bind(layer.weight, 1, rows, is_producer=True)
    flow.bind(layer.recurrent_weight, 2, units, is_producer=False)
    flow.bind(layer.recurrent_weight, 1, rows, is_producer=True)
    flow.bind(layer.bias, 1, rows, is_producer=True)
    return Channels(np.tile(units, 1 + layer.bidirectional), axis=0 if layer.last_only else 1)


def emit(
    kind: str,
    layer: Recurrent,
    g: GraphBuilder,
    inputs: Sequence[str],
    recurrent_bias: Array,
    **attributes: Attribute,
) -> str:
    """ONNX's own operator between the turns to its time-first layout and back.

    Args:
        kind: the operator, ``RNN``, ``GRU`` or ``LSTM``.
        layer: whose arrays are written.
        g: collects the graph.
        inputs: x and perhaps a mask; the sum of a mask's row is ONNX's ``sequence_lens``.
        recurrent_bias: ONNX's second half of B, (directions, gates * hidden_size).
        **attributes: the operator's, beside ``hidden_size`` and ``direction``.
    """
    bias = np.concatenate([layer.bias.value, recurrent_bias], axis=1)
    fed = [
        g.node("Transpose", inputs[:1], perm=[1, 0, 2]),
        *(g.param(layer.weight), g.param(layer.recurrent_weight)),
        *(g.constant(bias, f"{kind.lower()}.bias"), *_sequence_lens(g, inputs[1:])),
    ]
    direction = "bidirectional" if layer.bidirectional else "forward"
    states = g.node(
        kind,
        fed,
        output=int(layer.last_only),
        hidden_size=layer.hidden_size,
        direction=direction,
        **attributes,
    )
    width = layer.hidden_size * (1 + layer.bidirectional)
    if layer.last_only:  # (directions, batch, hidden)
        rows_first, shape = g.node("Transpose", [states], perm=[1, 0, 2]), [0, width]
    else:  # (time, directions, batch, hidden)
        rows_first, shape = g.node("Transpose", [states], perm=[2, 0, 1, 3]), [0, 0, width]
    return g.node("Reshape", [rows_first, g.constant(np.array(shape, np.int64), "shape")])


def _sequence_lens(g: GraphBuilder, masks: Sequence[str]) -> list[str]:
    if not masks:
        return []
    axes = g.constant(np.array([1], np.int64), "axes")
    lengths = g.node("ReduceSum", [masks[0], axes], keepdims=0)
    return [g.node("Cast", [lengths], to=_ONNX_INT32)]
