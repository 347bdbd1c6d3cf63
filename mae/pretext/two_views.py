"""Two views of an image, for tasks that compare them: crops and flips as `data` says, distorted as `views` says.

The first views' crops are those of every other task with the seed.
"""

from typing import NamedTuple

import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional as F

from mae.config.tree import Config
from mae.data import augmentation, distortion
from mae.data.distortion import distort
from mae.pretext.pictures import image_rows
from mae.runtime.rng import branch


class ViewDraws(NamedTuple):
    """What is random in two views of B images, but for the crops of the first."""

    distortion: distortion.Draws
    other_crops: augmentation.Draws
    other_distortion: distortion.Draws


def draw(config: Config, count: int, generator: torch.Generator) -> ViewDraws:
    """Return the draws of `count` images."""
    data, purposes = config.data, ("distortion", "other crops", "other distortion")
    first, crops, second = (branch(generator, purpose) for purpose in purposes)
    return ViewDraws(
        distortion.draw(config.views, count, 0, first),
        augmentation.draw(data, count, data.stored, crops),
        distortion.draw(config.views, count, 1, second),
    )


def two_views(images: Tensor, config: Config, crops: augmentation.Draws, draws: ViewDraws) -> tuple[Tensor, Tensor]:
    """Return two views (B, C, H, W) in 0..1 of stored images, uint8 (B, C, h, w)."""
    first = augmentation.views(images, config.data, crops)
    second = augmentation.views(images, config.data, draws.other_crops)
    return distort(first, config.views, draws.distortion), distort(second, config.views, draws.other_distortion)


def views_of_centres(
    images: Tensor, config: Config, crops: augmentation.Draws, draws: ViewDraws
) -> tuple[Tensor, Tensor]:
    """Return the same, for pictures, of images (n, C, H, W) in 0..1 of the model's size: as if the stored ones showed
    no more than they do."""
    return two_views(255 * F.interpolate(images, config.data.stored), config, crops, draws)


def picture_of(first: Tensor, second: Tensor, similarity: Tensor) -> Figure:
    """Return a figure of two views (n, C, H, W) of n images, and of what a task takes for the second view of each.

    `similarity` (n, n) is that of first views, down, to second ones.
    """
    return image_rows({"first view": first, "second view": second, "found": second[similarity.argmax(dim=1)]})
