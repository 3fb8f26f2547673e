"""Metrics of probabilities: how far they are from what happened, and how far to trust them."""

from __future__ import annotations

import numpy as np

from hlserve.errors import DataError
from hlserve.nn.metrics.rows import is_in_class, require_rows
from hlserve.nn.param import Array


def log_loss(probabilities: Array, labels: Array) -> float:
    """Mean of -log of the probability that a row's own class got.

    A probability of 0 counts as the smallest step from it to 1 (the type's epsilon), as in
    scikit-learn's ``log_loss``.

    Shapes: probabilities (batch, classes), or (batch,) of class 1; labels (batch,).

    Raises:
        DataError: shapes disagree, no rows, or a label out of range.
    """
    shares = _by_class(probabilities, labels, "log_loss")
    epsilon = np.finfo(shares.dtype).eps
    own = shares[np.arange(len(labels)), labels.astype(np.intp)]
    return float(np.mean(-np.log(np.clip(own, epsilon, 1 - epsilon)), dtype=np.float64))


def brier(probabilities: Array, labels: Array) -> float:
    """Mean squared distance of the probabilities from what happened, 1 or 0.

    Of two classes given as (batch,) it is that of class 1, in 0..1; of (batch, classes) the
    sum over the classes, in 0..2 (Brier 1950, equation 2).

    Shapes: as log_loss.

    Raises:
        DataError: shapes disagree, no rows, or a label out of range.
    """
    shares = _by_class(probabilities, labels, "brier")
    happened = is_in_class(labels, shares.shape[1], "brier")
    squares = np.square(np.subtract(shares, happened, dtype=np.float64)).sum(axis=1)
    return float(squares.mean()) / (2.0 if probabilities.ndim == 1 else 1.0)


def expected_calibration_error(probabilities: Array, labels: Array, n_bins: int = 15) -> float:
    """How far what a model claims is from how often it comes true, on average over the rows.

    Rows are binned by the claimed probability into equal parts of 0..1, (low, high], and each
    bin's mean claim compared with its share of rows where the claim came true. The claim is the
    highest probability of (batch, classes), and class 1's of (batch,).

    Source: Guo et al. 2017, arXiv:1706.04599, equation 5.

    Shapes: as log_loss.

    Raises:
        DataError: shapes disagree, no rows, or a label out of range.
    """
    shares = _by_class(probabilities, labels, "expected_calibration_error")
    if probabilities.ndim == 1:
        claimed, came_true = shares[:, 1], labels == 1
    else:
        claimed, came_true = shares.max(axis=1), shares.argmax(axis=1) == labels
    bins = np.clip(np.ceil(claimed * n_bins).astype(np.intp) - 1, 0, n_bins - 1)
    surplus = np.bincount(bins, weights=np.subtract(claimed, came_true, dtype=np.float64))
    return float(np.abs(surplus).sum() / len(labels))


def _by_class(probabilities: Array, labels: Array, metric: str) -> Array:
    require_rows(probabilities, labels, metric)
    if probabilities.dtype.kind != "f" or probabilities.ndim not in (1, 2):
        raise DataError(
            f"{metric}: probabilities are {probabilities.dtype} of shape {probabilities.shape}, "
            "expected floats, (batch, classes), or (batch,) of class 1"
        )
    if not (probabilities.min() >= 0 and probabilities.max() <= 1 + 1e-3):
        raise DataError(
            f"{metric}: probabilities lie in {probabilities.min()} to {probabilities.max()}, "
            "expected 0 to 1; take the output `probabilities`, not the scores"
        )
    shares = probabilities
    if probabilities.ndim == 1:
        shares = np.stack([1 - probabilities, probabilities], axis=1)
    is_in_class(labels, shares.shape[1], metric)
    return shares
