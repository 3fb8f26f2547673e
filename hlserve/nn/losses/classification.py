"""Losses of one class a row, under softmax."""

from __future__ import annotations

from typing import final

import numpy as np
from numpy.typing import ArrayLike

from hlserve.errors import ConfigError, DataError
from hlserve.nn.losses.loss import (
    Targets,
    labels_and_weights,
    positive_weights,
    require_one_each,
    shares,
    total_of,
)
from hlserve.nn.param import Array
from hlserve.nn.workspace import Workspace


def class_weights(labels: Array, n_classes: int) -> Array:
    """A weight for every class that makes all classes count alike: rows / (classes * count).

    As scikit-learn's ``compute_class_weight("balanced")``: over the rows the weights average
    to 1. A class without rows has the weight 1 of an average row, and is not counted.

    Shapes: labels (rows,) integers in 0..n_classes-1 -> (n_classes,) float64.

    Raises:
        DataError: no labels, or one that is out of range.
    """
    if labels.ndim != 1 or labels.size == 0 or labels.dtype.kind not in "iub":
        raise DataError(
            f"class_weights: labels are {labels.dtype} of shape {labels.shape}, expected "
            "integers, (rows,), and at least one"
        )
    if labels.min() < 0 or labels.max() >= n_classes:
        raise DataError(
            f"class_weights: labels lie in {labels.min()} to {labels.max()}, expected 0 to "
            f"{n_classes - 1}"
        )
    counts = np.bincount(labels.astype(np.intp, copy=False), minlength=n_classes)
    weights = np.ones(n_classes)
    seen = counts > 0
    weights[seen] = labels.size / (np.count_nonzero(seen) * counts[seen])
    return weights


@final
class CrossEntropy:
    """Cross-entropy of class labels under softmax(scores), by log-sum-exp.

    Smoothed labels (Szegedy et al. 2016, arXiv:1512.00567, section 7) put ``label_smoothing``
    of every row's weight on all classes alike. A row counts its own weight times its label's
    class weight, and the sum is divided by the sum of these products, as
    ``torch.nn.CrossEntropyLoss(weight, label_smoothing=...)`` does with class weights alone.

    Shapes: scores (classes, batch), any float type and any size; targets (batch,) integers in
    0..classes-1; class_weight (classes,). An object keeps its buffers between calls: one a
    thread.
    """

    def __init__(self, label_smoothing: float = 0.0, class_weight: ArrayLike | None = None) -> None:
        if not 0.0 <= label_smoothing <= 1.0:
            raise ConfigError(
                f"CrossEntropy: label_smoothing is {label_smoothing}, expected 0 to 1"
            )
        self.label_smoothing = label_smoothing
        self.class_weight = positive_weights("CrossEntropy", class_weight)
        self._buffers = Workspace()

    def __call__(self, scores: Array, targets: Targets) -> tuple[float, Array]:
        """See Loss.

        Raises:
            DataError: targets, weights and scores do not fit each other.
        """
        labels, row_weights = _checked("CrossEntropy", self.class_weight, scores, targets)
        classes, batch = scores.shape
        counted = _times_class_weight(row_weights, self.class_weight, labels)
        hard = shares(counted, batch, scores.dtype)
        total = total_of(counted, batch)
        smooth = np.asarray(
            (1.0 if row_weights is None else row_weights) / (total or 1.0), scores.dtype
        )
        pull = hard * (1.0 - self.label_smoothing)
        push = smooth * (self.label_smoothing / classes)
        d = self._buffers.empty("d_scores", scores.shape, scores.dtype)
        # Where each row's label lies in d, flattened.
        chosen = labels.astype(np.intp, copy=False) * batch + np.arange(batch)
        np.subtract(scores, scores.max(axis=0), out=d)
        gained = pull * d.reshape(-1)[chosen]
        if self.label_smoothing:
            each = self._class_weight_as(scores)
            gained += push * (each @ d)
            pull_all = pull + push * each.sum()
        else:
            pull_all = pull
        np.exp(d, out=d)
        normalizer = d.sum(axis=0)
        value = float(np.sum(pull_all * np.log(normalizer) - gained, dtype=np.float64))
        d *= pull_all / normalizer
        d.reshape(-1)[chosen] -= pull
        if self.label_smoothing:
            even = self._buffers.empty("even", scores.shape, scores.dtype)
            d -= np.multiply(each[:, np.newaxis], push, out=even)
        return value, d

    def total_weight(self, targets: Targets) -> float:
        """See Weighing."""
        labels, weights = labels_and_weights(targets, "CrossEntropy")
        return total_of(_times_class_weight(weights, self.class_weight, labels), len(labels))

    def _class_weight_as(self, scores: Array) -> Array:
        if self.class_weight is None:
            return np.ones(len(scores), scores.dtype)
        return self.class_weight.astype(scores.dtype)


@final
class Focal:
    """Cross-entropy in which a row counts less the surer it is right: -(1 - p)^gamma log p.

    Source: Lin et al. 2017, arXiv:1708.02002, equation 5, with p the softmax share of the row's
    own class, and class weights as its alpha. Weights normalize as in CrossEntropy, which this
    is with gamma 0; the paper divides by the number of objects.

    Shapes: as CrossEntropy.
    """

    def __init__(self, gamma: float = 2.0, class_weight: ArrayLike | None = None) -> None:
        if not 0.0 <= gamma < np.inf:
            raise ConfigError(f"Focal: gamma is {gamma}, expected 0 or more")
        self.gamma = gamma
        self.class_weight = positive_weights("Focal", class_weight)
        self._buffers = Workspace()

    def __call__(self, scores: Array, targets: Targets) -> tuple[float, Array]:
        """See Loss.

        Raises:
            DataError: targets, weights and scores do not fit each other.
        """
        labels, row_weights = _checked("Focal", self.class_weight, scores, targets)
        batch = scores.shape[1]
        counted = _times_class_weight(row_weights, self.class_weight, labels)
        share = shares(counted, batch, scores.dtype)
        d = self._buffers.empty("d_scores", scores.shape, scores.dtype)
        flat = d.reshape(-1)
        chosen = labels.astype(np.intp, copy=False) * batch + np.arange(batch)
        np.subtract(scores, scores.max(axis=0), out=d)
        margin = flat[chosen]
        np.exp(d, out=d)
        normalizer = d.sum(axis=0)
        p = flat[chosen] / normalizer
        flat[chosen] = 0.0
        # 1 - p from the other classes: exact where p is so near 1 that the difference is not.
        rest = d.sum(axis=0) / normalizer
        log_p = np.where(rest < 0.5, np.log1p(-np.minimum(rest, 0.5)), margin - np.log(normalizer))
        easy = np.power(rest, self.gamma)
        value = float(np.sum(share * easy * -log_p, dtype=np.float64))
        # d(loss)/d(log p) = rest^gamma (gamma p log(p) / rest - 1); log(p) / rest goes to -1.
        ratio = np.divide(log_p, rest, out=np.full_like(rest, -1.0), where=rest > 0)
        slope = share * easy * (self.gamma * p * ratio - 1.0)
        d *= -slope / normalizer
        flat[chosen] = slope * rest
        return value, d

    def total_weight(self, targets: Targets) -> float:
        """See Weighing."""
        labels, weights = labels_and_weights(targets, "Focal")
        return total_of(_times_class_weight(weights, self.class_weight, labels), len(labels))


def _checked(
    loss: str, class_weight: Array | None, scores: Array, targets: Targets
) -> tuple[Array, Array | None]:
    labels, weights = labels_and_weights(targets, loss)
    batch = scores.shape[1]
    if labels.shape != (batch,):
        raise DataError(
            f"{loss} expects one class label a row, shape ({batch},), got {labels.shape}"
        )
    require_one_each(loss, class_weight, scores)
    return labels, weights


def _times_class_weight(
    weights: Array | None, class_weight: Array | None, labels: Array
) -> Array | None:
    if class_weight is None:
        return weights
    own = class_weight[labels]
    return own if weights is None else own * weights
