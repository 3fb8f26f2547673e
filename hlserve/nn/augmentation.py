"""Images changed a little every time they are trained on, so that a network learns what matters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np

from hlserve.errors import ConfigError, DataError
from hlserve.nn.param import Array
from hlserve.nn.workspace import Workspace


@final
@dataclass(frozen=True, slots=True)
class Augment:
    """Shifts, mirrors, zooms, blurs with noise and blots out, each image by its own chance.

    In this order, each drawn evenly from its range. A pixel moves as it is (nearest neighbour),
    so values stay in the images' range; what comes from outside the image is 0. The default
    changes nothing.

    Attributes:
        shift: the most pixels to move by, up or down and left or right.
        flip: whether half of the images are mirrored left to right; not for digits or letters.
        zoom: the most by which the image grows or shrinks about its centre, such as 0.1.
        erase: side in pixels of a square set to 0; its centre lies anywhere in the image, so
            that it may stick out (cutout: DeVries & Taylor 2017, arXiv:1708.04552).
        noise: standard deviation of normal noise, in the pixels' units; uint8 is rounded and
            kept in 0..255.
    """

    shift: int = 0
    flip: bool = False
    zoom: float = 0.0
    erase: int = 0
    noise: float = 0.0

    def __post_init__(self) -> None:
        for name, value in (("shift", self.shift), ("erase", self.erase), ("noise", self.noise)):
            if not 0 <= value < np.inf:
                raise ConfigError(f"Augment: {name} is {value}, expected 0 or more")
        if not 0.0 <= self.zoom < 1.0:
            raise ConfigError(f"Augment: zoom is {self.zoom}, expected 0 <= zoom < 1")

    def __call__(
        self, images: Array, rng: np.random.Generator, buffers: Workspace | None = None
    ) -> Array:
        """Changed copies of the images, which stay as they are.

        Shapes: (batch, channels, height, width) uint8, float32 or float64, kept.

        Args:
            images: see above.
            rng: draws every change; what is switched off draws nothing.
            buffers: where the result lies until the next call with them; fresh by default.

        Raises:
            DataError: the images have other axes or another type.
        """
        if images.ndim != 4 or images.dtype not in (np.uint8, np.float32, np.float64):
            raise DataError(
                f"Augment: images are {images.dtype} of shape {images.shape}, expected uint8 or "
                "floats, (batch, channels, height, width)"
            )
        used = buffers if buffers is not None else Workspace()
        out = used.empty("augmented", images.shape, images.dtype)
        if self.shift or self.flip or self.zoom:
            self._move(images, rng, used, out)
        else:
            np.copyto(out, images)
        if self.noise:
            self._add_noise(rng, used, out)
        if self.erase:
            self._erase(rng, used, out)
        return out

    def _move(
        self, images: Array, rng: np.random.Generator, buffers: Workspace, out: Array
    ) -> None:
        batch, channels, height, width = images.shape
        down, right = (self._shifts(batch, rng) for _ in range(2))
        scale = np.ones(batch)
        if self.zoom:
            scale += rng.uniform(-self.zoom, self.zoom, batch)
        rows = _sources(height, scale, down)
        columns = _sources(width, scale, right)
        if self.flip:
            mirrored = rng.random(batch) < 0.5
            columns[mirrored] = columns[mirrored, ::-1]
        # One index into the image for every pixel, the same for all channels.
        index = buffers.empty("index", (batch, height, width), np.intp)
        np.multiply(rows.clip(0, height - 1)[:, :, np.newaxis], width, out=index)
        index += columns.clip(0, width - 1)[:, np.newaxis, :]
        index += (np.arange(batch) * channels * height * width)[:, np.newaxis, np.newaxis]
        plane = buffers.empty("plane", index.shape, images.dtype)
        flat = np.ascontiguousarray(images).reshape(-1)
        for channel in range(channels):
            np.take(flat[channel * height * width :], index, out=plane, mode="clip")
            out[:, channel] = plane
        inside = buffers.empty("inside", index.shape, np.bool_)
        rows_in, columns_in = _within(rows, height), _within(columns, width)
        np.logical_and(rows_in[:, :, np.newaxis], columns_in[:, np.newaxis, :], out=inside)
        np.multiply(out, inside[:, np.newaxis], out=out)

    def _shifts(self, batch: int, rng: np.random.Generator) -> Array:
        if not self.shift:
            return np.zeros(batch, np.int64)
        return rng.integers(-self.shift, self.shift, batch, endpoint=True)

    def _add_noise(self, rng: np.random.Generator, buffers: Workspace, out: Array) -> None:
        dtype = np.float64 if out.dtype == np.float64 else np.float32
        noise = buffers.empty("noise", out.shape, dtype)
        rng.standard_normal(out=noise, dtype=dtype)
        noise *= self.noise
        if out.dtype == np.uint8:
            noise += out
            np.rint(noise, out=noise)
            np.clip(noise, 0, 255, out=noise)
            np.copyto(out, noise, casting="unsafe")
        else:
            out += noise

    def _erase(self, rng: np.random.Generator, buffers: Workspace, out: Array) -> None:
        batch, _, height, width = out.shape
        rows = _square_side(height, self.erase, rng.integers(0, height, (batch,)))
        columns = _square_side(width, self.erase, rng.integers(0, width, (batch,)))
        inside = buffers.empty("inside", (batch, height, width), np.bool_)
        np.logical_and(rows[:, :, np.newaxis], columns[:, np.newaxis, :], out=inside)
        np.copyto(out, 0, where=inside[:, np.newaxis])


def _sources(size: int, scale: Array, shift: Array) -> Array:
    """Which row (or column) each one of every image comes from, (batch, size)."""
    middle = (size - 1) / 2
    moved = np.arange(size) - shift[:, np.newaxis] - middle
    return np.rint(moved / scale[:, np.newaxis] + middle).astype(np.intp)


def _within(sources: Array, size: int) -> Array:
    return np.asarray((sources >= 0) & (sources < size))


def _square_side(size: int, side: int, centre: Array) -> Array:
    first = (centre - side // 2)[:, np.newaxis]
    positions = np.arange(size)
    return np.asarray((positions >= first) & (positions < first + side))
