"""Sound files made in memory."""

import io
import wave

import numpy as np


def tone(hertz, *, seconds=0.5, rate=8000, amplitude=0.5):
    """Samples float64 (samples,) of a sine."""
    time = np.arange(round(seconds * rate)) / rate
    return amplitude * np.sin(2 * np.pi * hertz * time)


def wav(channels, *, rate=8000, width=2):
    """A PCM WAV of samples (samples,) or (samples, channels) in -1 to 1, ``width`` bytes each."""
    channels = np.asarray(channels, np.float64)
    channels = channels[:, None] if channels.ndim == 1 else channels
    whole = np.rint(channels * (2 ** (8 * width - 1) - 1)).astype(np.int64)
    if width == 1:
        content = (whole + 128).astype(np.uint8).tobytes()
    else:
        raw = whole.astype("<i8").tobytes()
        content = b"".join(raw[i : i + width] for i in range(0, len(raw), 8))
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(channels.shape[1])
        writer.setsampwidth(width)
        writer.setframerate(rate)
        writer.writeframes(content)
    return file.getvalue()
