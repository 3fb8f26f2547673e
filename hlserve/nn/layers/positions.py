"""What tells the steps of a sequence apart: a fixed pattern, or a trained one."""

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

_BASE = 10_000.0  # Vaswani et al. 2017, section 3.5
_DEVIATION = 0.02  # of learned positions at the start, as in BERT (Devlin et al. 2018)


@final
@dataclass(eq=False)
class PositionalEncoding(Layer):
    """y = x + table, sines and cosines of falling frequency (Vaswani et al. 2017, section 3.5).

    table[t, 2i] = sin(t / 10000^(2i / dim)), table[t, 2i + 1] the cosine of the same; an odd
    ``dim`` leaves out the last cosine. Shapes: x (batch, time, dim), kept. ONNX: Add.
    """

    time: int
    dim: int
    _table: Array = field(init=False, repr=False)

    def __post_init__(self) -> None:
        _require_sizes(self.time, self.dim)
        even = np.arange(0, self.dim, 2)
        angles = np.arange(self.time)[:, None] / _BASE ** (even / self.dim)
        self._table = np.empty((self.time, self.dim))
        self._table[:, 0::2] = np.sin(angles)
        self._table[:, 1::2] = np.cos(angles[:, : self.dim // 2])

    def forward(
        self, *inputs: Array, training: bool, workspace: Workspace
    ) -> tuple[Array, Backward]:
        """See Layer."""
        (x,) = inputs
        table = workspace.scratch("table", self._table.shape)
        np.copyto(table, self._table, casting="same_kind")
        return np.add(x, table[:, :, None], out=workspace.empty("y", x.shape)), _unchanged

    def emit(self, g: GraphBuilder, *inputs: str) -> str:
        """See Layer."""
        return g.node("Add", [*inputs, g.constant(self._table.astype(np.float32), "positions")])

    def output_shape(self, *shapes: Shape) -> Shape:
        """See Layer."""
        return _require_steps("PositionalEncoding", shapes, (self.time, self.dim))

    def channel_flow(
        self, flow: ChannelFlow, inputs: Sequence[Channels], shapes: Sequence[Shape]
    ) -> Channels:
        """No unit may go, since its column of the table would not."""
        flow.protect(inputs[0].ids)
        return inputs[0]


@final
@dataclass(eq=False)
class LearnedPositions(Layer):
    """y = x + table, a trained vector for every step (Gehring et al. 2017, section 3.1).

    Shapes: x (batch, time, dim), kept; table (time, dim). ONNX: Add.
    """

    time: int
    dim: int
    table: Param = field(init=False)

    def __post_init__(self) -> None:
        _require_sizes(self.time, self.dim)
        self.table = Param(np.zeros((self.time, self.dim), np.float32), out_axis=1)

    def forward(
        self, *inputs: Array, training: bool, workspace: Workspace
    ) -> tuple[Array, Backward]:
        """See Layer."""
        (x,) = inputs
        table = self.table
        y = np.add(x, table.value[:, :, None], out=workspace.empty("y", x.shape))

        def backward(dy: Array, *, need_dx: bool = True) -> tuple[Array, ...]:
            total = workspace.scratch("total", table.value.shape)
            table.grad += np.add.reduce(dy, axis=-1, out=total)
            return (dy,)

        return y, backward

    def emit(self, g: GraphBuilder, *inputs: str) -> str:
        """See Layer."""
        return g.node("Add", [*inputs, g.param(self.table)])

    def output_shape(self, *shapes: Shape) -> Shape:
        """See Layer."""
        return _require_steps("LearnedPositions", shapes, (self.time, self.dim))

    def params(self) -> dict[str, Param]:
        """See Layer."""
        return {"table": self.table}

    def initialize(self, rng: np.random.Generator) -> None:
        """Normal with a deviation of 0.02."""
        drawn = rng.standard_normal(self.table.value.shape, np.float32)
        self.table.value[...] = _DEVIATION * drawn

    def with_arrays(self, arrays: Mapping[str, Array]) -> Self:
        """See Layer."""
        layer = type(self)(*arrays["table"].shape)
        layer.table = self.table.with_value(arrays["table"])
        return layer

    def channel_flow(
        self, flow: ChannelFlow, inputs: Sequence[Channels], shapes: Sequence[Shape]
    ) -> Channels:
        """A column of the table goes with its unit."""
        units = flow.along(inputs[0], 1, self.dim)
        flow.bind(self.table, 1, units, is_producer=True)
        return inputs[0]


def _unchanged(dy: Array, *, need_dx: bool = True) -> tuple[Array, ...]:
    return (dy,)


def _require_sizes(time: int, dim: int) -> None:
    if time < 1 or dim < 1:
        raise ConfigError(f"time (={time}) and dim (={dim}) must be at least 1")


def _require_steps(kind: str, shapes: Sequence[Shape], expected: Shape) -> Shape:
    if tuple(shapes) != (expected,):
        raise ConfigError(
            f"{kind} expects rows of shape {expected}, got {', '.join(map(str, shapes))}"
        )
    return expected
