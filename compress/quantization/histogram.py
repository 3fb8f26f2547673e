"""A histogram of values that come one batch after another, in memory that does not grow.

Nothing need be known ahead: where a value falls beyond the bins, they become twice as wide, as
often as it takes. Bins are powers of two wide and lie at multiples of their width, so two of them
become one exactly, and the counts are those of a histogram taken at once (the mergeable form of
the collectors in NVIDIA's TensorRT and in ONNX Runtime, which interpolate where they widen).
"""

from __future__ import annotations

from typing import final

import numpy as np
from numpy.typing import NDArray

from hlserve.nn.param import Array

BINS = 2048  # at least half of them in use: finer than 1/4 of a uint8 step

_DIGITS = 40  # binary ones of a bin's number: it stays exact in a float64 and in an int64
_SMALLEST = -1040  # exponent of the narrowest bin: a float64 holds its multiples exactly


@final
class Histogram:
    """Counts of equal bins that cover all finite values so far.

    NaN and infinity are counted apart: no range can hold them.

    Attributes:
        low, high: the smallest and the largest finite value, exactly; of no values inf and -inf.
        n: finite values so far.
        n_strange: NaN and infinite ones.
    """

    def __init__(self) -> None:
        self.low, self.high = np.inf, -np.inf
        self.n = self.n_strange = 0
        self._exponent = _SMALLEST  # bins are 2 ** exponent wide
        self._first = 0  # bin ``i`` begins at (first + i) * width
        self._counts = np.zeros(BINS, np.int64)

    @property
    def width(self) -> float:
        """Of a bin."""
        return float(np.ldexp(1.0, self._exponent))

    @property
    def start(self) -> float:
        """Where the first bin begins."""
        return self._first * self.width

    @property
    def counts(self) -> NDArray[np.int64]:
        """(BINS,): values in each bin; the end of a bin belongs to the next one."""
        return self._counts.copy()

    @property
    def middles(self) -> NDArray[np.float64]:
        """(BINS,): the middle of every bin."""
        return np.asarray((self._first + np.arange(BINS) + 0.5) * self.width)

    def add(self, values: Array) -> None:
        """Counts the values of an array of floats, of any shape."""
        flat = np.asarray(values, np.float64).reshape(-1)
        finite = flat[np.isfinite(flat)]
        self.n_strange += flat.size - finite.size
        if not finite.size:
            return
        self.low = min(self.low, float(finite.min()))
        self.high = max(self.high, float(finite.max()))
        self._widen()
        places = self._number(finite) - self._first
        self._counts += np.bincount(places, minlength=BINS)
        self.n += finite.size

    def share_outside(self, low: float, high: float) -> float:
        """The share of values below ``low`` or above ``high``, to within the bins they end in."""
        if not self.n:
            return 0.0
        middles = self.middles
        return float(self._counts[(middles < low) | (middles > high)].sum() / self.n)

    def condensed(self, most: int) -> tuple[NDArray[np.int64], float, float]:
        """Counts of at most ``most`` bins, where the first begins and where the last ends."""
        used = np.flatnonzero(self._counts)
        if not used.size:
            return np.zeros(0, np.int64), 0.0, 0.0
        first, last = int(used[0]), int(used[-1]) + 1
        joined = -(-(last - first) // most)  # bins in one
        n = -(-(last - first) // joined)
        padded = np.zeros(n * joined, np.int64)
        padded[: last - first] = self._counts[first:last]
        start = self.start + first * self.width
        return padded.reshape(n, joined).sum(axis=1), start, start + n * joined * self.width

    # ----- below

    def _number(self, values: Array) -> NDArray[np.int64]:
        """Of the bin that each value is in, counted from zero; exact, as the width says."""
        return _floor(values, self._exponent).astype(np.int64)

    def _widen(self) -> None:
        """Makes the bins as wide as smallest and largest value need, and moves the counts."""
        exponent = self._narrowest()  # never below that of fewer values
        joined = min(exponent - self._exponent, 62)  # of 41 digits nothing but the sign is left
        used = np.flatnonzero(self._counts)
        numbers = (self._first + used) >> joined
        kept = self._counts[used]
        self._exponent = exponent
        self._first = int(self._number(np.array(self.low)))
        self._counts = np.zeros(BINS, np.int64)
        np.add.at(self._counts, numbers - self._first, kept)

    def _narrowest(self) -> int:
        """The exponent of the narrowest bins that reach from the smallest to the largest value."""
        ends = np.array([self.low, self.high])
        largest = _exponent(np.abs(ends).max())
        span = _exponent(ends[1] / 2 - ends[0] / 2) + 1  # halves: a span may overflow
        exponent = max(span - BINS.bit_length(), largest - _DIGITS, _SMALLEST)
        while np.ptp(_floor(ends, exponent)) >= BINS:
            exponent += 1
        return exponent


def _exponent(value: float) -> int:
    """The least power of two above it; of zero the smallest there is."""
    return int(np.frexp(value)[1]) if value else _SMALLEST


def _floor(values: NDArray[np.float64], exponent: int) -> NDArray[np.float64]:
    """The values in powers of two, rounded down; what is too small for that is not lost."""
    scaled = np.ldexp(values, -exponent)
    return np.where((scaled == 0) & (values < 0), -1.0, np.floor(scaled))
