"""Training images that are shifted a little every time, so that fewer weights tell them apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np

from compress.technique import Data
from hlserve.errors import CompressionError, ConfigError
from hlserve.nn.augmentation import Augment
from hlserve.nn.param import Array
from hlserve.nn.workspace import Workspace


@final
@dataclass(frozen=True, slots=True)
class ShiftedImages:
    """Rows that are images, however the network takes them, moved by up to ``shift`` pixels.

    Attributes:
        shape: of an image, (channels, height, width).
        shift: see ``hlserve.nn.Augment``.
    """

    shape: tuple[int, int, int]
    shift: int

    def __call__(
        self, rows: Array, rng: np.random.Generator, buffers: Workspace | None = None
    ) -> Array:
        """Moved copies of the rows, (batch, ...) of any shape with as many values as an image."""
        images = rows.reshape(len(rows), *self.shape)
        return Augment(shift=self.shift)(images, rng, buffers).reshape(rows.shape)


def shifted_images(data: Data, shift: int) -> ShiftedImages | None:
    """How a training changes its rows; None where it leaves them as they are."""
    if not shift or data.image_shape is None:
        return None
    return ShiftedImages(data.image_shape, shift)


def require_shiftable(technique: str, data: Data, shift: int) -> None:
    """Refuses to shift rows that are no images.

    Raises:
        CompressionError: rows came without channels, height and width.
    """
    if shift and data.image_shape is None:
        raise CompressionError(
            f"{technique}: shift is {shift}, but the rows are no images; give them as "
            "(rows, channels, height, width), or set shift to 0"
        )


def require_shift(technique: str, shift: int) -> None:
    """Refuses what no number of pixels can be.

    Raises:
        ConfigError: it is negative.
    """
    if shift < 0:
        raise ConfigError(f"{technique}: shift is {shift}, expected 0 or more pixels")
