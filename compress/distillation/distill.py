"""Distillation: a network learns to answer like its teacher."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np

from compress.distillation.fine_tune import FineTune, require_schedule
from compress.distillation.loss import LABELS, TEACHER, BlendedError, SoftLabels, SoftTargets
from compress.distillation.shifted import require_shift, require_shiftable, shifted_images
from compress.technique import Compressed, Data, Technique, require_floats
from hlserve.errors import CompressionError, ConfigError
from hlserve.nn.losses import Loss
from hlserve.nn.network import Network
from hlserve.nn.optimizers import AdamW
from hlserve.nn.trainer import fit


@final
@dataclass(frozen=True, slots=True)
class Distill(Technique):
    """Fine-tuning towards the teacher's soft answers (Hinton et al. 2015, arXiv:1503.02531).

    Without labels only the teacher counts. For regression the two targets are blended. The
    last weights stand, as in FineTune.

    Attributes:
        epochs, learning_rate, batch_size: as in FineTune.
        shift: as in FineTune; the teacher's answers stay those to the image at rest.
        temperature: how much the teacher's answers are softened; measured on Fashion-MNIST, 2
            to 4 do alike and 20 hurts.
        alpha: the teacher's share of the loss, 0 to 1.
    """

    epochs: int = 4
    learning_rate: float = 3e-3
    batch_size: int = 128
    temperature: float = 2.0
    alpha: float = 0.5
    shift: int = 0

    def __post_init__(self) -> None:
        require_schedule("Distill", self.epochs, self.learning_rate, self.batch_size)
        require_shift("Distill", self.shift)
        if not 0 < self.alpha <= 1 or not self.temperature > 0:
            raise ConfigError(
                f"Distill: alpha is {self.alpha}, expected 0 < alpha <= 1, and temperature "
                f"{self.temperature}, expected above 0"
            )

    def requires(self, network: Network, data: Data) -> None:
        """See Technique."""
        require_floats("Distill", network)
        if data.teacher_logits is None:
            raise CompressionError("Distill needs a teacher")
        shape = network.shapes[network.logits_node]
        if data.teacher_logits.shape != (len(data.train), *shape):
            raise CompressionError(
                f"Distill: the teacher answers {data.teacher_logits.shape}, the network "
                f"{(len(data.train), *shape)}; both must tell the same classes apart"
            )
        require_shiftable("Distill", data, self.shift)

    def transform(self, network: Network, data: Data) -> Compressed:
        """See Technique."""
        assert data.teacher_logits is not None  # requires
        targets = {TEACHER: data.teacher_logits}
        if data.train.y is not None:
            targets[LABELS] = data.train.y
        result = network.copy()
        history = fit(
            result,
            data.train.inputs,
            targets,
            loss=self._loss(network, data),
            validation=None,
            epochs=self.epochs,
            batch_size=self.batch_size,
            optimizer=AdamW(self.learning_rate),
            augment=shifted_images(data, self.shift),
            seed=data.seed,
            progress=data.progress,
        )
        if history.is_interrupted:
            raise KeyboardInterrupt  # half a training is no result
        return Compressed(result)

    def _loss(self, network: Network, data: Data) -> Loss:
        alpha = self.alpha if data.train.y is not None else 1.0
        if network.task == "multilabel":
            return SoftLabels(self.temperature, alpha)
        if network.task != "regression":
            return SoftTargets(self.temperature, alpha)
        assert data.teacher_logits is not None  # requires
        spread = data.teacher_logits.std(axis=0, dtype=np.float64)
        return BlendedError(alpha, np.where(spread > 0, spread, 1.0))


def twin(step: Distill) -> FineTune:
    """The same training without a teacher: the control that shows what the teacher is worth."""
    return FineTune(step.epochs, step.learning_rate, step.batch_size, step.shift)
