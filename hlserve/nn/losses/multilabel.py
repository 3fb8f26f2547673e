"""The loss of several yes-or-no labels a row."""

from __future__ import annotations

from typing import final

import numpy as np
from numpy.typing import ArrayLike

from hlserve.errors import DataError
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


@final
class BinaryCrossEntropy:
    """Cross-entropy of yes-or-no labels under sigmoid(scores), the mean over rows and labels.

    ``class_weight`` multiplies what a label costs where it is set, as ``pos_weight`` of
    ``torch.nn.BCEWithLogitsLoss``; the mean is not divided by it. Rows' weights are.

    Shapes: scores (labels, batch), any size; targets (batch, labels), or (batch,) for one
    label, of 0 and 1 or of probabilities between; class_weight (labels,).
    """

    def __init__(self, class_weight: ArrayLike | None = None) -> None:
        self.class_weight = positive_weights("BinaryCrossEntropy", class_weight)
        self._buffers = Workspace()

    def __call__(self, scores: Array, targets: Targets) -> tuple[float, Array]:
        """See Loss.

        Raises:
            DataError: targets, weights and scores do not fit each other.
        """
        wanted, row_weights = labels_and_weights(targets, "BinaryCrossEntropy")
        outputs, batch = scores.shape
        if wanted.shape != (batch, outputs) and not (outputs == 1 and wanted.shape == (batch,)):
            raise DataError(
                f"BinaryCrossEntropy expects targets of shape ({batch}, {outputs}), "
                f"got {wanted.shape}"
            )
        require_one_each("BinaryCrossEntropy", self.class_weight, scores)
        set_, unset = self._weights_of(wanted.reshape(batch, outputs).T, scores)
        share = shares(row_weights, batch, scores.dtype) / outputs
        value = self._value(scores, set_, unset, share)
        yes, no = self._sigmoids(scores)
        # d/d(score): unset labels pull it down by sigmoid(score), set ones up by the rest.
        yes *= unset
        no *= set_
        yes -= no
        yes *= share
        return value, yes

    def total_weight(self, targets: Targets) -> float:
        """See Weighing."""
        labels, weights = labels_and_weights(targets, "BinaryCrossEntropy")
        return total_of(weights, len(labels))

    def _weights_of(self, wanted: Array, scores: Array) -> tuple[Array, Array]:
        """What each label costs as a set and as an unset one, (labels, batch) both."""
        set_ = self._buffers.empty("set", scores.shape, scores.dtype)
        unset = self._buffers.empty("unset", scores.shape, scores.dtype)
        np.copyto(set_, wanted, casting="unsafe")
        np.subtract(1.0, set_, out=unset)
        if self.class_weight is not None:
            set_ *= self.class_weight.astype(scores.dtype)[:, np.newaxis]
        return set_, unset

    def _value(self, scores: Array, set_: Array, unset: Array, share: float | Array) -> float:
        # -log sigmoid(z) = max(-z, 0) + log1p(exp(-|z|)), and with z for -z where unset.
        tail = self._buffers.empty("tail", scores.shape, scores.dtype)
        part = self._buffers.empty("part", scores.shape, scores.dtype)
        np.abs(scores, out=tail)
        np.negative(tail, out=tail)
        np.log1p(np.exp(tail, out=tail), out=tail)
        np.maximum(scores, 0, out=part)
        part += tail
        part *= unset
        total = part.sum(axis=0)
        np.negative(scores, out=part)
        np.maximum(part, 0, out=part)
        part += tail
        part *= set_
        total += part.sum(axis=0)
        return float(np.sum(total * share, dtype=np.float64))

    def _sigmoids(self, scores: Array) -> tuple[Array, Array]:
        """sigmoid(z) and sigmoid(-z), each exact where it is near 0."""
        yes = self._buffers.empty("d_scores", scores.shape, scores.dtype)
        no = self._buffers.empty("tail", scores.shape, scores.dtype)
        part = self._buffers.empty("part", scores.shape, scores.dtype)
        np.abs(scores, out=part)
        np.negative(part, out=part)
        np.exp(part, out=part)
        np.add(part, 1.0, out=no)
        np.reciprocal(no, out=yes)  # sigmoid(|z|)
        np.divide(part, no, out=no)  # sigmoid(-|z|)
        np.copyto(part, yes)
        is_negative = np.less(scores, 0, out=self._buffers.empty("sign", scores.shape, np.bool_))
        np.copyto(yes, no, where=is_negative)
        np.copyto(no, part, where=is_negative)
        return yes, no
