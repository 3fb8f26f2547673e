"""The mask of sequences that were made equally long by padding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np

from hlserve.errors import ConfigError
from hlserve.nn.graph_builder import GraphBuilder
from hlserve.nn.layer import Backward, Layer, Shape
from hlserve.nn.param import Array
from hlserve.nn.workspace import Workspace

_ONNX_INT64 = 7  # TensorProto.INT64


@final
@dataclass(eq=False)
class PaddingMask(Layer):
    """1 up to the last id of a row that is not padding, 0 behind it.

    A padding id ahead of that counts as any other id, so the mask is ones and then zeros, as
    recurrent layers and attention take it. A row of padding alone has no ones. Without
    ``is_prefix`` every padding id is at 0 wherever it stands, which attention takes too.

    Shapes: ids (batch, time), int64 -> mask (batch, time), int64. No gradient. ONNX: Equal, Not
    and, for a prefix, a CumSum from the end.
    """

    padding_id: int = 0
    is_prefix: bool = True

    output_dtype: ClassVar[str] = "int64"

    def forward(
        self, *inputs: Array, training: bool, workspace: Workspace
    ) -> tuple[Array, Backward]:
        """See Layer."""
        (ids,) = inputs
        is_id = np.not_equal(ids, self.padding_id, out=workspace.scratch("is_id", ids.shape, bool))
        mask = workspace.empty("mask", ids.shape, np.int64)
        if not self.is_prefix:
            np.copyto(mask, is_id)
            return mask, _nothing
        seen = workspace.scratch("seen", ids.shape[1:], bool)
        seen.fill(False)
        for t in reversed(range(len(ids))):
            seen |= is_id[t]
            np.copyto(mask[t], seen)
        return mask, _nothing

    def emit(self, g: GraphBuilder, *inputs: str) -> str:
        """See Layer."""
        padding_id = g.constant(np.array(self.padding_id, np.int64), "padding_id")
        is_id = g.node("Not", [g.node("Equal", [*inputs, padding_id])])
        ones = g.node("Cast", [is_id], to=_ONNX_INT64)
        if not self.is_prefix:
            return ones
        axis = g.constant(np.array(1, np.int64), "axis")
        from_here_on = g.node("CumSum", [ones, axis], reverse=1)  # ids left, this one with them
        zero = g.constant(np.array(0, np.int64), "zero")
        is_before_end = g.node("Greater", [from_here_on, zero])
        return g.node("Cast", [is_before_end], to=_ONNX_INT64)

    def output_shape(self, *shapes: Shape) -> Shape:
        """See Layer."""
        if len(shapes) != 1 or len(shapes[0]) != 1:
            raise ConfigError(
                f"PaddingMask expects rows of ids of shape (time,), got "
                f"{', '.join(map(str, shapes))}"
            )
        return shapes[0]


def _nothing(dy: Array, *, need_dx: bool = True) -> tuple[Array, ...]:
    return ()
