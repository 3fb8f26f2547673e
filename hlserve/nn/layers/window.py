"""The geometry of a window that slides over height and width: convolution and pooling."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from hlserve.errors import ConfigError

Pair = tuple[int, int]
IntOrPair = int | Sequence[int]  # JSON gives lists where Python gives tuples
Pads = int | Sequence[int]  # for both sides of all axes, one an axis, or first all begins


@dataclass(frozen=True, slots=True)
class Window:
    """Sizes as (height, width). Taps lie ``dilation`` apart.

    ``padding`` stands before the rows and columns, ``padding_after`` behind them, where None is
    as much as before.
    """

    kernel: Pair
    stride: Pair
    padding: Pair
    dilation: Pair = (1, 1)
    padding_after: Pair | None = None

    @property
    def pads(self) -> tuple[int, int, int, int]:
        """As ONNX lists them: above, left, below, right."""
        return (*self.padding, *(self.padding_after or self.padding))

    @property
    def reach(self) -> Pair:
        """From the first tap to the last, both included."""
        (height, width), (down, across) = self.kernel, self.dilation
        return (height - 1) * down + 1, (width - 1) * across + 1

    @property
    def padding_text(self) -> str:
        """As users write it."""
        return str(self.padding if self.padding_after is None else self.pads)

    @classmethod
    def along_width(cls, kernel_size: int, stride: int, padding: Pads, dilation: int = 1) -> Self:
        """A window over rows without a height, which are taken as images of height 1.

        Raises:
            ConfigError: a value is no int, or is too small; ``padding`` may be two ints.
        """
        before, after = _pair("padding", padding, least=0)
        return cls(
            (1, _int("kernel_size", kernel_size, least=1)),
            (1, _int("stride", stride, least=1)),
            (0, before),
            (1, _int("dilation", dilation, least=1)),
            None if before == after else (0, after),
        )

    @classmethod
    def of(
        cls, kernel_size: IntOrPair, stride: IntOrPair, padding: Pads, dilation: IntOrPair = 1
    ) -> Self:
        """A window from what users write: an int for both axes, or a pair.

        Raises:
            ConfigError: a value is no int or pair of ints, or is too small; ``padding`` may be
                four ints.
        """
        before, after = padding, padding
        if isinstance(padding, Sequence) and len(padding) == 4:  # two axes' ends
            before, after = padding[:2], padding[2:]
        first, last = _pair("padding", before, least=0), _pair("padding", after, least=0)
        return cls(
            _pair("kernel_size", kernel_size, least=1),
            _pair("stride", stride, least=1),
            first,
            _pair("dilation", dilation, least=1),
            None if first == last else last,
        )

    def check_pooling_padding(self) -> None:
        """Refuses padding that could fill a whole window, as ONNX and PyTorch do.

        Raises:
            ConfigError: it is more than half of the kernel, or what differs between the sides
                as much as the kernel.
        """
        if self.padding_after is None:
            if any(2 * p > k for p, k in zip(self.padding, self.kernel, strict=True)):
                raise ConfigError(
                    f"padding (={self.padding}) may be at most half of kernel_size (={self.kernel})"
                )
        elif any(p >= k for p, k in zip(self.pads, self.kernel * 2, strict=True)):
            raise ConfigError(
                f"padding (={self.pads}) must be smaller than kernel_size (={self.kernel})"
            )

    def output_size(self, height: int, width: int) -> Pair:
        """How many places the window has; a rest that it does not fill is left out (floor).

        Raises:
            ConfigError: the window is larger than the padded input.
        """
        sizes, reach, pads = (height, width), self.reach, self.pads
        padded = [n + pads[axis] + pads[axis + 2] for axis, n in enumerate(sizes)]
        if reach[0] > padded[0] or reach[1] > padded[1]:
            raise ConfigError(
                f"a window of {reach} does not fit into {sizes} "
                f"with padding {self.padding_text}; make kernel_size smaller or padding larger"
            )
        return (
            (padded[0] - reach[0]) // self.stride[0] + 1,
            (padded[1] - reach[1]) // self.stride[1] + 1,
        )

    def columns(self, tap: int, width: int, places: int) -> tuple[slice, slice]:
        """The places whose tap at offset ``tap`` lies inside the width, and where it lies there.

        Returns:
            A slice of the ``places`` output columns and the slice of equal length of the
            ``width`` input columns.
        """
        return self.along(1, tap, width, places)

    def along(self, axis: int, tap: int, size: int, places: int) -> tuple[slice, slice]:
        """As ``columns``, along the height (0) or the width (1)."""
        stride, shift = self.stride[axis], tap * self.dilation[axis] - self.padding[axis]
        first = min(max(0, -(shift // stride)), places)
        last = max(first, min(places, (size - 1 - shift) // stride + 1))
        start = first * stride + shift
        if first == last:
            return slice(0, 0), slice(0, 0)
        return slice(first, last), slice(start, start + (last - first - 1) * stride + 1, stride)


def _pair(name: str, value: IntOrPair, *, least: int) -> Pair:
    sizes = tuple(value) if isinstance(value, Sequence) else (value, value)
    if len(sizes) != 2 or not all(isinstance(n, int) and n >= least for n in sizes):
        raise ConfigError(f"{name} (={value!r}) must be an int of at least {least}, or two of them")
    return sizes[0], sizes[1]


def _int(name: str, value: int, *, least: int) -> int:
    if not isinstance(value, int) or value < least:
        raise ConfigError(f"{name} (={value!r}) must be an int of at least {least}")
    return value
