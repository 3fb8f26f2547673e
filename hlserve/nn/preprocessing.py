"""Preprocessing as layers, so that the exported graph takes raw values.

They read rows of any number type without converting them first, and keep the memory order of
what comes in: rows that lie batch-first stay so under the turned view, which the first Linear
hands to BLAS as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, final

import numpy as np

from hlserve.errors import ConfigError
from hlserve.nn.channels import ChannelFlow, Channels
from hlserve.nn.graph_builder import GraphBuilder
from hlserve.nn.layer import Backward, Layer, Shape, only_shape
from hlserve.nn.param import Array
from hlserve.nn.workspace import Workspace


@final
@dataclass(eq=False)
class Scale(Layer):
    """y = factor * x + shift, such as factor=1/255 for pixels.

    Shapes: any, kept. ONNX: Mul, and Add where there is a shift.
    """

    takes_raw: ClassVar[bool] = True

    factor: float
    shift: float = 0.0

    def __post_init__(self) -> None:
        self.factor, self.shift = float(self.factor), float(self.shift)
        if not np.isfinite([self.factor, self.shift]).all() or self.factor == 0:
            raise ConfigError(
                f"factor (={self.factor}) and shift (={self.shift}) must be finite, factor not 0"
            )

    def forward(
        self, *inputs: Array, training: bool, workspace: Workspace
    ) -> tuple[Array, Backward]:
        """See Layer."""
        (x,) = inputs
        rows, y_rows = _rows_and_output(x, workspace)
        np.multiply(rows, self.factor, out=y_rows, dtype=workspace.dtype, casting="unsafe")
        if self.shift:
            np.add(y_rows, self.shift, out=y_rows)

        def backward(dy: Array, *, need_dx: bool = True) -> tuple[Array, ...]:
            return (np.multiply(dy, self.factor, out=dy),)

        return np.moveaxis(y_rows, 0, -1), backward

    def emit(self, g: GraphBuilder, *inputs: str) -> str:
        """See Layer."""
        y = g.node("Mul", [*inputs, g.constant(np.array(self.factor, np.float32), "factor")])
        if not self.shift:
            return y
        return g.node("Add", [y, g.constant(np.array(self.shift, np.float32), "shift")])

    def output_shape(self, *shapes: Shape) -> Shape:
        """See Layer."""
        return only_shape("Scale", shapes)


@final
@dataclass(eq=False)
class Standardize(Layer):
    """y = (x - mean) / std for every column.

    Shapes: x (batch, columns) or (batch, time, columns), kept; ``mean`` and ``std`` hold one
    number a column. A column that never varies has std 0, which is taken as 1. ONNX: Sub, Div
    (not Mul and Add, which would lose the digits of a column with a large mean).
    """

    takes_raw: ClassVar[bool] = True

    mean: Sequence[float]
    std: Sequence[float]
    _mean: Array = field(init=False, repr=False)
    _std: Array = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._mean = np.array(self.mean, np.float64)
        self._std = np.array(self.std, np.float64)
        if self._mean.ndim != 1 or self._mean.shape != self._std.shape:
            raise ConfigError(
                f"mean has shape {self._mean.shape} and std {self._std.shape}; "
                "expected one number a column in each"
            )
        if not np.isfinite([self._mean, self._std]).all() or (self._std < 0).any():
            raise ConfigError("mean and std must be finite numbers, and std not negative")
        self._std[self._std == 0] = 1
        self.mean, self.std = tuple(self._mean.tolist()), tuple(self._std.tolist())

    def forward(
        self, *inputs: Array, training: bool, workspace: Workspace
    ) -> tuple[Array, Backward]:
        """See Layer."""
        (x,) = inputs
        rows, y_rows = _rows_and_output(x, workspace)
        mean, std = self._mean.astype(workspace.dtype), self._std.astype(workspace.dtype)
        np.subtract(rows, mean, out=y_rows, dtype=workspace.dtype, casting="unsafe")
        np.divide(y_rows, std, out=y_rows)

        def backward(dy: Array, *, need_dx: bool = True) -> tuple[Array, ...]:
            return (np.divide(dy, std[:, None], out=dy),)

        return np.moveaxis(y_rows, 0, -1), backward

    def emit(self, g: GraphBuilder, *inputs: str) -> str:
        """See Layer."""
        mean = g.constant(self._mean.astype(np.float32), "mean")
        std = g.constant(self._std.astype(np.float32), "std")
        return g.node("Div", [g.node("Sub", [*inputs, mean]), std])

    def output_shape(self, *shapes: Shape) -> Shape:
        """See Layer."""
        if len(shapes) != 1 or len(shapes[0]) > 2 or shapes[0][-1:] != self._mean.shape:
            raise ConfigError(
                f"Standardize expects rows of {len(self._mean)} columns, got "
                f"{', '.join(map(str, shapes))}"
            )
        return shapes[0]

    def channel_flow(
        self, flow: ChannelFlow, inputs: Sequence[Channels], shapes: Sequence[Shape]
    ) -> Channels:
        """No column may go, since its mean and std would not."""
        flow.protect(inputs[0].ids)
        return inputs[0]


def _rows_and_output(x: Array, workspace: Workspace) -> tuple[Array, Array]:
    """The input and a buffer for the output, both batch-first, the buffer ordered as the input."""
    rows = np.moveaxis(x, -1, 0)
    if rows.flags.c_contiguous:
        return rows, workspace.empty("y", rows.shape)
    return rows, np.moveaxis(workspace.empty("y", x.shape), -1, 0)
