import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest

from hlserve.errors import ConfigError, DataError
from hlserve.nn.augmentation import Augment
from hlserve.nn.param import Array
from hlserve.nn.workspace import Workspace

DTYPES = [np.uint8, np.float32, np.float64]
by_dtype = pytest.mark.parametrize("dtype", DTYPES)
EVERYTHING = Augment(shift=2, flip=True, zoom=0.2, erase=3, noise=2.0)


def images(
    batch: int = 40,
    channels: int = 2,
    height: int = 7,
    width: int = 6,
    dtype: type = np.uint8,
) -> Array:
    """No pixel is 0 and all of an image differ, so that each tells where it came from."""
    pixels = 1 + np.arange(channels * height * width).reshape(1, channels, height, width)
    return np.repeat(pixels, batch, axis=0).astype(dtype)


def rng() -> np.random.Generator:
    return np.random.default_rng(3)


def shifted(image: Array, down: int, right: int) -> Array:
    """One (channels, height, width) image moved pixel by pixel, 0 where nothing came from."""
    out = np.zeros_like(image)
    _, height, width = image.shape
    for i in range(height):
        for j in range(width):
            if 0 <= i - down < height and 0 <= j - right < width:
                out[:, i, j] = image[:, i - down, j - right]
    return out


# ----- what each does


@by_dtype
def test_without_changes_the_images_are_copied(dtype: type) -> None:
    x = images(dtype=dtype)
    out = Augment()(x, rng())
    np.testing.assert_array_equal(out, x)
    assert out.dtype == dtype
    assert not np.shares_memory(out, x)


@by_dtype
def test_every_image_is_shifted_by_whole_pixels_within_the_limit(dtype: type) -> None:
    x = images(batch=300, dtype=dtype)
    candidates = {
        (down, right): shifted(x[0], down, right) for down in (-1, 0, 1) for right in (-1, 0, 1)
    }
    seen = set()
    for image in Augment(shift=1)(x, rng()):
        (match,) = (by for by, moved in candidates.items() if np.array_equal(moved, image))
        seen.add(match)
    assert seen == candidates.keys()


@by_dtype
def test_about_half_of_the_images_are_mirrored(dtype: type) -> None:
    x = images(batch=400, dtype=dtype)
    out = Augment(flip=True)(x, rng())
    is_mirrored = (out == x[..., ::-1]).all(axis=(1, 2, 3))
    is_same = (out == x).all(axis=(1, 2, 3))
    assert (is_mirrored ^ is_same).all()
    assert is_mirrored.mean() == pytest.approx(0.5, abs=0.1)  # four standard deviations


def test_a_shifted_mirror_image_stays_within_the_limit() -> None:
    x = images(batch=200)
    mirrored = x[0, ..., ::-1]
    allowed = [shifted(i, d, r) for i in (x[0], mirrored) for d in (-1, 0, 1) for r in (-1, 0, 1)]
    for image in Augment(shift=1, flip=True)(x, rng()):
        assert any(np.array_equal(image, one) for one in allowed)


def test_zoom_keeps_the_centre_and_moves_the_rest_towards_or_away_from_it() -> None:
    x = images(batch=300, channels=1, height=21, width=21, dtype=np.float32)
    out = Augment(zoom=0.3)(x, rng())
    np.testing.assert_array_equal(out[:, 0, 10, 10], x[:, 0, 10, 10])
    # Column 18 of the middle row comes from 10 + 8 / scale, for a scale of 0.7 to 1.3.
    source = out[:, 0, 10, 18] - x[0, 0, 10, 0]
    inside = out[:, 0, 10, 18] > 0
    assert source[inside].min() == 16
    assert source[inside].max() == 20
    assert not inside.all()  # shrunk images have an empty border


def test_erase_blots_out_one_square_of_every_image() -> None:
    x = images(batch=500, channels=3, height=9, width=11, dtype=np.float32)
    out = Augment(erase=3)(x, rng())
    is_out = out == 0
    np.testing.assert_array_equal(out[~is_out], x[~is_out])
    np.testing.assert_array_equal(is_out, np.repeat(is_out[:, :1], 3, axis=1))  # all channels
    rows, columns = is_out[:, 0].any(axis=2), is_out[:, 0].any(axis=1)
    np.testing.assert_array_equal(is_out[:, 0], rows[:, :, None] & columns[:, None, :])
    for sides in (rows.sum(axis=1), columns.sum(axis=1)):
        assert set(sides) == {2, 3}  # cut by one where its centre lies on the border
    assert rows.any(axis=0).all()
    assert columns.any(axis=0).all()


@by_dtype
def test_noise_has_its_deviation_and_no_drift(dtype: type) -> None:
    x = np.full((200, 1, 20, 20), 100, dtype)
    out = Augment(noise=5.0)(x, rng()).astype(np.float64) - 100
    # 80,000 draws: the mean errs by 0.018, the deviation by 0.013; rounding adds 0.008 to it.
    assert out.mean() == pytest.approx(0.0, abs=0.1)
    assert out.std() == pytest.approx(5.0, abs=0.1)


def test_noise_on_bytes_stops_at_their_ends() -> None:
    x = np.zeros((50, 1, 8, 8), np.uint8)
    x[:, :, 4:] = 255
    out = Augment(noise=20.0)(x, rng())
    assert out[:, :, :4].max() < 128  # nothing wrapped round
    assert out[:, :, 4:].min() > 128


# ----- laws


@by_dtype
def test_the_same_seed_gives_the_same_images_and_each_image_its_own(dtype: type) -> None:
    x = images(dtype=dtype)
    first, second = (EVERYTHING(x, rng()) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert len(np.unique(first.reshape(len(x), -1), axis=0)) == len(x)


@by_dtype
def test_the_images_given_stay_as_they_are(dtype: type) -> None:
    x = images(dtype=dtype)
    before = x.copy()
    EVERYTHING(x, rng())
    np.testing.assert_array_equal(x, before)


def test_every_channel_moves_alike() -> None:
    x = images(channels=1)
    out = Augment(shift=2, flip=True, zoom=0.2, erase=2)(np.repeat(x, 3, axis=1), rng())
    np.testing.assert_array_equal(out, np.repeat(out[:, :1], 3, axis=1))


def test_images_in_another_memory_order_are_changed_alike() -> None:
    x = images()
    turned = np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 0, -1)), -1, 0)
    np.testing.assert_array_equal(EVERYTHING(turned, rng()), EVERYTHING(x, rng()))


def test_no_images_and_one_image_are_taken() -> None:
    assert EVERYTHING(images(batch=0), rng()).shape == (0, 2, 7, 6)
    assert EVERYTHING(images(batch=1), rng()).shape == (1, 2, 7, 6)


@by_dtype
def test_steady_use_allocates_nothing_large(dtype: type) -> None:
    x = images(batch=128, channels=1, height=28, width=28, dtype=dtype)
    buffers, source = Workspace(), rng()
    EVERYTHING(x, source, buffers)
    tracemalloc.start()
    try:
        EVERYTHING(x, source, buffers)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # 98 kB of bytes or 784 kB; a row's and a column's index, 28 kB each, are made with a few
    # copies. No one of them reaches the promised 64 kB.
    assert peak < 200 * 1024


# ----- what is refused


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Augment(shift=-1), "shift is -1"),
        (lambda: Augment(erase=-1), "erase is -1"),
        (lambda: Augment(noise=float("nan")), "noise is nan"),
        (lambda: Augment(zoom=1.0), "zoom is 1.0"),
    ],
)
def test_settings_out_of_range_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


@pytest.mark.parametrize("bad", [np.zeros((2, 4, 4), np.uint8), np.zeros((2, 1, 4, 4), np.int64)])
def test_what_is_no_batch_of_images_is_refused(bad: Array) -> None:
    with pytest.raises(DataError, match="expected uint8 or floats"):
        Augment(shift=1)(bad, rng())
