"""What a loss is: the value to make small, and its gradient with respect to the scores."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike

from hlserve.errors import DataError
from hlserve.nn.param import Array

Targets = Array | Mapping[str, Array]

LABELS = "labels"  # among named targets: what is to be predicted, which the metric looks at
WEIGHTS = "weights"  # among named targets: how much each row counts, (rows,)


class Loss(Protocol):
    """What training makes small: any callable of this shape will do.

    The losses of this package take one array of targets, or two by name: "labels", and
    "weights", one number >= 0 a row. Then the mean over the rows is sum(w * loss) / sum(w), and
    0 where all weights are 0.
    """

    def __call__(self, scores: Array, targets: Targets) -> tuple[float, Array]:
        """The mean over the rows, and dL/d(scores).

        ``scores`` is batch-last, the activation of the network's ``logits_node``, and is not
        overwritten. ``targets`` has its rows first. The gradient has the scores' shape and
        belongs to the caller until the next call.
        """


@runtime_checkable
class Weighing(Protocol):
    """A loss that does not count every row alike."""

    def total_weight(self, targets: Targets) -> float:
        """What the mean over these rows was divided by."""


def total_weight(loss: Loss, targets: Targets, n_rows: int) -> float:
    """What the loss of these rows counts in a mean over more rows than these.

    So sum(total * value) / sum(total) over batches is the loss of all their rows. A loss that
    does not say counts every row alike.
    """
    return loss.total_weight(targets) if isinstance(loss, Weighing) else float(n_rows)


# ----- what the losses of this package have in common


def labels_and_weights(targets: Targets, loss: str) -> tuple[Array, Array | None]:
    """The one array of targets, and the weights of the rows where there are any.

    Raises:
        DataError: other targets are among the named ones, or the weights are not one a row.
    """
    if not isinstance(targets, Mapping):
        return targets, None
    if LABELS not in targets or not targets.keys() <= {LABELS, WEIGHTS}:
        raise DataError(
            f"{loss} takes one array of targets, or {LABELS!r} and {WEIGHTS!r} by name, "
            f"got {sorted(targets)}"
        )
    labels, weights = targets[LABELS], targets.get(WEIGHTS)
    if weights is not None and weights.shape != (len(labels),):
        raise DataError(
            f"{loss} expects one weight a row, shape ({len(labels)},), got {weights.shape}"
        )
    return labels, weights


def total_of(weights: Array | None, n_rows: int) -> float:
    """The sum of the rows' weights, each 1 where there are none."""
    return float(n_rows) if weights is None else float(weights.sum(dtype=np.float64))


def shares(weights: Array | None, n_rows: int, dtype: np.dtype[np.generic]) -> float | Array:
    """How much each row counts in the mean: one number for all, or (batch,)."""
    total = total_of(weights, n_rows)
    if weights is None:
        return 1.0 / max(1.0, total)
    # Rows that all weigh nothing have nothing to teach: no value, no gradient.
    return np.asarray(weights / (total or 1.0), dtype)


def positive_weights(loss: str, weights: ArrayLike | None) -> Array | None:
    """Weights of classes or outputs, float64 and checked.

    Raises:
        DataError: not one row of finite numbers >= 0, of which one is above 0.
    """
    if weights is None:
        return None
    array = np.array(weights, np.float64)
    if array.ndim != 1 or not np.all(np.isfinite(array) & (array >= 0)) or not array.any():
        raise DataError(
            f"{loss}: class_weight is {array}, expected one number >= 0 a class, not all 0"
        )
    return array


def require_one_each(loss: str, weights: Array | None, scores: Array) -> None:
    """Refuses class weights of another number than the network's outputs."""
    if weights is not None and len(weights) != len(scores):
        raise DataError(
            f"{loss}: class_weight has {len(weights)} numbers, the network {len(scores)} outputs"
        )
