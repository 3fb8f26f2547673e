"""What a table needs before it is numbers without gaps: missing values and categories."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, final

import numpy as np

from hlserve.errors import ConfigError
from hlserve.nn.channels import ChannelFlow, Channels
from hlserve.nn.graph_builder import GraphBuilder
from hlserve.nn.layer import Backward, Layer, Shape
from hlserve.nn.param import Array
from hlserve.nn.workspace import Workspace


@final
@dataclass(eq=False)
class Impute(Layer):
    """Fills missing values, which are NaN, with one number a column.

    Shapes: x (batch, columns) -> y (batch, columns + len(indicators)): behind the filled columns
    stands, for every column named in ``indicators``, 1 where its value was missing and 0 where
    not, so that a network can learn from the gap itself (Sperrin et al. 2020, "Missing data
    should be handled differently for prediction than for description or causal explanation").
    ONNX: IsNaN, Where; Gather, Cast and Concat for the indicators.
    """

    takes_missing: ClassVar[bool] = True

    fill: Sequence[float]
    indicators: Sequence[int] = ()
    _fill: Array = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.fill, self.indicators = tuple(map(float, self.fill)), tuple(self.indicators)
        self._fill = np.array(self.fill, np.float64)
        if not self.fill or not np.isfinite(self._fill).all():
            raise ConfigError("fill must hold one finite number a column")
        _require_columns("indicators", self.indicators, len(self.fill))

    def forward(
        self, *inputs: Array, training: bool, workspace: Workspace
    ) -> tuple[Array, Backward]:
        """See Layer."""
        (x,) = inputs
        columns, batch = x.shape
        is_missing = np.isnan(x, out=workspace.empty("is_missing", x.shape, np.bool_))
        y = workspace.empty("y", (columns + len(self.indicators), batch))
        np.copyto(y[:columns], x)
        fill = self._fill.astype(workspace.dtype)
        np.copyto(y[:columns], fill[:, None], where=is_missing)
        for place, column in enumerate(self.indicators, start=columns):
            y[place] = is_missing[column]

        def backward(dy: Array, *, need_dx: bool = True) -> tuple[Array, ...]:
            dx = dy[:columns]
            np.copyto(dx, 0, where=is_missing)
            return (dx,)

        return y, backward

    def emit(self, g: GraphBuilder, *inputs: str) -> str:
        """See Layer."""
        (x,) = inputs
        fill = g.constant(self._fill.astype(np.float32), "fill")
        filled = g.node("Where", [g.node("IsNaN", [x]), fill, x])
        if not self.indicators:
            return filled
        columns = g.constant(np.array(self.indicators, np.int64), "indicators")
        chosen = g.node("Gather", [x, columns], axis=1)
        gaps = g.node("Cast", [g.node("IsNaN", [chosen])], to=_FLOAT)
        return g.node("Concat", [filled, gaps], axis=1)

    def output_shape(self, *shapes: Shape) -> Shape:
        """See Layer."""
        _require_rows("Impute", shapes, len(self.fill))
        return (len(self.fill) + len(self.indicators),)

    def channel_flow(
        self, flow: ChannelFlow, inputs: Sequence[Channels], shapes: Sequence[Shape]
    ) -> Channels:
        """No column may go, since its fill would not."""
        return _kept(flow, inputs[0], self.output_shape(*shapes)[0])


@final
@dataclass(eq=False)
class OneHot(Layer):
    """Columns of categories as one column a category: 1 where the row has it, else 0.

    A category is a whole number, as it stands in the table; a row whose number is none of
    ``categories`` has zeros in all of them. The other columns come first, in their order.

    Shapes: x (batch, columns) -> y (batch, columns - len(categories) + number of categories).
    ONNX: Gather, Round, Equal, Cast, Concat.

    Attributes:
        n_columns: of the input.
        columns: which of them hold categories.
        categories: for each of those the numbers that it may hold.
    """

    n_columns: int
    columns: Sequence[int]
    categories: Sequence[Sequence[int]]
    _others: Array = field(init=False, repr=False)
    _sources: Array = field(init=False, repr=False)
    _codes: Array = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.columns = tuple(self.columns)
        self.categories = tuple(tuple(codes) for codes in self.categories)
        _require_columns("columns", self.columns, self.n_columns)
        if len(self.columns) != len(self.categories) or not all(self.categories):
            raise ConfigError(
                f"categories (={self.categories}) must name some for each of the "
                f"{len(self.columns)} columns"
            )
        if any(len(set(codes)) != len(codes) for codes in self.categories):
            raise ConfigError(f"categories (={self.categories}) name one twice")
        sizes = [len(codes) for codes in self.categories]
        self._others = np.setdiff1d(np.arange(self.n_columns), self.columns)
        self._sources = np.repeat(np.array(self.columns, np.int64), sizes)
        self._codes = np.array([code for codes in self.categories for code in codes], np.float64)

    def forward(
        self, *inputs: Array, training: bool, workspace: Workspace
    ) -> tuple[Array, Backward]:
        """See Layer."""
        (x,) = inputs
        n_others = len(self._others)
        y = workspace.empty("y", (n_others + len(self._codes), x.shape[-1]))
        for place, column in enumerate(self._others):
            y[place] = x[column]
        rounded = workspace.scratch("rounded", x.shape[1:])
        hot = y[n_others:]
        for place, (column, code) in enumerate(zip(self._sources, self._codes, strict=True)):
            np.equal(np.rint(x[column], out=rounded), code, out=hot[place], casting="unsafe")

        def backward(dy: Array, *, need_dx: bool = True) -> tuple[Array, ...]:
            dx = workspace.empty("dx", x.shape)
            dx.fill(0)
            for place, column in enumerate(self._others):
                dx[column] = dy[place]
            return (dx,)

        return y, backward

    def emit(self, g: GraphBuilder, *inputs: str) -> str:
        """See Layer."""
        (x,) = inputs
        sources = g.constant(self._sources, "columns")
        chosen = g.node("Round", [g.node("Gather", [x, sources], axis=1)])
        codes = g.constant(self._codes.astype(np.float32), "categories")
        hot = g.node("Cast", [g.node("Equal", [chosen, codes])], to=_FLOAT)
        if not len(self._others):
            return hot
        others = g.node("Gather", [x, g.constant(self._others, "columns")], axis=1)
        return g.node("Concat", [others, hot], axis=1)

    def output_shape(self, *shapes: Shape) -> Shape:
        """See Layer."""
        _require_rows("OneHot", shapes, self.n_columns)
        return (len(self._others) + len(self._codes),)

    def channel_flow(
        self, flow: ChannelFlow, inputs: Sequence[Channels], shapes: Sequence[Shape]
    ) -> Channels:
        """No column may go, since its categories would not."""
        return _kept(flow, inputs[0], self.output_shape(*shapes)[0])


_FLOAT = 1  # onnx.TensorProto.FLOAT


def _kept(flow: ChannelFlow, channels: Channels, n_outputs: int) -> Channels:
    units = flow.new(n_outputs)
    flow.protect(channels.ids)
    flow.protect(units)
    return Channels(units)


def _require_columns(name: str, columns: Sequence[int], n_columns: int) -> None:
    if len(set(columns)) != len(columns) or not all(0 <= c < n_columns for c in columns):
        raise ConfigError(
            f"{name} (={tuple(columns)}) must be different columns of 0 to {n_columns - 1}"
        )


def _require_rows(kind: str, shapes: Sequence[Shape], n_columns: int) -> None:
    if tuple(shapes) != ((n_columns,),):
        raise ConfigError(
            f"{kind} expects rows of {n_columns} columns, got {', '.join(map(str, shapes))}"
        )
