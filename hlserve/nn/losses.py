"""Losses: the value to make small, and its gradient with respect to the network's scores."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, final

import numpy as np

from hlserve.errors import DataError
from hlserve.nn.param import Array
from hlserve.nn.workspace import Workspace

Targets = Array | Mapping[str, Array]


class Loss(Protocol):
    """What training makes small: any callable of this shape will do."""

    def __call__(self, scores: Array, targets: Targets) -> tuple[float, Array]:
        """The mean over the rows, and dL/d(scores).

        ``scores`` is batch-last, the activation of the network's ``logits_node``, and is not
        overwritten. ``targets`` has its rows first. The gradient has the scores' shape and
        belongs to the caller until the next call.
        """


@final
class CrossEntropy:
    """Cross-entropy of class labels under softmax(scores), by log-sum-exp.

    Shapes: scores (classes, batch), any float type and any size; targets (batch,) integers in
    0..classes-1. An object keeps its buffers between calls: one a thread.
    """

    def __init__(self) -> None:
        self._buffers = Workspace()

    def __call__(self, scores: Array, targets: Targets) -> tuple[float, Array]:
        """See Loss.

        Raises:
            DataError: the targets are named, or are not one label a row.
        """
        labels = _only_array(targets, "CrossEntropy")
        batch = scores.shape[1]
        if labels.shape != (batch,):
            raise DataError(
                f"CrossEntropy expects one class label a row, shape ({batch},), got {labels.shape}"
            )
        d = self._buffers.empty("d_scores", scores.shape, scores.dtype)
        # Where each row's label lies in d, flattened.
        chosen = labels.astype(np.intp, copy=False) * batch + np.arange(batch)
        np.subtract(scores, scores.max(axis=0), out=d)
        margin = d.reshape(-1)[chosen]
        np.exp(d, out=d)
        total = d.sum(axis=0)
        value = float(np.mean(np.log(total) - margin, dtype=np.float64))
        d /= total * batch
        d.reshape(-1)[chosen] -= 1.0 / batch
        return value, d


@final
class MeanSquaredError:
    """Mean over rows and outputs of ((score - target) / scale)^2.

    With ``scale`` the targets' standard deviation the value is the share of their variance
    that is left unexplained, and training is conditioned alike whatever the units are.

    Shapes: scores (outputs, batch); targets (batch, outputs), or (batch,) for one output;
    scale () or (outputs,), in the targets' units.
    """

    def __init__(self, scale: float | Array = 1.0) -> None:
        self.scale = np.asarray(scale, np.float64)
        if self.scale.ndim > 1 or not np.all(self.scale > 0):
            raise DataError(f"MeanSquaredError: scale is {self.scale}, expected positive numbers")
        self._buffers = Workspace()

    def __call__(self, scores: Array, targets: Targets) -> tuple[float, Array]:
        """See Loss.

        Raises:
            DataError: the targets are named, or are not one number an output and row.
        """
        wanted = _only_array(targets, "MeanSquaredError")
        outputs, batch = scores.shape
        if wanted.shape != (batch, outputs) and not (outputs == 1 and wanted.shape == (batch,)):
            raise DataError(
                f"MeanSquaredError expects targets of shape ({batch}, {outputs}), "
                f"got {wanted.shape}"
            )
        d = self._buffers.empty("d_scores", scores.shape, scores.dtype)
        scale = self.scale.astype(scores.dtype).reshape(-1, 1)
        np.subtract(scores, wanted.reshape(batch, outputs).T, out=d)
        d /= scale
        flat = d.reshape(-1)
        value = float(np.dot(flat, flat)) / flat.size
        d *= 2.0 / flat.size / scale
        return value, d


def _only_array(targets: Targets, loss: str) -> Array:
    if isinstance(targets, Mapping):
        raise DataError(f"{loss} takes one array of targets, got {sorted(targets)}")
    return targets
