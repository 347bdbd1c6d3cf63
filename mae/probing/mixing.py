"""What fine-tuning does to a batch after its crops: random erasing, then mixup or CutMix (Table 9), on the device.

As timm does it in its batch mode: one draw mixes a batch with its own mirror image. Draws are small, on the CPU, and a
pure function of their generator, which timm's, out of global generators, are not.
"""

from typing import NamedTuple

import numpy as np
import torch
from timm.data.mixup import mixup_target
from torch import Tensor

from mae.config.data_section import DataConfig
from mae.config.probe_sections import FinetuneProbeConfig
from mae.data.augmentation import crop_boxes
from mae.runtime.rng import branch

ERASED = 0.02, 1 / 3
"""Share of an image's area that is erased, low and high."""


class Mix(NamedTuple):
    """How a batch is mixed with its mirror image: each image's own `share`, and where CutMix pastes the other's pixels,
    as top, left, bottom and right, in place of blending."""

    share: float
    box: tuple[int, int, int, int] | None


def draw_mix(config: FinetuneProbeConfig, size: tuple[int, int], generator: torch.Generator) -> Mix:
    """Return the mix of a batch of images of `size`; CutMix in every other batch, if there is mixup too."""
    draws = np.random.default_rng(generator.initial_seed())
    cut = config.cutmix > 0 and (config.mixup == 0 or draws.random() < 0.5)
    strength = config.cutmix if cut else config.mixup
    share = float(draws.beta(strength, strength)) if strength else 1.0
    if not cut:
        return Mix(share, None)
    (height, width), middle = size, draws.random(2) * size
    reach = np.array(size) * np.sqrt(1 - share) / 2
    top, left = np.maximum(middle - reach, 0).round().astype(int).tolist()
    bottom, right = np.minimum(middle + reach, size).round().astype(int).tolist()
    return Mix(1 - (bottom - top) * (right - left) / (height * width), (top, left, bottom, right))


def mix(images: Tensor, labels: Tensor, how: Mix, classes: int, smoothing: float) -> tuple[Tensor, Tensor]:
    """Return mixed images (B, C, H, W) and the distributions over classes (B, classes), smoothed, to learn from."""
    targets: Tensor = mixup_target(labels, classes, how.share, smoothing)
    if how.box is None:
        return (images if how.share == 1 else images.lerp(images.flip(0), 1 - how.share)), targets
    top, left, bottom, right = how.box
    mixed = images.clone()
    mixed[..., top:bottom, left:right] = images.flip(0)[..., top:bottom, left:right]
    return mixed, targets


def draw_erased(share: float, count: int, size: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Return boxes int64 (count, 4) as top, left, height and width: what is erased, nothing of `1 - share` of images.

    Boxes are 3/4 to 4/3 as wide as high, like crops; timm's, 0.3 to 3.3.
    """
    boxes_of = DataConfig(image_size=size, augmentation="random_resized_crop", crop_scale=ERASED)
    boxes = crop_boxes(boxes_of, count, *size, branch(generator, "boxes"))
    return boxes * (torch.rand(count, 1, generator=branch(generator, "which")) < share)


def erase(images: Tensor, boxes: Tensor) -> Tensor:
    """Return normalised images (B, C, H, W), or clips, with 0, the mean of all images, in boxes (B, 4)."""
    top, left, height, width = (each[:, None, None] for each in boxes.unbind(dim=1))
    rows = torch.arange(images.shape[-2], device=images.device)[None, :, None]
    columns = torch.arange(images.shape[-1], device=images.device)[None, None, :]
    inside = (rows >= top) & (rows < top + height) & (columns >= left) & (columns < left + width)
    return images.masked_fill(inside.view(len(images), *(1 for _ in images.shape[1:-2]), *images.shape[-2:]), 0)
