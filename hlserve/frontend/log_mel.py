"""Sounds to log-mel features: how much energy each band of pitch holds, moment by moment."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from functools import cached_property
from math import isfinite
from pathlib import Path
from typing import Any, Self, final

import msgspec
import numpy as np
from numpy.typing import NDArray

from hlserve.errors import ConfigError, DataError
from hlserve.frontend.resample import resample
from hlserve.frontend.sound_file import Sound, read_sound, sound_length
from hlserve.frontend.token_ids import INPUT, MASK, fitted_length

Array = NDArray[Any]

EPSILON = 1e-6  # added to the power: silence is log(1e-6), about -13.8
FITTED_MAX_FRAMES = 1000  # unless told: 10 s at the default hop
# A description can ask for any size before a sound is looked at.
MAX_FRAMES, MAX_MELS, MAX_FRAME_SAMPLES = 100_000, 512, 2**15
MAX_ELEMENTS = 2**24  # numbers a sound
_BLOCK_ELEMENTS = 2**20  # of the spectra made at a time
_RATES = (1000, 384_000)
_SHARE_READ = 1.0 + 1e-3  # of what the frames need: the resampler looks a little further


@final
class LogMel(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    dict=True,
    tag_field="kind",
    tag="log_mel",
    forbid_unknown_fields=True,
):
    """A sound -> log-mel features, (frames, bands).

    Frame t takes ``frame_ms`` of sound from ``t * hop_ms`` on, only whole frames; a sound shorter
    than one is filled up with silence. With x the samples of a frame (-1 to 1), N their number
    and n the next power of two:

    - w[i] = 0.5 - 0.5 cos(2 pi i / N), the periodic Hann window;
    - P[k] = |sum_i w[i] x[i] exp(-2 pi j i k / n)|^2, the power spectrum, k = 0 ... n/2;
    - mel(f) = 2595 log10(1 + f / 700), HTK's scale (Young et al., The HTK Book, section 5.4);
    - band b is a triangle over frequency, 0 at the corners b and b + 2, 1 at the corner b + 1,
      of n_mels + 2 corners that lie evenly in mel from ``fmin`` to ``fmax``;
    - feature = ln(sum_k band_b(f_k) P[k] + 1e-6), float32.

    A file of another rate is resampled (see ``resample``), channels are mixed to their mean.
    Scaling and standardization belong to the network. Frames behind the sound's end hold what
    silence gives, ln(1e-6), and 0 in the mask.

    Attributes:
        sample_rate: samples a second.
        frame_ms: milliseconds a frame.
        hop_ms: milliseconds from one frame to the next.
        n_mels: bands.
        fmin: lowest frequency in Hz.
        fmax: highest frequency in Hz; at most half the rate.
        max_frames: what is longer is cut, what is shorter padded.
        with_mask: whether the model takes ``mask`` beside ``input``.
        schema_version: of this description.
    """

    sample_rate: int
    max_frames: int
    fmax: float
    frame_ms: float = 25.0
    hop_ms: float = 10.0
    n_mels: int = 40
    fmin: float = 20.0
    with_mask: bool = True
    schema_version: int = 1

    def __post_init__(self) -> None:
        """Checks the values.

        Raises:
            ConfigError: a value is out of range, or a band lies between two frequencies of the
                spectrum.
        """
        if not _RATES[0] <= self.sample_rate <= _RATES[1]:
            raise ConfigError(
                f"sample_rate is {self.sample_rate}, expected {_RATES[0]} to {_RATES[1]}"
            )
        for name, value in (("frame_ms", self.frame_ms), ("hop_ms", self.hop_ms)):
            n = _samples(value, self.sample_rate) if isfinite(value) else 0
            if not 1 <= n <= MAX_FRAME_SAMPLES:
                raise ConfigError(f"{name} is {value}, expected 1 to {MAX_FRAME_SAMPLES} samples")
        if not 0.0 <= self.fmin < self.fmax <= self.sample_rate / 2:
            raise ConfigError(
                f"fmin is {self.fmin} and fmax {self.fmax}, expected 0 <= fmin < fmax <= "
                f"{self.sample_rate / 2:g}, half the sample rate"
            )
        self._require_sizes()
        self._require_filled_bands()

    @classmethod
    def fit(
        cls,
        sounds: Sequence[Path | bytes | Sound],
        *,
        n_mels: int = 40,
        max_frames: int | None = None,
        frame_ms: float = 25.0,
        hop_ms: float = 10.0,
    ) -> Self:
        """The rate that most training sounds have, and frames for their lengths.

        Args:
            sounds: the training sounds alone.
            n_mels: bands.
            max_frames: None takes what 99 of 100 sounds fit into, at most 1000.
            frame_ms: milliseconds a frame.
            hop_ms: milliseconds from one frame to the next.

        Raises:
            DataError: there are no sounds, or one cannot be read.
        """
        if not sounds:
            raise DataError("there are no sounds to take rate and length from")
        lengths = [_length(sound, row) for row, sound in enumerate(sounds)]
        rates = Counter(rate for _, rate in lengths)
        rate = max(rates, key=lambda entry: (rates[entry], entry))
        frames = [_frames(round(n * rate / own), rate, frame_ms, hop_ms) for n, own in lengths]
        return cls(
            sample_rate=rate,
            max_frames=max_frames or fitted_length(frames, largest=FITTED_MAX_FRAMES),
            fmax=rate / 2,
            frame_ms=frame_ms,
            hop_ms=hop_ms,
            n_mels=n_mels,
        )

    def apply(self, items: Sequence[Path | bytes | Sound]) -> dict[str, Array]:
        """Features of sounds: paths, contents of sound files, or samples.

        Returns:
            ``input`` float32 (sounds, max_frames, n_mels) and, where the model takes one,
            ``mask`` int64 (sounds, max_frames): ones first, then zeros.

        Raises:
            DataError: an item is no sound, damaged or empty.
            MissingDependencyError: a format needs ``soundfile``.
        """
        shape = (len(items), self.max_frames, self.n_mels)
        features = np.full(shape, np.log(EPSILON), dtype=np.float32)
        mask = np.zeros(shape[:2], dtype=np.int64)
        for row, item in enumerate(items):
            found = self._features(self._samples_of(item, row))
            features[row, : len(found)] = found
            mask[row, : len(found)] = 1
        return {INPUT: features, MASK: mask} if self.with_mask else {INPUT: features}

    def feeding(self, inputs: Collection[str]) -> LogMel:
        """The same for a model with these inputs."""
        return msgspec.structs.replace(self, with_mask=MASK in inputs)

    # ----- below

    @property
    def _frame(self) -> int:
        return _samples(self.frame_ms, self.sample_rate)

    @property
    def _hop(self) -> int:
        return _samples(self.hop_ms, self.sample_rate)

    @property
    def _n_fft(self) -> int:
        return 1 << (self._frame - 1).bit_length()

    @cached_property
    def _bands(self) -> Array:
        """Triangles float64 (frequencies, bands)."""
        frequencies = np.fft.rfftfreq(self._n_fft, 1.0 / self.sample_rate)
        corners = _hertz(np.linspace(_mel(self.fmin), _mel(self.fmax), self.n_mels + 2))
        low, centre, high = corners[:-2], corners[1:-1], corners[2:]
        rising = (frequencies[:, None] - low) / (centre - low)
        falling = (high - frequencies[:, None]) / (high - centre)
        bands: Array = np.maximum(0.0, np.minimum(rising, falling))
        return bands

    def _require_sizes(self) -> None:
        if not (1 <= self.n_mels <= MAX_MELS and 1 <= self.max_frames <= MAX_FRAMES):
            raise ConfigError(
                f"{self.n_mels} bands and {self.max_frames} frames, expected 1 to {MAX_MELS} and "
                f"1 to {MAX_FRAMES}"
            )
        if self.n_mels * self.max_frames > MAX_ELEMENTS:
            raise ConfigError(
                f"{self.n_mels} bands by {self.max_frames} frames, expected at most "
                f"{MAX_ELEMENTS:,} numbers a sound"
            )

    def _require_filled_bands(self) -> None:
        empty = np.flatnonzero(self._bands.sum(axis=0) == 0.0)
        if empty.size:
            raise ConfigError(
                f"band {empty[0]} of {self.n_mels} lies between two frequencies of a spectrum of "
                f"{self.frame_ms:g} ms; take fewer bands or longer frames"
            )

    def _samples_of(self, item: object, row: int) -> Array:
        """Samples at our rate, no more than the frames need, at least one frame."""
        n_needed = (self.max_frames - 1) * self._hop + self._frame
        sound = item
        if isinstance(item, bytes | Path):
            name = f"'{item}'" if isinstance(item, Path) else f"item {row}"
            seconds = _SHARE_READ * n_needed / self.sample_rate + 0.1
            sound = read_sound(item, seconds=seconds, name=name)
        if not isinstance(sound, Sound):
            raise DataError(
                f"item {row} is {type(item).__name__}, expected a path, a file's bytes or a Sound"
            )
        samples = _checked(sound, row)
        samples = resample(samples, sound.sample_rate, self.sample_rate)[:n_needed]
        return np.pad(samples, (0, max(0, self._frame - len(samples))))

    def _features(self, samples: Array) -> Array:
        """float64 (frames, bands)."""
        window = 0.5 - 0.5 * np.cos(2.0 * np.pi * np.arange(self._frame) / self._frame)
        frames = np.lib.stride_tricks.sliding_window_view(samples, self._frame)[:: self._hop]
        result = np.empty((len(frames), self.n_mels), np.float64)
        step = max(1, _BLOCK_ELEMENTS // self._n_fft)
        for start in range(0, len(frames), step):
            block = slice(start, start + step)
            spectrum = np.fft.rfft(frames[block] * window, n=self._n_fft, axis=1)
            power = spectrum.real**2 + spectrum.imag**2
            result[block] = np.log(power @ self._bands + EPSILON)
        return result


def _samples(milliseconds: float, rate: int) -> int:
    return round(milliseconds * rate / 1000.0)


def _frames(n_samples: int, rate: int, frame_ms: float, hop_ms: float) -> int:
    return 1 + max(0, n_samples - _samples(frame_ms, rate)) // max(1, _samples(hop_ms, rate))


def _length(item: Path | bytes | Sound, row: int) -> tuple[int, int]:
    if isinstance(item, Sound):
        return len(_checked(item, row)), item.sample_rate
    name = f"'{item}'" if isinstance(item, Path) else f"item {row}"
    length = sound_length(item, name=name)
    _require_rate(length.sample_rate, name)
    return length.samples, length.sample_rate


def _checked(sound: Sound, row: int) -> Array:
    samples = np.asarray(sound.samples, dtype=np.float64)
    if samples.ndim != 1 or not samples.size or not np.isfinite(samples).all():
        raise DataError(
            f"item {row}: samples of shape {samples.shape}, expected finite ones, (samples,)"
        )
    _require_rate(sound.sample_rate, f"item {row}")
    return samples


def _require_rate(rate: int, where: str) -> None:
    if not _RATES[0] <= rate <= _RATES[1]:
        raise DataError(f"{where}: {rate} samples a second, expected {_RATES[0]} to {_RATES[1]}")


def _mel(hertz: float) -> float:
    return float(2595.0 * np.log10(1.0 + hertz / 700.0))


def _hertz(mel: Array) -> Array:
    result: Array = 700.0 * (10.0 ** (mel / 2595.0) - 1.0)
    return result
