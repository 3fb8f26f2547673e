"""Sets training rows apart for validation."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hlserve.errors import DataError
from hlserve.nn.param import Array

Indices = NDArray[np.int64]


def validation_split(
    n_rows: int, fraction: float, *, seed: int, labels: Array | None = None
) -> tuple[Indices, Indices]:
    """Indices of the training rows and of the validation rows, each in rising order.

    With ``labels``, (n_rows,) class labels, every class gives its share of the validation
    rows, to within one row. The same arguments give the same split.

    Raises:
        DataError: one of the two would be empty.
    """
    if not 0.0 < fraction < 1.0:
        raise DataError(f"the validation share is {fraction}, expected between 0 and 1")
    n_validation = max(1, round(n_rows * fraction))
    if n_validation >= n_rows:
        raise DataError(f"{n_rows} rows are too few to set {fraction:g} of them apart")
    order = np.random.default_rng(seed).permutation(n_rows)
    if labels is not None:
        order = order[np.argsort(labels[order], kind="stable")]
    # Rows taken at even distances from a list sorted by class: every class in proportion.
    picks = ((np.arange(n_validation) + 0.5) * n_rows / n_validation).astype(np.int64)
    is_validation = np.zeros(n_rows, np.bool_)
    is_validation[order[picks]] = True
    return np.flatnonzero(~is_validation), np.flatnonzero(is_validation)
