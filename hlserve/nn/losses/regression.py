"""Losses of numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import numpy as np

from hlserve.errors import ConfigError, DataError
from hlserve.nn.losses.loss import Targets, labels_and_weights, shares, total_of
from hlserve.nn.param import Array
from hlserve.nn.workspace import Workspace


@final
class MeanSquaredError:
    """Mean over rows and outputs of ((score - target) / scale)^2.

    With ``scale`` the targets' standard deviation the value is the share of their variance
    that is left unexplained, and training is conditioned alike whatever the units are.

    Shapes: scores (outputs, batch); targets (batch, outputs), or (batch,) for one output;
    scale () or (outputs,), in the targets' units.
    """

    def __init__(self, scale: float | Array = 1.0) -> None:
        self.scale = _positive_scale("MeanSquaredError", scale)
        self._buffers = Workspace()

    def __call__(self, scores: Array, targets: Targets) -> tuple[float, Array]:
        """See Loss.

        Raises:
            DataError: targets and weights are not one number an output and row.
        """
        wanted, weights = _checked("MeanSquaredError", scores, targets)
        outputs, batch = scores.shape
        d = self._buffers.empty("d_scores", scores.shape, scores.dtype)
        scale = self.scale.astype(scores.dtype).reshape(-1, 1)
        np.subtract(scores, wanted.T, out=d)
        d /= scale
        share = shares(weights, batch, scores.dtype) / outputs
        value = _weighted(np.einsum("ij,ij->j", d, d), share)
        d *= 2.0 / scale
        d *= share
        return value, d

    def total_weight(self, targets: Targets) -> float:
        """See Weighing."""
        return _total_weight("MeanSquaredError", targets)


@final
class Huber:
    """The squared error's half up to ``delta``, beyond it linear, so that outliers pull less.

    With e = (score - target) / scale the mean over rows and outputs of e^2 / 2 where |e| <=
    delta, else delta (|e| - delta / 2).

    Source: Huber 1964; as ``torch.nn.HuberLoss``.

    Shapes: as MeanSquaredError. ``delta`` is in scales.
    """

    def __init__(self, delta: float = 1.0, scale: float | Array = 1.0) -> None:
        if not 0.0 < delta < np.inf:
            raise ConfigError(f"Huber: delta is {delta}, expected above 0")
        self.delta = delta
        self.scale = _positive_scale("Huber", scale)
        self._buffers = Workspace()

    def __call__(self, scores: Array, targets: Targets) -> tuple[float, Array]:
        """See Loss.

        Raises:
            DataError: targets and weights are not one number an output and row.
        """
        wanted, weights = _checked("Huber", scores, targets)
        outputs, batch = scores.shape
        error = self._buffers.empty("error", scores.shape, scores.dtype)
        d = self._buffers.empty("d_scores", scores.shape, scores.dtype)
        scale = self.scale.astype(scores.dtype).reshape(-1, 1)
        np.subtract(scores, wanted.T, out=error)
        error /= scale
        np.clip(error, -self.delta, self.delta, out=d)
        # With c the clipped error both branches are c (e - c / 2).
        share = shares(weights, batch, scores.dtype) / outputs
        losses = np.einsum("ij,ij->j", d, error) - 0.5 * np.einsum("ij,ij->j", d, d)
        value = _weighted(losses, share)
        d /= scale
        d *= share
        return value, d

    def total_weight(self, targets: Targets) -> float:
        """See Weighing."""
        return _total_weight("Huber", targets)


@final
class Quantile:
    """The pinball loss, least where the score is the target's quantile ``q``.

    With e = (target - score) / scale the mean over rows and outputs of max(q e, (q - 1) e).

    Source: Koenker & Bassett 1978, "Regression Quantiles".

    Shapes: scores (outputs, batch); targets (batch, numbers) with outputs = numbers * len(q):
    all quantiles of the first number, then those of the next; (batch,) for one number. scale ()
    or (numbers,), in the targets' units.
    """

    def __init__(self, q: float | Sequence[float] = 0.5, scale: float | Array = 1.0) -> None:
        self.q = np.array(q, np.float64).reshape(-1)
        if self.q.size == 0 or not np.all((self.q > 0) & (self.q < 1)):
            raise ConfigError(f"Quantile: q is {q}, expected above 0 and below 1")
        self.scale = _positive_scale("Quantile", scale)
        self._buffers = Workspace()

    def __call__(self, scores: Array, targets: Targets) -> tuple[float, Array]:
        """See Loss.

        Raises:
            DataError: targets and weights do not fit the scores and the quantiles.
        """
        wanted, weights = _checked("Quantile", scores, targets, outputs_a_number=self.q.size)
        outputs, batch = scores.shape
        shape = (wanted.shape[1], self.q.size, batch)  # (numbers, quantiles, batch)
        error = self._buffers.empty("error", shape, scores.dtype)
        d = self._buffers.empty("d_scores", shape, scores.dtype)
        scale = self.scale.astype(scores.dtype).reshape(-1, 1, 1)
        np.subtract(scores.reshape(shape), wanted.T[:, np.newaxis], out=error)
        error /= scale
        # The slope, 1 - q above the target and -q below it; none on it.
        np.sign(error, out=d)
        slope = self._buffers.empty("slope", shape, scores.dtype)
        np.multiply(d, d, out=slope)
        slope *= (0.5 - self.q).astype(scores.dtype).reshape(-1, 1)
        d *= 0.5
        d += slope
        share = shares(weights, batch, scores.dtype) / outputs
        value = _weighted(np.einsum("ijk,ijk->k", d, error), share)
        d /= scale
        d *= share
        return value, d.reshape(scores.shape)

    def total_weight(self, targets: Targets) -> float:
        """See Weighing."""
        return _total_weight("Quantile", targets)


def _positive_scale(loss: str, scale: float | Array) -> Array:
    array = np.asarray(scale, np.float64)
    if array.ndim > 1 or not np.all(array > 0):
        raise DataError(f"{loss}: scale is {array}, expected positive numbers")
    return array


def _checked(
    loss: str, scores: Array, targets: Targets, outputs_a_number: int = 1
) -> tuple[Array, Array | None]:
    wanted, weights = labels_and_weights(targets, loss)
    outputs, batch = scores.shape
    numbers, left = divmod(outputs, outputs_a_number)
    if left:
        raise DataError(f"{loss}: {outputs} outputs are not {outputs_a_number} for each number")
    if wanted.shape != (batch, numbers) and not (numbers == 1 and wanted.shape == (batch,)):
        raise DataError(f"{loss} expects targets of shape ({batch}, {numbers}), got {wanted.shape}")
    return wanted.reshape(batch, numbers), weights


def _total_weight(loss: str, targets: Targets) -> float:
    labels, weights = labels_and_weights(targets, loss)
    return total_of(weights, len(labels))


def _weighted(losses: Array, share: float | Array) -> float:
    return float(np.sum(losses * share, dtype=np.float64))
