"""A trained encoder as a module that takes images as they come and returns features, for programs of any kind."""

from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import torch
from torch import Tensor, nn

from mae.config.probe_sections import ProbeConfig
from mae.config.tree import Config
from mae.data.augmentation import middle, resampling_matrix
from mae.errors import UserError
from mae.exchange.incoming import Model, read_model
from mae.models.vit import Size, pool
from mae.pretext.registry import saved_pretext
from mae.probing.features import read_at

POOLINGS = get_args(ProbeConfig.model_fields["features"].annotation)


class FeatureEncoder(nn.Module):
    """A frozen encoder behind the resizing and normalisation of its training; `config` is that of its run."""

    def __init__(self, model: Model, pooling: str | None = None):
        super().__init__()
        self.config: Config = model.config
        self.pooling = pooling or model.config.probe.features
        if self.pooling not in POOLINGS:
            raise UserError(f"pooling={self.pooling}: expected one of {', '.join(POOLINGS)}")
        weights = {name: value for name, value in model.state.items() if name.startswith("encoder.")}
        self.task = saved_pretext(model.config, model.facts, weights)
        self.eval().requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        """Return features (B, D), or (B, 2 D) with pooling=both, of images (B, C, H, W) of any height and width.

        Images are uint8, or floats in 0..1; `ValueError` if they are neither, or of another number of channels. An
        encoder of clips takes (B, C, T, H, W) and reads the middle of as many frames as it was trained on, or more.
        """
        return pool(self.tokens(images), self.pooling)

    def tokens(self, images: Tensor) -> Tensor:
        """Return the encoder's tokens (B, 1 + N, D), class token first, of the same images."""
        data = self.config.data
        clips = data.frames is not None
        if images.ndim != 4 + clips or images.shape[1] != data.channels:
            shape = f"clips (B, {data.channels}, T, H, W)" if clips else f"images (B, {data.channels}, H, W)"
            raise ValueError(f"expected {shape}; found {tuple(images.shape)}")
        if data.frames is not None and images.shape[2] < data.frames:
            raise ValueError(f"expected clips of at least {data.frames} frames; found {images.shape[2]}")
        if images.dtype == torch.uint8:
            images = images.float() / 255
        elif not images.is_floating_point() or images.amin() < 0 or images.amax() > 1:
            raise ValueError(f"expected uint8, or floats in 0..1; found {images.dtype} up to {images.max().item():g}")
        return self.encoded(middle(_covering(images, data.stored_sides), data))

    def encoded(self, images: Tensor) -> Tensor:
        """Return the tokens of images, or clips, in 0..1 of the model's size, at the layer that probes read."""
        return read_at(self.config.probe.layer, self.task.encoder, self.task.look(images))


def load(source: str | Path, pooling: str | None = None, settings: Sequence[str] = ()) -> FeatureEncoder:
    """Return the encoder of a run's folder or of a file that `mae-cli import` reads; see `mae.load_encoder`."""
    return FeatureEncoder(read_model(Path(source), settings), pooling)


def _covering(images: Tensor, size: Size) -> Tensor:
    """Return float images (B, C, *size): the shorter side resized to cover it, then the centre, as of image files."""
    sides = tuple(images.shape[-2:])
    if sides == size:
        return images
    scale = min(side / wanted for side, wanted in zip(sides, size, strict=True))
    rows, columns = (
        resampling_matrix(
            images.new_tensor([(side - wanted * scale) / 2]), images.new_tensor([wanted * scale]), side, wanted
        )
        for side, wanted in zip(sides, size, strict=True)
    )
    return (rows[0] @ images @ columns[0].T).clamp(0, 1)
