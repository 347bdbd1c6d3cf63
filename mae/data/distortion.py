"""Distortion of views that a task compares: colour jitter, greyscale, blur and solarisation, in batches on the device.

Names, order and strengths are MoCo v2's (Chen et al., 2020) and SimSiam's; solarisation, and chances that differ
between two views, are BYOL's and MoCo v3's. Jitter changes brightness, contrast, saturation and hue in this order,
where torchvision's ColorJitter draws an order per image. Crops and flips are those of `mae.data.augmentation`.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from mae.config.pretext_sections import ViewsConfig
from mae.data.augmentation import as_grey, color_jitter
from mae.runtime.autocast import full

SIGMA = (0.1, 2.0)
"""Of the blur, pixels, low and high: SimCLR's, and of all that follow it."""


class Draws(NamedTuple):
    """What is random in a view of each of B images, small and on the CPU: `jitter` is (B, 4) in -1..1, `sigma` (B,) in
    pixels, `applied` bool (B, 4) says to which images jitter, greyscale, blur and solarisation happen."""

    jitter: Tensor
    sigma: Tensor
    applied: Tensor


def draw(settings: ViewsConfig, count: int, view: int, generator: torch.Generator) -> Draws:
    """Return the draws of view 0 or 1 of `count` images."""
    chances = (settings.jitter, settings.grayscale, settings.blur[view], settings.solarize[view])
    jitter = torch.rand(count, 4, generator=generator) * 2 - 1
    sigma = SIGMA[0] + (SIGMA[1] - SIGMA[0]) * torch.rand(count, generator=generator)
    return Draws(jitter, sigma, torch.rand(count, 4, generator=generator) < torch.tensor(chances))


def distort(images: Tensor, settings: ViewsConfig, draws: Draws) -> Tensor:
    """Return images (B, C, H, W) in 0..1, distorted as drawn; what has no chance in either view is not computed."""
    steps: list[tuple[float, Callable[[Tensor], Tensor]]] = [
        (settings.jitter, lambda pixels: color_jitter(pixels, draws.jitter, settings.jitter_strength)),
        (settings.grayscale, lambda pixels: as_grey(pixels).expand_as(pixels)),
        (max(settings.blur), lambda pixels: blur(pixels, draws.sigma)),
        (max(settings.solarize), solarize),
    ]
    with full(images.device):  # pixels are no less exact under mixed precision
        for (chance, change), applied in zip(steps, draws.applied.unbind(dim=1), strict=True):
            if chance > 0:
                images = torch.where(applied.view(-1, 1, 1, 1), change(images), images)
    return images


def solarize(images: Tensor) -> Tensor:
    """Invert the upper half of the values 0..1."""
    return torch.where(images >= 0.5, 1 - images, images)


def blur(images: Tensor, sigma: Tensor) -> Tensor:
    """Blur images (B, C, H, W), each by a Gaussian of its own `sigma` (B,), pixels; edges are mirrored.

    The kernel is about a tenth of the image wide, as in SimCLR: 23 pixels of 224, 3 of 32, and never less than 3.
    """
    rows, columns = (_blurring_matrix(sigma, side) for side in images.shape[2:])
    return rows[:, None] @ images @ columns[:, None].transpose(2, 3)


def _blurring_matrix(sigma: Tensor, side: int) -> Tensor:
    """Return (B, side, side) weights that blur along one direction; what lies past an edge is mirrored at its pixel."""
    radius = min(max(1, side // 20), side - 1)
    offset = torch.arange(-radius, radius + 1, device=sigma.device)
    kernel = torch.exp(-0.5 * (offset / sigma[:, None]).square())
    kernel = kernel / kernel.sum(dim=1, keepdim=True)
    place = (torch.arange(side, device=sigma.device)[:, None] + offset).abs()  # (side, 2 radius + 1)
    place = torch.where(place < side, place, 2 * (side - 1) - place)
    weights = sigma.new_zeros(len(sigma), side, side)
    return weights.scatter_add(2, place.expand(len(sigma), -1, -1), kernel[:, None].expand(-1, side, -1))
