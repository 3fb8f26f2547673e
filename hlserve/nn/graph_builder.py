"""The few verbs a layer uses to say itself in ONNX; this module knows nothing of onnx."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from hlserve.nn.param import Array, Param, QParams

Attribute = int | float | str | Sequence[int] | Sequence[float] | Sequence[str]


class GraphBuilder(Protocol):
    """What a layer may ask for while it emits its operators. Names are tensor names.

    Attributes:
        row_shapes: the shape of one row of every tensor that is a layer's input; filled by the
            network as it walks, for layers whose spelling depends on it.
    """

    row_shapes: dict[str, tuple[int, ...]]

    def node(
        self, op_type: str, inputs: Sequence[str], *, output: int = 0, **attributes: Attribute
    ) -> str:
        """Adds an operator of the default domain and answers its output number ``output``.

        An empty input name leaves out an optional input.
        """

    def param(self, param: Param) -> str:
        """Adds a trained array; integers and a DequantizeLinear where ``qparams`` are set."""

    def constant(self, array: Array, hint: str) -> str:
        """Adds an array that is not trained; ``hint`` becomes part of its name."""

    def quantized(self, x: str, qparams: QParams) -> str:
        """Adds a QuantizeLinear and DequantizeLinear pair behind an activation."""
