"""Sound files to samples: PCM WAV by the standard library, other formats by ``soundfile``."""

from __future__ import annotations

import io
import wave
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO, final

import numpy as np
from numpy.typing import NDArray

from hlserve.errors import DataError, MissingDependencyError

Array = NDArray[Any]

SUFFIXES = (".wav", ".flac", ".ogg", ".oga", ".mp3", ".aif", ".aiff", ".au")
MAX_SAMPLES = 2**27  # read from one file, all channels together: 1 GiB as float64
# A program that writes into a pipe cannot know the length, and says one at the end of the range.
_UNKNOWN_SIZE = 0x7FFFF000
_RIFF = (b"RIFF", b"RIFX", b"RF64")


@final
@dataclass(frozen=True, slots=True)
class Sound:
    """Mono samples.

    Attributes:
        samples: float64 (samples,), full scale is -1 to 1.
        sample_rate: samples a second.
    """

    samples: Array
    sample_rate: int


@final
@dataclass(frozen=True, slots=True)
class SoundLength:
    """What a file says of itself."""

    samples: int
    sample_rate: int


def read_sound(source: Path | bytes, *, seconds: float | None = None, name: str = "") -> Sound:
    """The samples of a file, channels mixed to their mean.

    Args:
        source: a path, or a file's content.
        seconds: read no more than this from the start; None reads all.
        name: what errors call it; the path by default.

    Raises:
        DataError: it is no sound file, truncated, empty or too long.
        MissingDependencyError: it is no PCM WAV, and ``soundfile`` is not installed.
    """
    told = name or _told(source)
    with _opened(source, told) as file:
        channels, rate = _read(file, told, seconds)
    if not len(channels):
        raise DataError(f"{told}: holds no samples")
    if not np.isfinite(channels).all():
        raise DataError(f"{told}: holds samples that are NaN or infinite")
    return Sound(channels.mean(axis=1), rate)


def sound_length(source: Path | bytes, *, name: str = "") -> SoundLength:
    """Length and rate from the header; raises as ``read_sound``."""
    told = name or _told(source)
    with _opened(source, told) as file:
        reader = _pcm_reader(file, told)
        if reader is not None:
            with reader:
                return SoundLength(reader.getnframes(), reader.getframerate())
        with _soundfile_reader(file, told) as other:
            return SoundLength(int(other.frames), int(other.samplerate))


# ----- below


def _told(source: Path | bytes) -> str:
    return f"'{source}'" if isinstance(source, Path) else f"a sound of {len(source):,} bytes"


@contextmanager
def _opened(source: Path | bytes, told: str) -> Iterator[BinaryIO]:
    try:
        with io.BytesIO(source) if isinstance(source, bytes) else source.open("rb") as file:
            yield file
    except OSError as error:
        raise DataError(f"{told}: cannot be read: {error.strerror or error}") from error


def _read(file: BinaryIO, told: str, seconds: float | None) -> tuple[Array, int]:
    """Samples float64 (samples, channels) and the rate."""
    reader = _pcm_reader(file, told)
    if reader is not None:
        with reader:
            size = file.seek(0, io.SEEK_END)
            reader.rewind()
            return _read_pcm(reader, told, seconds, size), reader.getframerate()
    with _soundfile_reader(file, told) as other:
        wanted = _wanted(other.frames, other.samplerate, other.channels, seconds, told)
        try:
            samples: Array = other.read(wanted, dtype="float64", always_2d=True)
        except _soundfile().SoundFileError as error:
            raise DataError(f"{told}: damaged: {error}") from error
        return samples, int(other.samplerate)


def _pcm_reader(file: BinaryIO, told: str) -> wave.Wave_read | None:
    """A reader of a PCM WAV; None where it is another format."""
    magic = file.read(4)
    file.seek(0)
    if not magic:
        raise DataError(f"{told}: an empty file, expected a sound")
    if magic != _RIFF[0]:
        return None
    try:
        reader = wave.Wave_read(file)
    except EOFError as error:
        raise DataError(f"{told}: a truncated WAV, its header is not whole") from error
    except (wave.Error, RuntimeError) as error:  # a chunk that reaches over the end is the latter
        if "unknown format" in str(error):  # floats, A-law, extensible: soundfile reads them
            file.seek(0)
            return None
        raise DataError(f"{told}: a damaged WAV: {error or 'its chunks overlap'}") from error
    if reader.getframerate() < 1 or reader.getsampwidth() > 4:
        raise DataError(
            f"{told}: a WAV of {reader.getframerate()} samples a second and "
            f"{8 * reader.getsampwidth()} bits, expected 1 or more and 8 to 32"
        )
    return reader


def _read_pcm(reader: wave.Wave_read, told: str, seconds: float | None, size: int) -> Array:
    n_channels, width = reader.getnchannels(), reader.getsampwidth()
    said = reader.getnframes()
    is_known = said * n_channels * width < _UNKNOWN_SIZE
    # No more than the file can hold is asked for, whatever its header says.
    most = size // (n_channels * width)
    wanted = _wanted(min(said, most), reader.getframerate(), n_channels, seconds, told)
    content = reader.readframes(wanted)
    frames = len(content) // (n_channels * width)
    if is_known and (frames < wanted or said > most):
        raise DataError(
            f"{told}: a truncated WAV, its header says {said:,} samples, only {frames:,} are there"
        )
    whole = content[: frames * n_channels * width]
    return _pcm_values(whole, width).reshape(frames, n_channels)


def _pcm_values(content: bytes, width: int) -> Array:
    """Little-endian integers as float64 in -1 to 1; 8 bits are unsigned (RIFF, 1991)."""
    if width == 1:
        return (np.frombuffer(content, np.uint8).astype(np.float64) - 128.0) / 128.0
    if width == 3:
        wide = np.zeros((len(content) // 3, 4), np.uint8)
        wide[:, 1:] = np.frombuffer(content, np.uint8).reshape(-1, 3)
        return wide.view("<i4")[:, 0].astype(np.float64) / 2.0**31
    return np.frombuffer(content, f"<i{width}").astype(np.float64) / 2.0 ** (8 * width - 1)


def _wanted(frames: int, rate: int, channels: int, seconds: float | None, told: str) -> int:
    wanted = frames if seconds is None else min(frames, ceil(seconds * rate))
    if wanted * channels > MAX_SAMPLES and seconds is None:
        raise DataError(
            f"{told}: {frames:,} samples in {channels} channels, expected at most "
            f"{MAX_SAMPLES:,} together; cut it"
        )
    return min(wanted, MAX_SAMPLES // channels)


def _soundfile() -> ModuleType:
    try:
        import soundfile  # type: ignore[import-untyped]  # ships no types
    except (ModuleNotFoundError, OSError) as error:  # OSError: its C library is missing
        raise MissingDependencyError(
            "sounds other than PCM WAV need soundfile; type: "
            'pip install "hlserve[data]" (or convert it: ffmpeg -i sound.mp3 sound.wav)'
        ) from error
    found: ModuleType = soundfile
    return found


def _soundfile_reader(file: BinaryIO, told: str) -> Any:
    library = _soundfile()
    try:
        return library.SoundFile(file)
    except library.SoundFileError as error:
        raise DataError(f"{told}: no sound file that can be read ({error})") from error
