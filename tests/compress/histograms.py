"""Values as a calibration sees them, in as many batches as a test wants."""

import numpy as np

from compress.quantization.histogram import Histogram


def histogram_of(values, n_batches=1):
    """What is known of the values after they came in so many parts."""
    seen = Histogram()
    for part in np.array_split(np.asarray(values).reshape(-1), n_batches):
        seen.add(part)
    return seen
