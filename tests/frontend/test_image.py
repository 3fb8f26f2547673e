"""Image files to pixels: every format and mode, upright, of one size; damaged ones are told."""

import io
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow

from hlserve.errors import ConfigError, DataError, MissingDependencyError
from hlserve.frontend import Image
from hlserve.frontend.image import is_grey, size_of
from tests.frontend.pictures import encoded, turned

GREY = np.arange(0, 240, 10, dtype=np.uint8).reshape(4, 6)
COLOUR = np.stack([GREY, GREY[::-1], 255 - GREY], axis=-1)
AS_GREY = Image(height=4, width=6, channels=1)
AS_COLOUR = Image(height=4, width=6, channels=3)


def pixels(front_end, content):
    made = front_end.apply([content])
    assert list(made) == ["input"]
    assert made["input"].dtype == np.uint8
    assert made["input"].shape == (1, front_end.channels, front_end.height, front_end.width)
    return made["input"][0].astype(int)


@pytest.mark.parametrize(
    ("format", "more", "tolerance"),
    [
        ("PNG", {}, 0),
        ("BMP", {}, 0),
        ("GIF", {}, 0),
        ("WEBP", {"lossless": True}, 0),
        ("JPEG", {"quality": 100}, 3),  # JPEG rounds its cosine coefficients even then
    ],
)
def test_every_format_gives_its_pixels(format, more, tolerance):
    found = pixels(AS_GREY, encoded(GREY, format, **more))
    assert np.abs(found[0] - GREY).max() <= tolerance


def test_colours_stay_and_become_grey_by_their_luma():
    content = encoded(COLOUR)
    np.testing.assert_array_equal(pixels(AS_COLOUR, content), np.moveaxis(COLOUR, -1, 0))
    luma = COLOUR @ np.array([0.299, 0.587, 0.114])
    assert np.abs(pixels(AS_GREY, content)[0] - luma).max() <= 1  # rounded
    np.testing.assert_array_equal(pixels(AS_COLOUR, encoded(GREY)), [GREY] * 3)


def test_palettes_bits_and_16_bits_are_taken():
    np.testing.assert_array_equal(pixels(AS_GREY, encoded(GREY, mode="P"))[0], GREY)
    bits = np.where(GREY > 100, 255, 0).astype(np.uint8)
    np.testing.assert_array_equal(pixels(AS_GREY, encoded(bits, mode="1"))[0], bits)
    deep = GREY.astype(np.uint16) * 257  # 255 becomes 65535
    np.testing.assert_array_equal(pixels(AS_GREY, encoded(deep))[0], GREY)


def test_what_is_transparent_lies_on_white():
    alpha = np.full((4, 6), 255, np.uint8)
    alpha[0] = 0
    found = pixels(AS_COLOUR, encoded(np.dstack([COLOUR, alpha])))
    assert (found[:, 0] == 255).all()
    np.testing.assert_array_equal(found[:, 1:], np.moveaxis(COLOUR, -1, 0)[:, 1:])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_is_turned_as_its_exif_says(orientation):
    # From the Exif standard: where the 0th row and the 0th column of what is kept are seen.
    stored = {
        1: GREY,
        2: GREY[:, ::-1],
        3: GREY[::-1, ::-1],
        4: GREY[::-1],
        5: GREY.T,
        6: np.rot90(GREY, 1),
        7: GREY[::-1, ::-1].T,
        8: np.rot90(GREY, -1),
    }[orientation]
    content = turned(np.ascontiguousarray(stored), orientation)
    assert size_of(content, "it") == (4, 6)
    np.testing.assert_array_equal(pixels(AS_GREY, content)[0], GREY)


def test_of_several_frames_the_first_counts():
    frames = [Pillow.fromarray(GREY), Pillow.fromarray(255 - GREY)]
    file = io.BytesIO()
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(pixels(AS_GREY, file.getvalue())[0], GREY)


def test_a_larger_image_is_averaged_and_a_smaller_one_interpolated():
    half = pixels(Image(height=2, width=3, channels=1), encoded(np.full((40, 60), 77, np.uint8)))
    assert (half == 77).all()
    # A chessboard of single pixels: the average is grey; any single pixel would be 0 or 255.
    board = (np.indices((64, 64)).sum(axis=0) % 2 * 255).astype(np.uint8)
    small = pixels(Image(height=8, width=8, channels=1), encoded(board))
    assert np.abs(small - 127.5).max() < 12
    wide = pixels(Image(height=1, width=5, channels=1), encoded(np.array([[0, 200]], np.uint8)))
    assert (np.diff(wide[0, 0]) >= 0).all()
    assert wide.max() <= 200


def test_paths_and_contents_give_the_same(tmp_path: Path):
    (tmp_path / "a.png").write_bytes(encoded(GREY))
    made = AS_GREY.apply([tmp_path / "a.png", str(tmp_path / "a.png"), encoded(GREY)])["input"]
    assert (made == made[0]).all()
    assert AS_GREY.apply([])["input"].shape == (0, 1, 4, 6)


def test_grey_is_what_has_no_colour_however_it_is_kept():
    for content in (encoded(GREY), encoded(GREY, mode="RGB"), encoded(GREY, mode="P")):
        assert is_grey(content, "it")
    assert not is_grey(encoded(COLOUR), "it")


def bomb(width: int, height: int) -> bytes:
    """A PNG file that says to be large and holds next to nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    data = chunk(b"IDAT", zlib.compress(bytes(100)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + data + chunk(b"IEND", b"")


NOISE = np.random.default_rng(0).integers(0, 256, (60, 60, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "item 0 is empty, expected an image"),
        (b"no image at all", "item 0 is no PNG, JPEG, BMP, GIF or WebP image"),
        (encoded(NOISE)[:-5000], "item 0 is a damaged image"),
        (encoded(NOISE, "JPEG")[:1000], "item 0 is a damaged image"),
        (encoded(NOISE, "BMP")[:-100], "item 0 is a damaged image"),
        (encoded(NOISE)[:20], "item 0"),
        (bomb(10_000, 10_000), "item 0 has 100,000,000 pixels, expected at most 67,108,864"),
        (bomb(30_000, 30_000), "item 0 is too large, expected at most 67,108,864 pixels"),
        (encoded(NOISE, "TIFF"), "item 0 is no PNG"),
        (Path("absent.png"), "item 0: 'absent.png': cannot be read: No such file"),
        (3, "item 0 is int, expected a path or the file's bytes"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_what_is_no_whole_image_is_told(content, message):
    with pytest.raises(DataError, match=message):
        AS_COLOUR.apply([content])


def test_any_byte_changed_is_an_image_or_told():
    rng = np.random.default_rng(0)
    for whole in (encoded(COLOUR), encoded(COLOUR, "JPEG"), encoded(COLOUR, "GIF")):
        for _ in range(100):
            content = bytearray(whole)
            content[rng.integers(len(content))] = rng.integers(256)
            try:
                AS_COLOUR.apply([bytes(content)])
            except DataError as error:
                assert str(error).startswith("item 0")  # noqa: PT017  # most still are images


@pytest.mark.parametrize("side", [0, 4097])
def test_sizes_out_of_range_are_refused(side):
    with pytest.raises(ConfigError, match="expected sides of 1 to 4096 pixels"):
        Image(height=4, width=side, channels=1)


def test_without_pillow_the_command_that_installs_it_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(MissingDependencyError, match=r'pip install "hlserve\[data\]"'):
        AS_GREY.apply([b"x"])


def test_the_front_end_is_read_without_pillow():
    code = (
        "import sys; sys.modules['PIL'] = None; from hlserve.frontend import from_json;"
        "from_json({'kind': 'image', 'height': 4, 'width': 6, 'channels': 1})"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
