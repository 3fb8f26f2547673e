"""Log-mel features against a naive transform, and resampling against tones."""

import cmath
import math
from collections import Counter

import numpy as np
import pytest

from hlserve.errors import ConfigError, DataError
from hlserve.frontend import LogMel, Sound
from hlserve.frontend.log_mel import EPSILON
from hlserve.frontend.resample import resample
from tests.frontend.sounds import tone, wav

SMALL = LogMel(sample_rate=2000, max_frames=6, fmax=900.0, n_mels=5, fmin=50.0)
SILENCE = np.float32(math.log(EPSILON))


def naive(x, front_end):
    """The docstring's formulas, one number at a time."""
    rate = front_end.sample_rate
    size = round(rate * front_end.frame_ms / 1000)
    hop = round(rate * front_end.hop_ms / 1000)
    n_fft = 2 ** math.ceil(math.log2(size))

    def mel(f):
        return 2595 * math.log10(1 + f / 700)

    low, high, n = mel(front_end.fmin), mel(front_end.fmax), front_end.n_mels
    corners = [700 * (10 ** ((low + (high - low) * i / (n + 1)) / 2595) - 1) for i in range(n + 2)]
    features = []
    for start in range(0, len(x) - size + 1, hop):
        w = [0.5 - 0.5 * math.cos(2 * math.pi * i / size) for i in range(size)]
        power = []
        for k in range(n_fft // 2 + 1):
            total = sum(
                w[i] * x[start + i] * cmath.exp(-2j * math.pi * i * k / n_fft) for i in range(size)
            )
            power.append(abs(total) ** 2)
        row = []
        for b in range(n):
            energy = 0.0
            for k, p in enumerate(power):
                f = k * rate / n_fft
                if corners[b] < f <= corners[b + 1]:
                    energy += p * (f - corners[b]) / (corners[b + 1] - corners[b])
                elif corners[b + 1] < f < corners[b + 2]:
                    energy += p * (corners[b + 2] - f) / (corners[b + 2] - corners[b + 1])
            row.append(math.log(energy + EPSILON))
        features.append(row)
    return np.array(features)


def test_features_are_those_of_the_formulas():
    x = np.random.default_rng(0).uniform(-0.5, 0.5, 50 + 3 * 20)
    made = SMALL.apply([Sound(x, 2000)])
    expected = naive(x, SMALL)
    assert expected.shape == (4, 5)
    # Float32 keeps 7 digits of numbers up to 14.
    np.testing.assert_allclose(made["input"][0, :4], expected, rtol=0, atol=2e-6)
    assert (made["input"].dtype, made["mask"].dtype) == (np.float32, np.int64)


def test_what_is_behind_the_end_is_silence_and_masked():
    made = SMALL.apply([Sound(tone(300, seconds=0.045, rate=2000), 2000)])
    assert made["mask"].tolist() == [[1, 1, 1, 0, 0, 0]]
    assert (made["input"][0, 3:] == SILENCE).all()
    assert (made["input"][0, :3] > SILENCE).any()


def test_silence_is_finite_and_what_padding_holds():
    made = SMALL.apply([wav(np.zeros(300), rate=2000)])
    assert (made["input"] == SILENCE).all()
    assert made["mask"].all()


def test_long_sounds_are_cut_and_short_ones_are_one_frame():
    long, short = tone(300, seconds=2, rate=2000), tone(300, seconds=0.004, rate=2000)
    made = SMALL.apply([Sound(long, 2000), Sound(short, 2000)])
    assert made["mask"].sum(axis=1).tolist() == [6, 1]
    cut = SMALL.apply([Sound(long[: 50 + 5 * 20], 2000)])
    np.testing.assert_array_equal(made["input"][0], cut["input"][0])


def test_a_batch_is_its_items_one_by_one_and_may_be_empty():
    items = [wav(tone(f, seconds=0.1 + f / 2000, rate=2000), rate=2000) for f in (100, 300, 700)]
    together = SMALL.apply(items)
    for row, item in enumerate(items):
        for name, array in SMALL.apply([item]).items():
            np.testing.assert_array_equal(together[name][row], array[0])
    assert SMALL.apply([])["input"].shape == (0, 6, 5)


def test_a_path_and_its_content_are_one_item(tmp_path):
    content = wav(tone(300, rate=2000), rate=2000)
    (tmp_path / "a.wav").write_bytes(content)
    made, other = SMALL.apply([tmp_path / "a.wav"]), SMALL.apply([content])
    np.testing.assert_array_equal(made["input"], other["input"])


def test_the_loudest_band_is_the_tones():
    front_end = LogMel(sample_rate=8000, max_frames=10, fmax=4000.0)
    loudest = [
        front_end.apply([Sound(tone(f), 8000)])["input"][0, 3].argmax() for f in (200, 1000, 3000)
    ]
    mel = [2595 * math.log10(1 + f / 700) for f in (20, 200, 1000, 3000, 4000)]
    expected = [41 * (m - mel[0]) / (mel[-1] - mel[0]) - 1 for m in mel[1:-1]]
    assert np.abs(np.array(loudest) - expected).max() < 1  # one band


# ----- resampling


@pytest.mark.parametrize(
    ("old", "new"), [(44100, 8000), (8000, 16000), (48000, 44100), (11025, 8000)]
)
def test_a_tone_below_both_limits_is_the_same_tone_at_the_new_rate(old, new):
    ours = resample(tone(1000, rate=old), old, new)
    assert len(ours) == math.ceil(0.5 * new)
    inside = slice(new // 20, -new // 20)  # the filter reaches over the ends
    wanted = tone(1000, rate=new)[: len(ours)]
    # The window's ripple; linear interpolation of 8 to 16 kHz would be off by 0.04.
    np.testing.assert_allclose(ours[inside], wanted[inside], atol=1e-3)


def test_a_tone_above_the_new_limit_is_gone():
    assert np.abs(resample(tone(6000, rate=44100), 44100, 8000)[200:-200]).max() < 2e-3


def test_the_same_rate_changes_nothing():
    x = tone(440)
    assert resample(x, 8000, 8000) is x


def test_a_file_of_another_rate_gives_nearly_the_same_features():
    front_end = LogMel(sample_rate=8000, max_frames=20, fmax=3500.0)
    x, y = (wav(tone(700, rate=rate), rate=rate) for rate in (8000, 44100))
    made = front_end.apply([x, y])["input"]
    loud = made[0] > -5
    assert loud.any()
    # A thousandth of the amplitude, squared and logged; soft bands hold rounding alone.
    np.testing.assert_allclose(made[0][loud], made[1][loud], atol=0.02)


# ----- fitting and wrong values


def test_fitting_takes_the_commonest_rate_and_the_length_of_nearly_all():
    sounds = [wav(tone(300, seconds=0.2)) for _ in range(200)]
    sounds += [wav(tone(300, seconds=3)), wav(tone(300, seconds=0.2, rate=16000), rate=16000)]
    front_end = LogMel.fit(sounds)
    assert (front_end.sample_rate, front_end.fmax, front_end.n_mels) == (8000, 4000.0, 40)
    assert front_end.max_frames == 1 + (1600 - 200) // 80
    assert Counter(front_end.apply(sounds[:3])["mask"].sum(axis=1).tolist()) == {18: 3}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"sample_rate": 10}, "sample_rate is 10"),
        ({"sample_rate": 10**12}, "sample_rate"),
        ({"frame_ms": 0.0}, "frame_ms is 0"),
        ({"frame_ms": math.inf}, "frame_ms is inf"),
        ({"hop_ms": 1e300}, "hop_ms"),
        ({"fmax": 1001.0}, "expected 0 <= fmin < fmax <= 1000"),
        ({"fmin": math.nan}, "fmin is nan"),
        ({"n_mels": 10**9}, "bands"),
        ({"max_frames": 0}, "0 frames"),
        ({"max_frames": 10**12}, "frames"),
        ({"max_frames": 100_000, "n_mels": 500}, "numbers a sound"),
        ({"n_mels": 60}, "lies between two frequencies"),
    ],
)
def test_wrong_and_hostile_values_are_refused_before_anything_large_is_made(values, message):
    base = {"sample_rate": 2000, "max_frames": 6, "fmax": 900.0, "n_mels": 5}
    with pytest.raises(ConfigError, match=message):
        LogMel(**(base | values))


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ("a.wav", "item 0 is str, expected a path"),
        (b"text", "item 0: no sound file"),
        (Sound(np.zeros((3, 2)), 2000), r"samples of shape \(3, 2\)"),
        (Sound(np.array([np.inf]), 2000), "expected finite"),
        (Sound(np.zeros(3), 1), "1 samples a second"),
    ],
)
def test_items_that_are_no_sounds_are_told(item, message):
    with pytest.raises(DataError, match=message):
        SMALL.apply([item])


def test_no_sounds_to_fit_and_a_rate_that_no_sound_has_are_told():
    with pytest.raises(DataError, match="item 1: 5 samples a second, expected 1000 to 384000"):
        LogMel.fit([wav(tone(300)), wav(tone(300), rate=5)])
    with pytest.raises(DataError, match="no sounds"):
        LogMel.fit([])
