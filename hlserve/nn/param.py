"""A trained array, and how its values map to integers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class QParams:
    """An affine map between real and integer values: real = scale * (integer - zero_point).

    Source: Jacob et al. 2018, arXiv:1712.05877, equation 1; ONNX QuantizeLinear.

    Attributes:
        scale: float32, shape () for one map, or (channels,) for one a channel.
        zero_point: the integer that stands for 0.0; same shape as ``scale``.
        axis: which axis of the array the channels lie on; None for one map.
        dtype: "uint8", "int8" or "int32" (biases).
    """

    scale: NDArray[np.float32]
    zero_point: NDArray[Any]
    axis: int | None
    dtype: str


class Param:
    """An array of a layer, trained as a rule, with its gradient.

    ``value`` and ``grad`` are views into the flat vectors of the network that holds the
    parameter, so an optimizer updates all parameters in one pass. Until a network takes the
    parameter they are arrays of their own.

    Attributes:
        value: the array; shape and dtype are the parameter's.
        grad: dL/d(value), same shape and dtype; layers add to it.
        out_axis: the axis that indexes output channels, or None.
        in_axis: the axis that indexes input channels, or None.
        mask: 0/1 array of the same shape that pruning keeps multiplied in, or None.
        qparams: how the exporter writes the values as integers; None means as floats.
        is_trained: whether gradients change it. A statistic such as BatchNorm's running mean is
            not: the layer's own forward updates it in training.
    """

    __slots__ = ("grad", "in_axis", "is_trained", "mask", "out_axis", "qparams", "value")

    def __init__(
        self,
        value: Array,
        *,
        out_axis: int | None = None,
        in_axis: int | None = None,
        is_trained: bool = True,
    ) -> None:
        self.value = value
        self.grad = np.zeros_like(value)
        self.out_axis = out_axis
        self.in_axis = in_axis
        self.is_trained = is_trained
        self.mask: Array | None = None
        self.qparams: QParams | None = None

    def with_value(self, value: Array) -> Param:
        """A parameter with the same axis roles and another value; no mask, no qparams."""
        return Param(
            np.array(value),
            out_axis=self.out_axis,
            in_axis=self.in_axis,
            is_trained=self.is_trained,
        )

    def place(self, value: Array, grad: Array) -> None:
        """Moves the parameter into views of flat vectors; the values are copied there."""
        value[...] = self.value
        grad[...] = 0
        self.value = value
        self.grad = grad

    def __repr__(self) -> str:
        return f"Param(shape={self.value.shape}, dtype={self.value.dtype})"
