"""Made-up photographs in folders, as somebody's own."""

from pathlib import Path

import numpy as np
from PIL import Image


def write_photographs(folder: Path, count: int = 24) -> None:
    """Write pictures of three classes, which differ in their colour, larger than the images of training."""
    draws = np.random.default_rng(0)
    for number, name in enumerate(("beach", "forest", "town")):
        (folder / name).mkdir(parents=True)
        for index in range(1, count + 1):
            pixels = draws.integers(0, 100, (48, 64, 3), dtype=np.uint8)
            pixels[..., number] += 100
            Image.fromarray(pixels).save(folder / name / f"IMG_{index:04}.jpg")
