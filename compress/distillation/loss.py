"""What a student makes small: the distance to its teacher, and to the labels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import final

import numpy as np

from hlserve.errors import DataError
from hlserve.nn.losses import BinaryCrossEntropy, CrossEntropy, MeanSquaredError, Targets
from hlserve.nn.param import Array

LABELS, TEACHER = "labels", "teacher_logits"


@final
class SoftTargets:
    """alpha T^2 KL(teacher || student), both softened by T, plus (1 - alpha) cross-entropy.

    Source: Hinton, Vinyals & Dean 2015, arXiv:1503.02531, section 2; T^2 keeps the size of the
    gradient when T changes. The teacher's entropy, a constant, is left out of the value.

    Shapes: scores (classes, batch); targets ``teacher_logits`` (batch, classes) and, unless
    alpha is 1, ``labels`` (batch,).
    """

    def __init__(self, temperature: float, alpha: float) -> None:
        self.temperature = temperature
        self.alpha = alpha
        self._hard = CrossEntropy()

    def __call__(self, scores: Array, targets: Targets) -> tuple[float, Array]:
        """See hlserve.nn.losses.Loss."""
        teacher = _named(targets, TEACHER).T.astype(scores.dtype, copy=False)
        t, batch = self.temperature, scores.shape[1]
        log_student = _log_softmax(scores / t)
        wanted = np.exp(_log_softmax(teacher / t))
        value = self.alpha * t * t * -float(np.sum(wanted * log_student)) / batch
        # d(T^2 KL)/d(score) = T^2 (p_student - p_teacher) / T
        d = (np.exp(log_student) - wanted) * scores.dtype.type(self.alpha * t / batch)
        if self.alpha < 1:
            hard, d_hard = self._hard(scores, _named(targets, LABELS))
            value += (1 - self.alpha) * hard
            d += scores.dtype.type(1 - self.alpha) * d_hard
        return value, d


@final
class SoftLabels:
    """SoftTargets for labels that do not exclude each other: one sigmoid each, no softmax.

    alpha T^2 times the cross-entropy to the teacher's probabilities, both softened by T, plus
    (1 - alpha) times that to the labels.

    Shapes: scores (labels, batch); targets ``teacher_logits`` (batch, labels) and, unless alpha
    is 1, ``labels`` (batch, labels) of 0 and 1.
    """

    def __init__(self, temperature: float, alpha: float) -> None:
        self.temperature = temperature
        self.alpha = alpha
        self._soft = BinaryCrossEntropy()
        self._hard = BinaryCrossEntropy()

    def __call__(self, scores: Array, targets: Targets) -> tuple[float, Array]:
        """See hlserve.nn.losses.Loss."""
        t = self.temperature
        # tanh stands any size of score, where exp would overflow.
        wanted = 0.5 + 0.5 * np.tanh(_named(targets, TEACHER) / (2 * t))
        value, d = self._soft(scores / t, wanted)
        value *= self.alpha * t * t
        d *= self.alpha * t
        if self.alpha < 1:
            hard, d_hard = self._hard(scores, _named(targets, LABELS))
            value += (1 - self.alpha) * hard
            d_hard *= 1 - self.alpha
            d += d_hard
        return value, d


@final
class BlendedError:
    """The squared error to alpha * teacher + (1 - alpha) * labels, for numbers.

    Equal to alpha and (1 - alpha) times the two squared errors up to a constant. In standard
    deviations of what is wanted, as in plain training.

    Shapes: scores (outputs, batch); targets ``teacher_logits`` (batch, outputs) and, unless
    alpha is 1, ``labels`` (batch, outputs) or (batch,).
    """

    def __init__(self, alpha: float, scale: Array) -> None:
        self.alpha = alpha
        self._error = MeanSquaredError(scale)

    def __call__(self, scores: Array, targets: Targets) -> tuple[float, Array]:
        """See hlserve.nn.losses.Loss."""
        wanted = _named(targets, TEACHER)
        if self.alpha < 1:
            labels = _named(targets, LABELS).reshape(wanted.shape)
            wanted = self.alpha * wanted + (1 - self.alpha) * labels
        return self._error(scores, wanted)


def _log_softmax(scores: Array) -> Array:
    shifted = scores - scores.max(axis=0)
    return np.asarray(shifted - np.log(np.sum(np.exp(shifted), axis=0)))


def _named(targets: Targets, name: str) -> Array:
    if not isinstance(targets, Mapping) or name not in targets:
        raise DataError(f"distillation takes targets by name and needs {name!r}")
    return targets[name]
