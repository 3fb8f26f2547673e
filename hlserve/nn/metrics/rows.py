"""What every metric asks of its rows."""

from __future__ import annotations

import numpy as np

from hlserve.errors import DataError
from hlserve.nn.param import Array


def require_rows(predictions: Array, targets: Array, metric: str) -> None:
    """Refuses lengths that disagree, and no rows at all."""
    if len(predictions) != len(targets) or len(targets) == 0:
        raise DataError(f"{metric}: {len(predictions)} predictions for {len(targets)} targets")


def require_same_shape(predictions: Array, targets: Array, metric: str) -> None:
    """Refuses rows of another shape, which would broadcast into nonsense."""
    require_rows(predictions, targets, metric)
    if predictions.shape != targets.shape:
        raise DataError(
            f"{metric}: predictions have shape {predictions.shape}, targets {targets.shape}"
        )


def is_in_class(labels: Array, n_classes: int, metric: str) -> Array:
    """Whether each row is in each class, (batch, classes) bool.

    Raises:
        DataError: labels are not integers in 0..n_classes-1, one a row.
    """
    is_label = labels.ndim == 1 and labels.dtype.kind in "iub"
    if not is_label or labels.min() < 0 or labels.max() >= n_classes:
        raise DataError(
            f"{metric}: labels are {labels.dtype} of shape {labels.shape}, expected integers in "
            f"0..{n_classes - 1}, one a row"
        )
    return np.asarray(labels[:, np.newaxis] == np.arange(n_classes))
