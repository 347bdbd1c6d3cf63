"""One pretrain-then-probe pipeline for masked autoencoders (He et al., 2021, arXiv 2111.06377)."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mae.exchange.feature_encoder import FeatureEncoder

__version__ = "0.1.0"


def load_encoder(source: str | Path, pooling: str | None = None, settings: Sequence[str] = ()) -> "FeatureEncoder":
    """Return a trained encoder, frozen and in eval mode: `features = load_encoder("runs/3fa9c1...")(images)`.

    `source` is a run's folder or a file that `mae-cli import` reads; `settings` say what a file does not, such as
    `["model.encoder.heads=12"]`. The module takes images (B, C, H, W), uint8 or floats in 0..1, of any size, resizes
    and normalises them as training did, and returns features (B, D): `pooling` is `class_token`, `patch_mean` or `both`
    (B, 2 D), by default what the run's probes read. `mae.errors.UserError` if there is no such model.
    """
    from mae.exchange.feature_encoder import load

    return load(source, pooling, settings)
