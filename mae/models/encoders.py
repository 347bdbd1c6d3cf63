"""Which encoder the pretext task of a config has."""

from mae.config.tree import Config
from mae.models.pixels import build_pixel_encoder
from mae.models.vit import ViT, build_encoder


def encoder_of(config: Config) -> ViT:
    """Return the encoder of a config's task alone, untrained: of patches, or of pixels in their place."""
    return build_pixel_encoder(config) if config.pixel_tokens else build_encoder(config)
