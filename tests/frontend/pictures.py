"""Image files by their pixels, for tests; written by Pillow, or by hand where it would not."""

import io
from typing import Any

from numpy.typing import NDArray
from PIL import Image


def encoded(
    pixels: NDArray[Any], format: str = "PNG", mode: str | None = None, **more: Any
) -> bytes:
    """A file of these pixels, (height, width) or (height, width, channels)."""
    image = Image.fromarray(pixels)
    if mode is not None:
        image = image.convert(mode)
    file = io.BytesIO()
    image.save(file, format, **more)
    return file.getvalue()


def turned(pixels: NDArray[Any], orientation: int) -> bytes:
    """A PNG file that says in its Exif how it is to be turned."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(pixels, exif=exif)
