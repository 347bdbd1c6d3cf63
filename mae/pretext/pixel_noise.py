"""Corruption of pixels, made where the images are, of a single whole number per image.

Draws are few and come from the host; noise is a number per pixel. So each pixel's bits are a hash of its image's seed
and its index, in whole numbers: the same on every device, in every part of a batch, and part of a compiled graph.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from mae.config.tree import Config

BITS = 0xFFFFFFFF
"""32 bits, held in an int64."""

Corrupted = tuple[Tensor, Tensor]
"""Noisy images (B, C, H, W), normalised, and which of their pixels are corrupted, bool (B, 1, H, W)."""


def draw_seeds(count: int, generator: torch.Generator) -> Tensor:
    """Return a seed per image, int64 (count,) of 32 bits."""
    return torch.randint(BITS + 1, (count,), generator=generator)


def hashed(seeds: Tensor, count: int) -> Tensor:
    """Return 32 bits for each of `count` indexes under each seed (B,), int64 (B, count): under one seed all differ."""
    return _mixed(seeds[:, None] ^ _mixed(torch.arange(count, device=seeds.device)))


def _mixed(bits: Tensor) -> Tensor:
    """Return a permutation of 32-bit numbers in which every bit depends on all; no product leaves 64 bits."""
    for _ in range(3):
        bits = ((bits >> 16) ^ bits) * 0x45D9F3B & BITS
    return (bits >> 16) ^ bits


def normal(seeds: Tensor, count: int) -> Tensor:
    """Return `count` standard normal numbers for each seed, float32 (B, count)."""
    centred = ((hashed(seeds, count) >> 9).float() + 0.5) / (1 << 22) - 1  # 23 bits: never -1 or 1
    return math.sqrt(2) * torch.erfinv(centred)


def _gaussian(images: Tensor, seeds: Tensor, extremes: Tensor, config: Config) -> Corrupted:
    """Add noise to every number of an image."""
    noise = normal(seeds, images[0].numel()).view_as(images)
    return images + config.denoise.deviation * noise, torch.ones_like(images[:, :1], dtype=torch.bool)


def _masked(images: Tensor, seeds: Tensor, extremes: Tensor, config: Config) -> Corrupted:
    """Set pixels to the training mean."""
    _, chosen = _chosen(images, seeds, config)
    return images.masked_fill(chosen, 0), chosen


def _salt_and_pepper(images: Tensor, seeds: Tensor, extremes: Tensor, config: Config) -> Corrupted:
    """Set pixels to black or white, by the toss of a coin."""
    bits, chosen = _chosen(images, seeds, config)
    black, white = extremes
    return torch.where(chosen, torch.where(bits % 2 == 0, black, white), images), chosen


def _chosen(images: Tensor, seeds: Tensor, config: Config) -> tuple[Tensor, Tensor]:
    """Return bits of every pixel, int64 (B, 1, H, W), and which pixels have the smallest ones: equally many per image.

    Which these are has next to nothing to do with their last bit.
    """
    bits = hashed(seeds, images[0, 0].numel())
    largest = bits.sort(dim=1).values[:, config.corrupted_pixels - 1, None]
    shape = len(images), 1, *images.shape[2:]
    return bits.view(shape), (bits <= largest).view(shape)


PIXEL_NOISES: dict[str, Callable[[Tensor, Tensor, Tensor, Config], Corrupted]] = {
    "gaussian": _gaussian,
    "masked_pixels": _masked,
    "salt_and_pepper": _salt_and_pepper,
}
"""What corrupts normalised images (B, C, H, W), given seeds (B,) and what black and white are in them (2, C, 1, 1)."""
