"""Multi-head self-attention."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Self, final

import numpy as np

from hlserve.errors import ConfigError
from hlserve.nn.channels import ChannelFlow, Channels
from hlserve.nn.graph_builder import GraphBuilder
from hlserve.nn.initializers import glorot_uniform
from hlserve.nn.layer import Backward, Layer, MaskKind, Shape
from hlserve.nn.layers.scaled_dot_product import MASKED, attend
from hlserve.nn.param import Array, Param
from hlserve.nn.workspace import Workspace


@final
@dataclass(eq=False)
class MultiHeadAttention(Layer):
    """Every step becomes a mixture of all steps, weighed by several heads.

    Vaswani et al. 2017, arXiv:1706.03762, section 3.2.2, with queries, keys and values from the
    same x. Shapes: x (batch, time, dim) -> y (batch, time, dim); a second input is a mask
    (batch, time) int64, 1 for steps and 0 for padding, which no step then looks at. A mask holds
    at least one 1; a row without looks at all its steps alike, and no NaN comes of it.

    Parameters are stacked as PyTorch stacks them: in_weight (3 dim, dim) for queries, keys,
    values, each head after head, in_bias (3 dim,), out_weight (dim, dim), out_bias (dim,);
    without ``has_bias`` no biases. ONNX: MatMul, Softmax and what turns axes; the mask by Where.
    """

    second_input: ClassVar[MaskKind | None] = "mask"

    dim: int
    n_heads: int
    has_bias: bool = True
    in_weight: Param = field(init=False)
    out_weight: Param = field(init=False)
    in_bias: Param | None = field(init=False)
    out_bias: Param | None = field(init=False)

    def __post_init__(self) -> None:
        if self.n_heads < 1 or self.dim < 1 or self.dim % self.n_heads:
            raise ConfigError(
                f"dim (={self.dim}) must be a multiple of n_heads (={self.n_heads}), "
                "both at least 1"
            )
        dim = self.dim
        self.in_weight = Param(np.zeros((3 * dim, dim), np.float32), out_axis=0, in_axis=1)
        self.out_weight = Param(np.zeros((dim, dim), np.float32), out_axis=0, in_axis=1)
        self.in_bias = self.out_bias = None
        if self.has_bias:
            self.in_bias = Param(np.zeros(3 * dim, np.float32), out_axis=0)
            self.out_bias = Param(np.zeros(dim, np.float32), out_axis=0)

    def forward(
        self, *inputs: Array, training: bool, workspace: Workspace
    ) -> tuple[Array, Backward]:
        """See Layer."""
        x, mask = inputs[0], inputs[1] if len(inputs) == 2 else None
        rows = _rows(x, workspace.empty("rows", self._inner(x)))
        qkv = _project(
            self.in_weight, self.in_bias, rows, workspace.empty("qkv", self._inner(x, 3))
        )
        mixed, attend_backward = attend(self._by_head(qkv, x), mask, workspace)
        mixed = mixed.reshape(rows.shape)
        y_rows = _project(
            self.out_weight, self.out_bias, mixed, workspace.scratch("y_rows", self._inner(x))
        )
        y = _steps(y_rows, workspace.empty("y", x.shape))

        def backward(dy: Array, *, need_dx: bool = True) -> tuple[Array, ...]:
            dy_rows = _rows(dy, workspace.scratch("dy_rows", self._inner(x)))
            _add_gradients(self.out_weight, self.out_bias, mixed, dy_rows, workspace)
            dmixed = workspace.scratch("dmixed", rows.shape)
            np.matmul(self.out_weight.value.T, dy_rows, out=dmixed)
            dqkv = workspace.scratch("dqkv", qkv.shape)
            attend_backward(self._by_head(dmixed, x)[0], self._by_head(dqkv, x))
            _add_gradients(self.in_weight, self.in_bias, rows, dqkv, workspace)
            if not need_dx:
                return ()
            np.matmul(self.in_weight.value.T, dqkv, out=dmixed)
            return (_steps(dmixed, workspace.empty("dx", x.shape)),)

        return y, backward

    def emit(self, g: GraphBuilder, *inputs: str) -> str:
        """See Layer."""
        head_dim = self.dim // self.n_heads
        qkv = _emit_project(g, inputs[0], self.in_weight, self.in_bias)
        split = g.constant(np.array([0, 0, 3, self.n_heads, head_dim], np.int64), "heads")
        qkv = g.node("Transpose", [g.node("Reshape", [qkv, split])], perm=(2, 0, 3, 1, 4))
        q, k, v = (
            g.node("Gather", [qkv, g.constant(np.array(i, np.int64), "part")], axis=0)
            for i in range(3)
        )  # (batch, heads, time, head_dim) each
        q = g.node("Mul", [q, g.constant(np.array(1 / math.sqrt(head_dim), np.float32), "scale")])
        scores = g.node("MatMul", [q, g.node("Transpose", [k], perm=(0, 1, 3, 2))])
        if len(inputs) == 2:
            scores = _emit_masked(g, scores, inputs[1])
        mixed = g.node("MatMul", [g.node("Softmax", [scores], axis=-1), v])
        joined = g.constant(np.array([0, 0, self.dim], np.int64), "joined")
        mixed = g.node("Reshape", [g.node("Transpose", [mixed], perm=(0, 2, 1, 3)), joined])
        return _emit_project(g, mixed, self.out_weight, self.out_bias)

    def output_shape(self, *shapes: Shape) -> Shape:
        """See Layer."""
        first = shapes[0] if shapes else ()
        fits = len(first) == 2 and first[1] == self.dim and first[0] > 0
        if not fits or tuple(shapes[1:]) not in ((), (first[:1],)):
            raise ConfigError(
                f"MultiHeadAttention expects rows of shape (time, {self.dim}), and if a second "
                f"input a mask (time,), got {', '.join(map(str, shapes))}"
            )
        return first

    def params(self) -> dict[str, Param]:
        """See Layer."""
        named = {
            "in_weight": self.in_weight,
            "in_bias": self.in_bias,
            "out_weight": self.out_weight,
            "out_bias": self.out_bias,
        }
        return {name: param for name, param in named.items() if param is not None}

    def initialize(self, rng: np.random.Generator) -> None:
        """Glorot uniform weights for each of the four projections, zero biases."""
        for param in (self.in_weight, self.out_weight):
            shape = param.value.shape
            param.value[...] = glorot_uniform(rng, shape, fan_in=self.dim, fan_out=self.dim)
        for bias in (self.in_bias, self.out_bias):
            if bias is not None:
                bias.value[...] = 0

    def macs(self, *shapes: Shape) -> int:
        """See Layer."""
        time = shapes[0][0]
        return time * self.dim * (4 * self.dim + 2 * time)

    def with_arrays(self, arrays: Mapping[str, Array]) -> Self:
        """See Layer."""
        layer = type(self)(len(arrays["out_weight"]), self.n_heads, self.has_bias)
        layer.in_weight = self.in_weight.with_value(arrays["in_weight"])
        layer.out_weight = self.out_weight.with_value(arrays["out_weight"])
        if self.in_bias is not None and self.out_bias is not None:
            layer.in_bias = self.in_bias.with_value(arrays["in_bias"])
            layer.out_bias = self.out_bias.with_value(arrays["out_bias"])
        return layer

    def channel_flow(
        self, flow: ChannelFlow, inputs: Sequence[Channels], shapes: Sequence[Shape]
    ) -> Channels:
        """No unit may go: what comes in and out is as wide as the heads together."""
        units = flow.new(self.dim)
        flow.protect(units)
        for channels in inputs:
            flow.protect(channels.ids)
        return Channels(units, axis=1)

    def _inner(self, x: Array, parts: int = 1) -> Shape:
        time, _, batch = x.shape
        return (parts * self.dim, batch * time)

    def _by_head(self, rows: Array, x: Array) -> Array:
        """(parts * dim, batch * time) as (parts, heads, head_dim, batch, time)."""
        time, _, batch = x.shape
        return rows.reshape(
            len(rows) // self.dim, self.n_heads, self.dim // self.n_heads, batch, time
        )


def _rows(x: Array, out: Array) -> Array:
    """(time, dim, batch) as (dim, batch * time): what one product with a weight takes."""
    time, dim, batch = x.shape
    np.copyto(out.reshape(dim, batch, time), x.transpose(1, 2, 0))
    return out


def _steps(rows: Array, out: Array) -> Array:
    """The way back of ``_rows``."""
    time, dim, batch = out.shape
    np.copyto(out, rows.reshape(dim, batch, time).transpose(2, 0, 1))
    return out


def _project(weight: Param, bias: Param | None, rows: Array, out: Array) -> Array:
    np.matmul(weight.value, rows, out=out)
    if bias is not None:
        out += bias.value[:, None]
    return out


def _add_gradients(
    weight: Param, bias: Param | None, rows: Array, dy: Array, workspace: Workspace
) -> None:
    dw = workspace.scratch("dw", weight.value.shape)
    weight.grad += np.matmul(dy, rows.T, out=dw)
    if bias is not None:
        ones = workspace.scratch("ones", dy.shape[1:])
        ones.fill(1)
        bias.grad += np.matmul(dy, ones)


def _emit_project(g: GraphBuilder, x: str, weight: Param, bias: Param | None) -> str:
    y = g.node("MatMul", [x, g.node("Transpose", [g.param(weight)], perm=(1, 0))])
    return y if bias is None else g.node("Add", [y, g.param(bias)])


def _emit_masked(g: GraphBuilder, scores: str, mask: str) -> str:
    axes = g.constant(np.array([1, 2], np.int64), "axes")
    is_step = g.node("Greater", [mask, g.constant(np.array(0, np.int64), "zero")])
    is_step = g.node("Unsqueeze", [is_step, axes])  # (batch, 1, 1, keys)
    return g.node("Where", [is_step, scores, g.constant(np.array(MASKED, np.float32), "masked")])
