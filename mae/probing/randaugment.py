"""RandAugment (Cubuk et al., 2020) of a batch on the device: two operations per image, each done in half of the images.

The set and the strengths are those of the official recipe, "rand-m9-mstd0.5-inc1" in timm's words. timm works on one
image at a time on the host; here each operation changes all images of a batch that drew it, each by its own strength.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as tv

LAYERS, CHANCE = 2, 0.5
"""Operations that are drawn for an image, and the chance that one is done."""

SPREAD, STRONGEST = 0.5, 10.0
"""Standard deviation of an operation's magnitude around the given one, and the magnitude of full strength."""

Operation = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Changes images (b, C, H, W) in 0..1, each by its strength (b, 1, 1, 1) in -1..1; `fill` (C, 1, 1) comes in from
outside. What has no direction reads the absolute value."""


class Draws(NamedTuple):
    """Per image and layer, (count, 2): the `operations`' numbers in `OPERATIONS`, -1 for none, and strengths."""

    operations: Tensor
    strengths: Tensor


def draw(magnitude: float, count: int, generator: torch.Generator) -> Draws:
    """Return what is done to `count` images; `magnitude` is 0 to 10."""
    operations = torch.randint(len(OPERATIONS), (count, LAYERS), generator=generator)
    done = torch.rand(count, LAYERS, generator=generator) < CHANCE
    level = magnitude + SPREAD * torch.randn(count, LAYERS, generator=generator)
    sign = torch.randint(2, (count, LAYERS), generator=generator) * 2 - 1
    return Draws(operations.where(done, -1), sign * level.clamp(0, STRONGEST) / STRONGEST)


def randaugment(images: Tensor, draws: Draws, fill: Tensor) -> Tensor:
    """Return images (B, C, H, W) in 0..1 after their operations; `draws` are on the CPU.

    `fill` (C, 1, 1) is what lies outside of an image.
    """
    for numbers, strengths in zip(draws.operations.unbind(1), draws.strengths.unbind(1), strict=True):
        changed = images.clone()
        for number, operation in enumerate(OPERATIONS):
            chosen = (numbers == number).nonzero()[:, 0]  # on the CPU, so that nothing waits for the device
            if len(chosen):
                strength = strengths[chosen].view(-1, 1, 1, 1).to(images)
                chosen = chosen.to(images.device)
                changed[chosen] = operation(images[chosen], strength, fill).clamp(0, 1)
        images = changed
    return images


def _without_strength(operation: Callable[[Tensor], Tensor]) -> Operation:
    return lambda images, strength, fill: operation(images)


def _equalize(images: Tensor) -> Tensor:
    equal: Tensor = tv.equalize((images * 255).round().to(torch.uint8))
    return equal.to(images) / 255


def _posterize(images: Tensor, strength: Tensor, fill: Tensor) -> Tensor:
    """Keep the 4 to 0 highest of 8 bits."""
    step = 2.0 ** (4 + (4 * strength.abs()).floor())
    return ((images * 255).round() / step).floor() * step / 255


def _solarize(images: Tensor, strength: Tensor, fill: Tensor) -> Tensor:
    return torch.where(images >= 1 - strength.abs(), 1 - images, images)


def _solarize_add(images: Tensor, strength: Tensor, fill: Tensor) -> Tensor:
    return torch.where(images < 128 / 255, images + strength.abs() * 110 / 255, images)


def _enhance(images: Tensor, strength: Tensor, fill: Tensor, without: Callable[[Tensor], Tensor]) -> Tensor:
    """Move images to or away from what they are `without` something, by 0 to 0.9 of the difference."""
    plain = without(images)
    return plain + (images - plain) * (1 + 0.9 * strength)


def _grey(images: Tensor) -> Tensor:
    grey: Tensor = tv.rgb_to_grayscale(images) if images.shape[1] == 3 else images
    return grey


def _mean_grey(images: Tensor) -> Tensor:
    return _grey(images).mean(dim=(1, 2, 3), keepdim=True)


def _smooth(images: Tensor) -> Tensor:
    """The 3 x 3 mean of which the middle weighs 5 of 13; borders stay."""
    kernel = images.new_tensor([[1, 1, 1], [1, 5, 1], [1, 1, 1]]).div(13).expand(images.shape[1], 1, 3, 3)
    smooth = images.clone()
    smooth[..., 1:-1, 1:-1] = F.conv2d(images, kernel, groups=images.shape[1])
    return smooth


def _affine(images: Tensor, strength: Tensor, fill: Tensor, matrix: Callable[[Tensor, float], list[Tensor]]) -> Tensor:
    """Move pixels: `matrix` of strengths (b,) and height over width gives the six numbers of x, then y, of a pixel's
    origin, where images span -1..1."""
    height, width = images.shape[2:]
    theta = torch.stack(matrix(strength.flatten(), height / width), dim=1).view(-1, 2, 3)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images - fill, grid, align_corners=False) + fill  # outside is 0 there


def _rotation(strength: Tensor, aspect: float) -> list[Tensor]:
    """Up to 30 degrees."""
    angle = strength * torch.pi / 6
    cosine, sine, none = angle.cos(), angle.sin(), torch.zeros_like(angle)
    return [cosine, -sine * aspect, none, sine / aspect, cosine, none]


def _shear_x(strength: Tensor, aspect: float) -> list[Tensor]:
    """By up to 0.3 pixels per pixel from the top, as PIL does; `_shear_y` from the left."""
    one, none = torch.ones_like(strength), torch.zeros_like(strength)
    slope = 0.3 * strength * aspect
    return [one, slope, slope, none, one, none]


def _shear_y(strength: Tensor, aspect: float) -> list[Tensor]:
    one, none = torch.ones_like(strength), torch.zeros_like(strength)
    slope = 0.3 * strength / aspect
    return [one, none, none, slope, one, slope]


def _translation_x(strength: Tensor, aspect: float) -> list[Tensor]:
    """By up to 0.45 of the side, which is 2 long."""
    one, none = torch.ones_like(strength), torch.zeros_like(strength)
    return [one, none, 0.9 * strength, none, one, none]


def _translation_y(strength: Tensor, aspect: float) -> list[Tensor]:
    one, none = torch.ones_like(strength), torch.zeros_like(strength)
    return [one, none, none, none, one, 0.9 * strength]


OPERATIONS: tuple[Operation, ...] = (
    _without_strength(tv.autocontrast),
    _without_strength(_equalize),
    _without_strength(tv.invert),
    _posterize,
    _solarize,
    _solarize_add,
    partial(_enhance, without=_grey),
    partial(_enhance, without=_mean_grey),
    partial(_enhance, without=torch.zeros_like),
    partial(_enhance, without=_smooth),
    partial(_affine, matrix=_rotation),
    partial(_affine, matrix=_shear_x),
    partial(_affine, matrix=_shear_y),
    partial(_affine, matrix=_translation_x),
    partial(_affine, matrix=_translation_y),
)
"""Colour is `_grey`'s, contrast `_mean_grey`'s, brightness black's and sharpness `_smooth`'s."""
