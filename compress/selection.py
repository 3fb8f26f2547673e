"""What choosing the best of many candidates does to a bound, and how it is made to hold again.

Every candidate that was looked at had its chance to look good by luck. With M of them Bonferroni
bounds each at 1 - 0.05 / M. Candidates that come from one network err on the same rows, so that
they hardly count as M: what counts is how the largest of their errors is distributed together.
No row need be kept back for a second look, which matters where there are few.
"""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from compress.bound import CONFIDENCE

Losses = NDArray[np.float64]

DRAWS = 40_000  # the confidence that is reached errs by 0.1 %, one standard deviation


def effective_comparisons(
    losses: Losses, confidence: float = CONFIDENCE, *, seed: int = 0
) -> float:
    """As how many independent candidates these count, from 1 to their number.

    The number M' for which 1 - (1 - confidence) / M' is the level of each bound at which all of
    them hold together: from the quantile of the largest of normal variables that are correlated
    as the losses are (the single-step max-T of Westfall & Young 1993, section 2.3; Hothorn,
    Bretz & Westfall 2008, Biometrical Journal 50:346). A candidate without any spread counts as
    one by itself.

    Args:
        losses: how much worse each row got with each candidate, (candidates, rows): of every
            candidate that was looked at, those that were refused included.
        confidence: one-sided.
        seed: of the draws.
    """
    n_candidates, n_rows = losses.shape
    if n_candidates < 2 or n_rows < 2:
        return float(max(1, n_candidates))
    vectors, values = _correlation_root(losses)
    rng = np.random.default_rng(seed)
    draws = (vectors * np.sqrt(values)) @ rng.standard_normal((len(values), DRAWS))
    error = math.sqrt(confidence * (1 - confidence) / DRAWS)
    largest = np.quantile(draws.max(axis=0), min(1.0, confidence + 2 * error))  # luck left out
    beyond = 1 - NormalDist().cdf(float(largest))
    return float(np.clip((1 - confidence) / beyond, 1.0, n_candidates))


# ----- below


def _correlation_root(losses: Losses) -> tuple[Losses, Losses]:
    """Eigenvectors and eigenvalues of the candidates' correlations."""
    centred = losses - losses.mean(axis=1, keepdims=True)
    lengths = np.sqrt(np.sum(np.square(centred), axis=1))
    unit = centred / np.where(lengths > 0, lengths, 1.0)[:, None]
    correlation = unit @ unit.T
    np.fill_diagonal(correlation, 1.0)  # also of those without spread
    values, vectors = np.linalg.eigh(correlation)
    return vectors, np.maximum(values, 0.0)
