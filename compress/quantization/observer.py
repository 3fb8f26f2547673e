"""What watches activations during calibration and answers how to quantize them.

The batches are seen once, one after another, and of each activation a histogram is kept, however
many values there are. Every range comes from it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from compress.quantization.histogram import Histogram
from hlserve.nn.param import Array, QParams

Range = tuple[float, float]
Observer = Literal["minmax", "percentile", "mse"]

STEPS = 255  # of uint8, from the smallest to the largest number
CUTS = np.exp2(-np.arange(41) / 8)  # shares of a side that are tried: each 8 % below the last


def observed(batches: Iterable[Mapping[str, Array]]) -> dict[str, Histogram]:
    """The histogram of every activation over all batches."""
    found: dict[str, Histogram] = {}
    for batch in batches:
        for name, values in batch.items():
            found.setdefault(name, Histogram()).add(values)
    return found


def value_range(seen: Histogram, observer: Observer, percentile: float) -> Range:
    """The range to quantize, as the observer of that name says; of no finite value (0, 0)."""
    if not seen.n:
        return 0.0, 0.0
    if observer == "mse":
        return least_error_range(seen)
    return percentile_range(seen, percentile if observer == "percentile" else 100.0)


def percentile_range(seen: Histogram, percentile: float) -> Range:
    """The range that holds ``percentile`` % of the values, or up to a bin more on each side.

    Args:
        seen: one value or more.
        percentile: up to 100, which is exact; the rest is cut off in equal parts on both sides,
            except that a side that ends at zero, as ReLU's does, stays.
    """
    low, high = seen.low, seen.high
    if percentile >= 100:
        return low, high
    shares = np.cumsum(seen.counts) / seen.n
    outside = (1 - percentile / 100) / (1 if low >= 0 or high <= 0 else 2)
    cut_low = seen.start + seen.width * int(np.searchsorted(shares, outside, side="right"))
    cut_high = seen.start + seen.width * (1 + int(np.searchsorted(shares, 1 - outside)))
    cut = max(low, cut_low) if low < 0 else low, min(high, cut_high) if high > 0 else high
    return cut if cut[0] < cut[1] else (low, high)


def least_error_range(seen: Histogram) -> Range:
    """The range of least mean squared error in uint8, among shares of both sides of zero.

    Source: Nagel et al. 2021, arXiv:2106.08295, section 3.1, equation 18. Every value stands in
    the middle of its bin.

    Args:
        seen: one value or more.
    """
    low, high = min(seen.low, 0.0), max(seen.high, 0.0)
    counts = seen.counts
    used = counts > 0
    counts, middles = counts[used], np.clip(seen.middles[used], seen.low, seen.high)
    best, least = (low, high), np.inf
    for cut_low in low * CUTS if low < 0 else (0.0,):
        for cut_high in high * CUTS if high > 0 else (0.0,):
            error = _squared_error(counts, middles, (float(cut_low), float(cut_high)))
            if error < least:
                best, least = (float(cut_low), float(cut_high)), error
    return best


def activation_qparams(limits: Range) -> QParams:
    """uint8 for a range: asymmetric, and 0.0 is exactly representable.

    Source: Jacob et al. 2018, arXiv:1712.05877, section 3 and ONNX QuantizeLinear.
    """
    low, high = min(limits[0], 0.0), max(limits[1], 0.0)
    scale = np.float32((high - low) / STEPS)
    if not scale > np.finfo(np.float32).tiny:  # all zero, or too small for a float32 scale
        scale = np.float32(1)
    zero_point = np.clip(np.rint(-low / float(scale)), 0, STEPS)
    return QParams(np.array(scale, np.float32), np.array(zero_point, np.uint8), None, "uint8")


def held_range(qparams: QParams) -> Range:
    """The smallest and the largest number that uint8 activations can be."""
    scale, zero_point = float(qparams.scale), float(qparams.zero_point)
    return (0 - zero_point) * scale, (STEPS - zero_point) * scale


def weight_qparams(
    weight: Array, axis: int | None, *, bias: Array | None = None, input_scale: float = 1.0
) -> QParams:
    """int8 for weights: symmetric, one scale an output channel, or one where ``axis`` is None.

    A channel whose bias would not fit into int32 at ``input_scale`` times its scale gets a
    larger scale; this happens where pruning or training left (nearly) no weights.
    """
    others = tuple(a for a in range(weight.ndim) if a != axis)
    scale = np.abs(weight).max(axis=others).astype(np.float64) / 127
    if bias is not None:
        # half of int32's range: rounding stays far from the edge
        least = np.abs(bias).astype(np.float64) / (2.0**30 * input_scale)
        scale = np.maximum(scale, least if axis is not None else least.max())
    floats = np.maximum(scale, np.finfo(np.float32).tiny).astype(np.float32)
    return QParams(floats, np.zeros(floats.shape, np.int8), axis, "int8")


def bias_qparams(weight: QParams, input_scale: float) -> QParams:
    """int32 for a bias: what the products of weights and inputs are summed in."""
    scale = np.asarray(weight.scale.astype(np.float64) * input_scale, np.float32)
    axis = None if weight.axis is None else 0
    return QParams(scale, np.zeros(scale.shape, np.int32), axis, "int32")


# ----- below


def _squared_error(counts: NDArray[np.int64], values: NDArray[np.float64], limits: Range) -> float:
    """What rounding to the range's uint8 numbers adds up to."""
    qparams = activation_qparams(limits)
    scale, zero_point = float(qparams.scale), float(qparams.zero_point)
    integers = np.clip(np.rint(values / scale) + zero_point, 0, STEPS)
    return float(counts @ np.square((integers - zero_point) * scale - values))
