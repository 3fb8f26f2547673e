"""The geometry of a window that slides over height and width: convolution and pooling."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from hlserve.errors import ConfigError

Pair = tuple[int, int]
IntOrPair = int | Sequence[int]  # JSON gives lists where Python gives tuples


@dataclass(frozen=True, slots=True)
class Window:
    """Sizes as (height, width); padding is zeros on both sides, as ONNX's ``pads`` p, q, p, q."""

    kernel: Pair
    stride: Pair
    padding: Pair

    @classmethod
    def of(cls, kernel_size: IntOrPair, stride: IntOrPair, padding: IntOrPair) -> Self:
        """A window from what users write: an int for both axes, or a pair.

        Raises:
            ConfigError: a value is no int or pair of ints, or is too small.
        """
        return cls(
            _pair("kernel_size", kernel_size, least=1),
            _pair("stride", stride, least=1),
            _pair("padding", padding, least=0),
        )

    def output_size(self, height: int, width: int) -> Pair:
        """How many places the window has; a rest that it does not fill is left out (floor).

        Raises:
            ConfigError: the window is larger than the padded input.
        """
        padded = (height + 2 * self.padding[0], width + 2 * self.padding[1])
        if self.kernel[0] > padded[0] or self.kernel[1] > padded[1]:
            raise ConfigError(
                f"a window of {self.kernel} does not fit into {(height, width)} "
                f"with padding {self.padding}; make kernel_size smaller or padding larger"
            )
        return (
            (padded[0] - self.kernel[0]) // self.stride[0] + 1,
            (padded[1] - self.kernel[1]) // self.stride[1] + 1,
        )

    def columns(self, tap: int, width: int, places: int) -> tuple[slice, slice]:
        """The places whose tap at offset ``tap`` lies inside the width, and where it lies there.

        Returns:
            A slice of the ``places`` output columns and the slice of equal length of the
            ``width`` input columns.
        """
        stride, shift = self.stride[1], tap - self.padding[1]
        first = min(max(0, -(shift // stride)), places)
        last = max(first, min(places, (width - 1 - shift) // stride + 1))
        start = first * stride + shift
        if first == last:
            return slice(0, 0), slice(0, 0)
        return slice(first, last), slice(start, start + (last - first - 1) * stride + 1, stride)


def _pair(name: str, value: IntOrPair, *, least: int) -> Pair:
    sizes = tuple(value) if isinstance(value, Sequence) else (value, value)
    if len(sizes) != 2 or not all(isinstance(n, int) and n >= least for n in sizes):
        raise ConfigError(f"{name} (={value!r}) must be an int of at least {least}, or two of them")
    return sizes[0], sizes[1]
