"""What watches activations during calibration and answers how to quantize them.

An observer sees the batches one after another and keeps a few numbers, however many there are.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from hlserve.nn.param import Array, QParams

BINS = 2048  # a bin is 1/8 of a uint8 step: finer than what is decided with it

Range = tuple[float, float]


def value_ranges(batches: Iterable[dict[str, Array]]) -> dict[str, Range]:
    """The smallest and the largest value of every activation."""
    ranges: dict[str, Range] = {}
    for batch in batches:
        for name, values in batch.items():
            low, high = ranges.get(name, (np.inf, -np.inf))
            ranges[name] = min(low, float(values.min())), max(high, float(values.max()))
    return ranges


def percentile_ranges(
    batches: Iterable[dict[str, Array]], limits: dict[str, Range], percentile: float
) -> dict[str, Range]:
    """The range that holds ``percentile`` % of each activation's values, by histogram.

    Args:
        batches: the same as ``limits`` were taken from.
        limits: smallest and largest value, from ``value_ranges``.
        percentile: up to 100; the rest is cut off in equal parts on both sides, except that a
            side that ends at zero, as ReLU's does, stays.
    """
    counts = {name: np.zeros(BINS, np.int64) for name in limits}
    for batch in batches:
        for name, values in batch.items():
            counts[name] += np.histogram(values, BINS, range=_widened(limits[name]))[0]
    return {
        name: _cut(histogram, _widened(limits[name]), limits[name], percentile)
        for name, histogram in counts.items()
    }


def activation_qparams(limits: Range) -> QParams:
    """uint8 for a range: asymmetric, and 0.0 is exactly representable.

    Source: Jacob et al. 2018, arXiv:1712.05877, section 3 and ONNX QuantizeLinear.
    """
    low, high = min(limits[0], 0.0), max(limits[1], 0.0)
    scale = np.float32((high - low) / 255)
    if not scale > np.finfo(np.float32).tiny:  # all zero, or too small for a float32 scale
        scale = np.float32(1)
    zero_point = np.clip(np.rint(-low / float(scale)), 0, 255)
    return QParams(np.array(scale, np.float32), np.array(zero_point, np.uint8), None, "uint8")


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


def _widened(limits: Range) -> Range:
    return limits if limits[0] < limits[1] else (limits[0] - 0.5, limits[1] + 0.5)


def _cut(histogram: NDArray[np.int64], edges: Range, limits: Range, percentile: float) -> Range:
    shares = np.cumsum(histogram) / max(1, histogram.sum())
    outside = (1 - percentile / 100) / (1 if limits[0] >= 0 or limits[1] <= 0 else 2)
    width = (edges[1] - edges[0]) / len(histogram)
    low, high = limits
    if limits[0] < 0:
        low = max(low, edges[0] + width * int(np.searchsorted(shares, outside, side="right")))
    if limits[1] > 0:
        high = min(high, edges[0] + width * (1 + int(np.searchsorted(shares, 1 - outside))))
    return (low, high) if low < high else limits
