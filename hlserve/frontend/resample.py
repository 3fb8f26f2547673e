"""Sample rates: a band-limited change from one to another."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

ZERO_CROSSINGS = 16  # of the sinc on each side
ROLL_OFF = 0.94  # of the lower Nyquist frequency: where the filter cuts
_BLOCK_ELEMENTS = 2**20  # weights at a time, so that memory stays small for long sounds


def resample(samples: Array, from_rate: int, to_rate: int) -> Array:
    """The same sound at another rate, by a sinc in a Hann window.

    Sample m of the result lies at the time m / ``to_rate``; it is the weighted sum of the samples
    around it, the weights those of an ideal low-pass filter at ``ROLL_OFF`` times the lower of
    the two Nyquist frequencies, in a Hann window of ``ZERO_CROSSINGS`` zero crossings a side
    (J. O. Smith, Digital Audio Resampling Home Page, "bandlimited interpolation").

    Args:
        samples: float64 (samples,).
        from_rate: samples a second now.
        to_rate: samples a second wanted.

    Returns:
        float64 (ceil(samples * to_rate / from_rate),).
    """
    if from_rate == to_rate:
        return samples
    n_out = -(-len(samples) * to_rate // from_rate)
    cutoff = ROLL_OFF * min(1.0, to_rate / from_rate)  # in units of the old Nyquist frequency
    half = int(np.ceil(ZERO_CROSSINGS / cutoff))
    around = np.arange(-half, half + 1)
    padded = np.pad(samples, (half, half + 1))
    result = np.empty(n_out, np.float64)
    step = max(1, _BLOCK_ELEMENTS // len(around))
    for start in range(0, n_out, step):
        m = np.arange(start, min(start + step, n_out), dtype=np.int64)
        whole, part = np.divmod(m * from_rate, to_rate)
        distance = around[None, :] - part[:, None] / to_rate  # (results, taps), in old samples
        window = 0.5 * (1.0 + np.cos(np.pi * np.clip(distance / half, -1.0, 1.0)))
        weights = cutoff * np.sinc(cutoff * distance) * window
        result[m] = np.einsum("mt,mt->m", weights, padded[whole[:, None] + around + half])
    return result
