"""What is shown of encoders: the same test images with the features that each run of a study has of them."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class EncodedImages:
    """n test images with what each run makes of them, and in words which runs are not among them."""

    images: np.ndarray
    """(n, H, W, C) of values in 0..1."""
    labels: np.ndarray
    """int64 (n,)."""
    pixels: np.ndarray
    """Normalised pixels (n, P) as probes have them."""
    features: Mapping[tuple[str, int], np.ndarray]
    """By cell and seed: float32 (n, D), as probes read them."""
    left_out: list[str] = field(default_factory=list)


NOTHING = EncodedImages(np.empty((0, 1, 1, 1)), np.empty(0, np.int64), np.empty((0, 1)), {})
