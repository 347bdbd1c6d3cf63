"""Image files: one to pixels, any that PIL reads, as uint8 of a fixed size; and the paths of very many."""

import errno
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from mae.errors import RunError, UserError

EXTENSIONS = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm"}

Pixels = np.ndarray
"""uint8 (C, H, W); of a clip (C, T, H, W)."""

PASSING = {errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.EMFILE, errno.ENFILE, errno.ENOMEM}
"""Failures of disk, network or system, not of the file that was read."""


class UnusableImage(UserError):
    """A file is empty, broken or too large; `reason` says which, without its name."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"image {shown(path)} {reason}")
        self.reason = reason


@dataclass(frozen=True)
class PathList:
    """Paths in two arrays: as a list of strings, a million of them take 150 MB in each process that has them.

    `text` is uint8, all paths one after another; `ends` is int64 (N,), where each ends.
    """

    text: np.ndarray
    ends: np.ndarray

    @classmethod
    def of(cls, paths: Sequence[str | Path]) -> "PathList":
        names = [os.fsencode(path) for path in paths]
        return cls(np.frombuffer(b"".join(names), np.uint8), np.cumsum([len(name) for name in names], dtype=np.int64))

    def __getitem__(self, index: int) -> Path:
        start = self.ends[index - 1] if index else 0
        return Path(os.fsdecode(self.text[start : self.ends[index]].tobytes()))


def decode(path: Path, size: Sequence[int], channels: int) -> Pixels:
    """Return the pixels of an image file; `UnusableImage` if it is empty, broken or too large.

    `RunError` if the system fails to read it: with `data.skip_bad_images` it would be left out for good.
    EXIF rotation is applied, 16-bit grey is scaled to 8 bits, of an animation the first frame is taken.
    """
    try:
        if path.stat().st_size == 0:
            raise UnusableImage(path, "is empty (0 bytes)")
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                # A JPEG is decoded at 1/2, 1/4 or 1/8 of its size, for a fraction of the time, where that is still
                # twice what is needed, whichever way EXIF turns it. Other formats and smaller images stay as they are.
                image.draft(None, (2 * max(size), 2 * max(size)))
                return to_pixels(image, size, channels)
    except UnidentifiedImageError:
        raise UnusableImage(path, "is not an image that can be read") from None
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise UnusableImage(path, f"has more than {Image.MAX_IMAGE_PIXELS:,} pixels") from None
    except (OSError, ValueError, SyntaxError) as error:  # what PIL's decoders raise on broken files
        if getattr(error, "errno", None) in PASSING:
            raise RunError(f"image {shown(path)} cannot be read now: {error}; the same command tries again") from None
        raise UnusableImage(path, f"cannot be read: {getattr(error, 'strerror', None) or error}") from None


def to_pixels(image: Image.Image, size: Sequence[int], channels: int) -> Pixels:
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
