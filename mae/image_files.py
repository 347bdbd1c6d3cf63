"""One image to pixels: any file PIL reads, as uint8 of a fixed size."""

import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from mae.errors import UserError

Pixels = np.ndarray
"""uint8 (C, H, W)."""


def decode(path: Path, size: tuple[int, int], channels: int) -> Pixels:
    """Return the pixels of an image file; `UserError` naming the file if it is empty, broken or too large.

    EXIF rotation is applied, 16-bit grey is scaled to 8 bits, of an animation the first frame is taken.
    """
    try:
        if path.stat().st_size == 0:
            raise UserError(f"image {shown(path)} is empty (0 bytes)")
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                return to_pixels(image, size, channels)
    except UnidentifiedImageError:
        raise UserError(f"image {shown(path)} is not an image that can be read") from None
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise UserError(f"image {shown(path)} has more than {Image.MAX_IMAGE_PIXELS:,} pixels") from None
    except (OSError, ValueError, SyntaxError) as error:  # what PIL's decoders raise on broken files
        raise UserError(f"image {shown(path)} cannot be read: {error}") from None


def to_pixels(image: Image.Image, size: tuple[int, int], channels: int) -> Pixels:
    """Return uint8 (channels, *size): the shorter side resized to cover `size`, then the centre; no change if equal."""
    if ImageFile.LOAD_TRUNCATED_IMAGES:
        raise RuntimeError("PIL is set to load truncated images; half an image must not pass for a whole one")
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # convert() would saturate at 255
        image = Image.fromarray((np.asarray(image).clip(0, 65535) / 257).round().astype(np.uint8))
    image = image.convert("RGB" if channels == 3 else "L")
    height, width = size
    if image.size != (width, height):
        image = ImageOps.fit(image, (width, height), Image.Resampling.BICUBIC)
    return np.asarray(image).reshape(height, width, channels).transpose(2, 0, 1)


def shown(path: Path) -> str:
    """Return a path that can be printed and tracked, whatever bytes its name has."""
    return str(path).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
