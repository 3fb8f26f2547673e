"""Image files to pixels of one size: what training did to its images, done to every later one."""

from __future__ import annotations

import io
import struct
import warnings
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, final

import msgspec
import numpy as np
from numpy.typing import NDArray

from hlserve.errors import ConfigError, DataError, MissingDependencyError
from hlserve.frontend.token_ids import INPUT

if TYPE_CHECKING:
    from PIL.Image import Image as PillowImage

Array = NDArray[Any]

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp")
MAX_SIDE = 4096  # of what a network takes
MAX_PIXELS = 2**26  # of a file: a small file may unpack to more than memory holds
_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP")
_ORIENTATION = 0x0112  # the Exif tag; 5 to 8 lay the image on its side
_WHITE = 255


@final
class Image(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    tag_field="kind",
    tag="image",
    forbid_unknown_fields=True,
):
    """Image files -> pixels uint8 (rows, channels, height, width) in 0 to 255.

    An image is turned as its Exif orientation says; of several frames the first counts; what is
    transparent lies on white; colours become grey as 0.299 R + 0.587 G + 0.114 B (ITU-R BT.601).
    An image of another size is stretched to this one, by Pillow's bilinear filter, which averages
    over all pixels that a smaller image leaves out.

    Attributes:
        height, width: in pixels.
        channels: 1 for grey, 3 for red, green and blue.
        schema_version: of this description.
    """

    height: int
    width: int
    channels: Literal[1, 3]
    schema_version: int = 1

    def __post_init__(self) -> None:
        """Checks the values.

        Raises:
            ConfigError: a side is out of range.
        """
        if not (1 <= self.height <= MAX_SIDE and 1 <= self.width <= MAX_SIDE):
            raise ConfigError(
                f"images of {self.height}x{self.width}, expected sides of 1 to {MAX_SIDE} pixels"
            )

    def apply(self, items: Sequence[Path | str | bytes]) -> dict[str, Array]:
        """Pixels under the name ``input``.

        Args:
            items: paths, or contents, of PNG, JPEG, BMP, GIF or WebP files.

        Raises:
            DataError: a file cannot be read, is damaged or too large, or is no such image.
            MissingDependencyError: Pillow is not installed.
        """
        shape = (len(items), self.channels, self.height, self.width)
        rows = np.empty(shape, dtype=np.uint8)
        for number, item in enumerate(items):
            rows[number] = self._pixels(item, f"item {number}")
        return {INPUT: rows}

    def feeding(self, inputs: Collection[str]) -> Image:
        """The same: there is one input and no mask."""
        return self

    def _pixels(self, item: object, name: str) -> Array:
        image = _read(item, name)
        image = image.convert("L" if self.channels == 1 else "RGB")
        if image.size != (self.width, self.height):
            from PIL.Image import Resampling

            image = image.resize((self.width, self.height), Resampling.BILINEAR)
        pixels = np.asarray(image)
        return pixels[None] if self.channels == 1 else np.moveaxis(pixels, -1, 0)


def size_of(item: Path | str | bytes, name: str) -> tuple[int, int]:
    """Height and width as the image is seen, from the file's head alone; raises as ``apply``."""
    with _damage_told(name), _open(item, name) as image:
        width, height = image.size
        is_on_its_side = image.getexif().get(_ORIENTATION, 1) in (5, 6, 7, 8)
    return (width, height) if is_on_its_side else (height, width)


def is_grey(item: Path | str | bytes, name: str) -> bool:
    """Whether an image holds no colour, however it is kept; raises as ``apply``."""
    image = _read(item, name)
    if image.mode == "L":
        return True
    pixels = np.asarray(image)
    return bool((pixels[..., :1] == pixels[..., 1:]).all())


# ----- below


@contextmanager
def _damage_told(name: str) -> Iterator[None]:
    """Whatever Pillow's decoders raise on a damaged file, as a DataError."""
    try:
        yield
    except DataError:
        raise
    except (OSError, SyntaxError, ValueError, EOFError, struct.error) as error:
        raise DataError(f"{name} is a damaged image: {error}") from error


def _read(item: object, name: str) -> PillowImage:
    """The first frame upright, without transparency, of 8 bits: mode L or RGB."""
    with _damage_told(name), _open(item, name) as opened:
        from PIL import ImageOps

        opened.load()
        return _opaque(_in_8_bits(ImageOps.exif_transpose(opened), name))


def _open(item: object, name: str) -> PillowImage:
    try:
        import PIL.Image
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            'reading images needs Pillow: pip install "hlserve[data]"'
        ) from error
    source = _source(item, name)
    try:
        with warnings.catch_warnings():
            # Its limit is above ours, which the next lines tell.
            warnings.simplefilter("ignore", PIL.Image.DecompressionBombWarning)
            image = PIL.Image.open(source, formats=_FORMATS)
    except PIL.UnidentifiedImageError as error:
        raise DataError(f"{name} is no PNG, JPEG, BMP, GIF or WebP image") from error
    except PIL.Image.DecompressionBombError as error:
        raise DataError(f"{name} is too large, expected at most {MAX_PIXELS:,} pixels") from error
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise DataError(f"{name} has {width * height:,} pixels, expected at most {MAX_PIXELS:,}")
    return image


def _source(item: object, name: str) -> io.BytesIO:
    if isinstance(item, str | Path):
        path = Path(item)
        try:
            item = path.read_bytes()
        except (OSError, ValueError) as error:
            told = getattr(error, "strerror", None) or error
            raise DataError(f"{name}: '{path}': cannot be read: {told}") from error
    if not isinstance(item, bytes):
        raise DataError(f"{name} is {type(item).__name__}, expected a path or the file's bytes")
    if not item:
        raise DataError(f"{name} is empty, expected an image")
    return io.BytesIO(item)


def _in_8_bits(image: PillowImage, name: str) -> PillowImage:
    if image.mode.startswith("I;16"):
        from PIL.Image import fromarray

        values = np.asarray(image).astype(np.float64)
        return fromarray(np.rint(values * (255 / 65535)).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise DataError(f"{name} holds 32 bits a pixel, expected 8 or 16")
    return image


def _opaque(image: PillowImage) -> PillowImage:
    is_grey_mode = image.mode in ("1", "L", "LA", "La")
    if image.has_transparency_data:
        from PIL.Image import alpha_composite, new

        front = image.convert("RGBA")
        image = alpha_composite(new("RGBA", front.size, (_WHITE, _WHITE, _WHITE, 255)), front)
    return image.convert("L" if is_grey_mode else "RGB")
