"""Sounds from files: every width, mono of several channels, and what is no sound."""

import io
import sys

import numpy as np
import pytest
import soundfile

from hlserve.errors import DataError, MissingDependencyError
from hlserve.frontend.sound_file import read_sound, sound_length
from tests.frontend.sounds import tone, wav


@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_every_width_gives_the_same_samples(width):
    sound = read_sound(wav(tone(440), width=width))
    assert sound.sample_rate == 8000
    # Half a step of the integers by rounding, and one by the range's uneven ends.
    np.testing.assert_allclose(sound.samples, tone(440), atol=1.5 / 2 ** (8 * width - 1))


@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_samples_are_those_that_soundfile_reads(width):
    content = wav(np.random.default_rng(0).uniform(-1, 1, (500, 2)), width=width)
    theirs, _ = soundfile.read(io.BytesIO(content), dtype="float64")
    np.testing.assert_array_equal(read_sound(content).samples, theirs.mean(axis=1))


def test_channels_are_mixed_to_their_mean():
    left, right = tone(440), tone(880)
    mono = read_sound(wav(np.stack([left, right], axis=1))).samples
    np.testing.assert_allclose(mono, (left + right) / 2, atol=1e-4)  # 16 bits


@pytest.mark.parametrize(
    ("format", "subtype"), [("FLAC", "PCM_16"), ("OGG", "VORBIS"), ("WAV", "FLOAT")]
)
def test_other_formats_are_read_by_soundfile(format, subtype, tmp_path):
    path = tmp_path / "sound"
    soundfile.write(path, tone(440), 8000, format=format, subtype=subtype)
    sound = read_sound(path)
    assert (sound.sample_rate, len(sound.samples)) == (8000, 4000)
    assert np.abs(sound.samples - tone(440)).max() < 0.05  # Vorbis is lossy
    length = sound_length(path)
    assert (length.samples, length.sample_rate) == (4000, 8000)


def test_reading_stops_at_the_seconds_wanted():
    assert len(read_sound(wav(tone(440, seconds=2)), seconds=0.25).samples) == 2000


def test_a_stream_that_could_not_know_its_length_is_read_to_its_end():
    content = bytearray(wav(tone(440)))
    content[4:8] = content[40:44] = b"\xff\xff\xff\xff"
    assert len(read_sound(bytes(content)).samples) == 4000


def damaged(offset, replacement):
    content = bytearray(wav(tone(440)))
    content[offset : offset + len(replacement)] = replacement
    return bytes(content)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "an empty file"),
        (b"hello, this is a text", "no sound file that can be read"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "no sound file that can be read"),
        (wav(tone(440))[:30], "a truncated WAV, its header is not whole"),
        (wav(tone(440))[:-100], "header says 4,000 samples, only 3,950 are there"),
        (wav(np.zeros(0)), "holds no samples"),
        (damaged(22, b"\0\0"), "a damaged WAV"),  # channels
        (damaged(24, b"\0\0\0\0"), "a WAV of 0 samples a second"),
        (damaged(34, b"\x40\0"), "64 bits, expected"),
        (damaged(8, b"JUNK"), "a damaged WAV"),
        (b"RIFF", "a truncated WAV"),
    ],
)
def test_what_is_no_whole_sound_is_told(content, message, tmp_path):
    (tmp_path / "bad.wav").write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_sound(content)
    with pytest.raises(DataError, match=r"bad\.wav.*" + message):
        read_sound(tmp_path / "bad.wav")


def test_a_missing_file_and_samples_that_are_no_numbers_are_told(tmp_path):
    with pytest.raises(DataError, match=r"absent\.wav'.*No such file"):
        read_sound(tmp_path / "absent.wav")
    file = io.BytesIO()
    soundfile.write(file, np.array([0.0, np.nan]), 8000, format="WAV", subtype="FLOAT")
    with pytest.raises(DataError, match="NaN or infinite"):
        read_sound(file.getvalue())


def test_without_soundfile_the_command_to_type_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "soundfile", None)
    with pytest.raises(MissingDependencyError, match=r'pip install "hlserve\[data\]"'):
        read_sound(b"fLaC" + bytes(100))
    assert len(read_sound(wav(tone(440))).samples) == 4000  # PCM needs it not


@pytest.mark.parametrize("format", ["WAV", "FLAC", "OGG"])
def test_a_file_with_any_bytes_changed_is_read_or_refused(format):
    rng = np.random.default_rng(0)
    file = io.BytesIO()
    soundfile.write(file, tone(440), 8000, format=format)
    whole = np.frombuffer(file.getvalue(), np.uint8)
    outcomes = set()
    for _ in range(200):
        content = whole.copy()
        places = rng.integers(0, min(len(content), 200), rng.integers(1, 5))
        content[places] = rng.integers(0, 256, len(places))
        try:
            assert np.isfinite(read_sound(content.tobytes(), seconds=1).samples).all()
            outcomes.add("read")
        except DataError:
            outcomes.add("refused")
    assert "refused" in outcomes
