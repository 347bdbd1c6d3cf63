"""Pretext tasks without a data set: of noise, as if normalised already."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from mae.config.pretext_sections import MaskConfig
from mae.config.tree import Config
from mae.data.dataset import CachedImages, ImageData, Split
from mae.pretext.base import Batch, Pretext, Surroundings
from mae.pretext.masked_autoencoder import MaskedAutoencoder
from mae.pretext.masking import SAMPLERS, Mask
from mae.pretext.registry import PRETEXTS, made_up_tokenizer, new_pretext
from mae.runtime.rng import generator


def surroundings(config: Config) -> Surroundings:
    """Ten classes of a hundred images of noise, mean 0 and standard deviation 1."""
    channels = config.data.channels
    statistics = SimpleNamespace(mean=(0.0,) * channels, std=(1.0,) * channels)
    tokenizer = made_up_tokenizer(config)
    sampled = {
        "sample": lambda count: stored(config, min(count, 100)),
        "sampled": lambda count: torch.arange(100)[:count],
    }
    return Surroundings(100, 10, statistics, tokenizer=tokenizer, **sampled)


def stored(config: Config, count: int) -> Tensor:
    """Return noise as images are stored, uint8 (count, C, h, w)."""
    shape = (count, config.data.channels, *config.data.stored)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator(0, "noise"))


def batch_of(images: Tensor) -> Batch:
    """Return the first images of a training set as a batch; all are of the first class."""
    return Batch(images, torch.arange(len(images)), torch.zeros(len(images), dtype=torch.int64))


def coloured(digits: ImageData) -> ImageData:
    """Return the digits on blue, in a colour that follows from their class."""

    def painted(split: Split) -> Split:
        assert isinstance(split.images, CachedImages)
        red, share = split.images.pixels, split.labels.view(-1, 1, 1, 1) / 9
        return Split(CachedImages(torch.cat([red, (red * share).byte(), 255 - red], dim=1)), split.labels)

    train, test = painted(digits.train), painted(digits.test)
    return replace(digits, train=train, test=test, mean=(0.5,) * 3, std=(0.25,) * 3)


def autoencoder(config: Config) -> MaskedAutoencoder:
    made = PRETEXTS["mae"](config, surroundings(config))
    assert isinstance(made, MaskedAutoencoder)
    return made


def mask_of(
    sampling: str, draws: torch.Generator, count: int, grid: tuple[int, int], kept: int, **settings: Any
) -> Mask:
    """Return masks as a sampler draws them."""
    sampler = SAMPLERS[sampling]
    return Mask(sampler.order(sampler.draw(draws, count, grid, kept), grid, MaskConfig(**settings)), kept)


def around(encoder: nn.Module, config: Config, data: ImageData) -> Pretext:
    """Return the task of a config with another encoder."""
    made = new_pretext(config, data)
    made.encoder = encoder
    return made
