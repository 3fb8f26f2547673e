"""When the requests of an open loop are meant to be sent, whatever the server does."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Arrivals = Literal["poisson", "constant"]


def send_times(arrivals: Arrivals, rate: float, seconds: float, rng: np.random.Generator) -> Array:
    """Times from 0 up to ``seconds``, ascending, at ``rate`` a second.

    Args:
        arrivals: ``poisson``: callers that know nothing of each other; ``constant``: a beat.
        rate: requests a second.
        seconds: how long.
        rng: of the Poisson arrivals.
    """
    if arrivals == "constant":
        return np.arange(round(rate * seconds)) / rate
    # Given their number, the arrivals of a Poisson process are uniform and independent.
    return np.sort(rng.uniform(0.0, seconds, rng.poisson(rate * seconds)))
