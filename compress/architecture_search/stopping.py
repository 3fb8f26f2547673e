"""When a training is given up: it lags behind half of those that cost no more."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from compress.architecture_search.journal import Running, Trial

PATIENCE = 3  # epochs before a training is judged: the learning rate has only just warmed up
FEWEST_PEERS = 4  # whose median means something


def is_hopeless(trial: Running, finished: Sequence[Trial]) -> bool:
    """Whether the best epoch until now is below the median of what others had reached by then.

    The median stopping rule of Golovin et al. 2017, "Google Vizier", section 3.2.1. Where we
    differ: only trained networks of at most as many multiply-accumulates are compared with. A
    small network need not keep up with large ones to lie on the front, a large one must beat
    the small.
    """
    epoch = len(trial.curve)
    if epoch < PATIENCE:
        return False
    peers = [
        max(other.curve[:epoch])
        for other in finished
        if other.state == "trained" and other.macs <= trial.macs
    ]
    return len(peers) >= FEWEST_PEERS and max(trial.curve) < median(peers)
