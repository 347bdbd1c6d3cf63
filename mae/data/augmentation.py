"""Augmentation in batches on the device, every image with its own random parameters (Table 1e).

Crop, resize and mirror are one linear map per direction: a row matrix (B, H, h) and a column matrix (B, W, w) give
`rows @ image @ columns.T`. Two batched products do a whole batch, anti-aliased, as PIL would do image by image.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mae.config.tree import DataConfig
from mae.data.facts import Statistics

ATTEMPTS = 10
"""Crops drawn per image until one fits, as in torchvision's RandomResizedCrop; the centre is the fall-back."""

JITTER = 0.4
HUE = 0.1
"""Strength of brightness, contrast and saturation, and of hue in turns: the values MoCo and SimSiam use."""

Boxes = tuple[Tensor, Tensor, Tensor, Tensor]
"""Top, left, height, width in pixels, each (B,)."""


@dataclass(frozen=True)
class Draws:
    """What is random in the views of B images: boxes, which are mirrored, bool (B,), and colour jitter (B, 4) in -1..1.

    `draws[2:4]` are those of two of them. They are small, so a whole batch can have its draws before it is cut up.
    """

    boxes: Boxes
    mirrored: Tensor
    jitter: Tensor | None

    def __getitem__(self, part: slice) -> "Draws":
        top, left, height, width = (side[part] for side in self.boxes)
        jitter = None if self.jitter is None else self.jitter[part]
        return Draws((top, left, height, width), self.mirrored[part], jitter)


def draw(data: DataConfig, count: int, stored: Sequence[int], generator: torch.Generator) -> Draws:
    """Return the draws of `count` images of `stored` height and width; on the CPU, so that they are the same on every
    device."""
    height, width = stored
    boxes = crop_boxes(data, count, height, width, generator)
    mirrored = torch.rand(count, generator=generator) < 0.5 if data.flip else torch.zeros(count, dtype=torch.bool)
    jitter = torch.rand(count, 4, generator=generator) * 2 - 1 if data.augmentation == "color_jitter" else None
    return Draws(boxes, mirrored, jitter)


def views(images: Tensor, data: DataConfig, draws: Draws) -> Tensor:
    """Return (B, C, H, W) float images in 0..1 of the model's size from stored uint8 images (B, C, h, w)."""
    result = resample(images, draws.boxes, data.image_size, draws.mirrored)
    return result if draws.jitter is None else color_jitter(result, draws.jitter.to(images.device))


def augment(images: Tensor, data: DataConfig, generator: torch.Generator) -> Tensor:
    """Return `views` of images (B, C, h, w) with draws of their own."""
    return views(images, data, draw(data, len(images), images.shape[2:], generator))


def centre(images: Tensor, data: DataConfig) -> Tensor:
    """Return (B, C, H, W) float images in 0..1: the centre of stored uint8 images, as for evaluation."""
    top, left = ((stored - size) // 2 for stored, size in zip(images.shape[2:], data.image_size, strict=True))
    return images[:, :, top : top + data.image_size[0], left : left + data.image_size[1]].float() / 255


def normalise(images: Tensor, data: Statistics) -> Tensor:
    """Return float images (B, C, H, W) in 0..1 less the training mean, over the standard deviation, per channel."""
    mean = images.new_tensor(data.mean).view(-1, 1, 1)
    return (images - mean) / images.new_tensor(data.std).view(-1, 1, 1)


def crop_boxes(data: DataConfig, count: int, height: int, width: int, generator: torch.Generator) -> Boxes:
    """Return the part of each image that is used: centre, a place for a fixed size, or a random resized crop.

    A fixed crop of an image that is no larger than the model's size first gets a black border of an eighth.
    """
    size = data.image_size
    if data.augmentation in ("none", "fixed_crop"):
        place = torch.rand(count, 2, generator=generator) if data.augmentation == "fixed_crop" else None
        sides = []
        for axis, stored in enumerate((height, width)):
            room = stored - size[axis]
            start = torch.full((count,), room // 2)
            if place is not None:
                border = 0 if room else size[axis] // 8
                start = (place[:, axis] * (room + 2 * border + 1)).floor().long() - border
            sides.append(start)
        return sides[0], sides[1], torch.full((count,), size[0]), torch.full((count,), size[1])
    return _random_resized_boxes(data.crop_scale, count, height, width, generator)


def _random_resized_boxes(
    scale: tuple[float, float], count: int, height: int, width: int, generator: torch.Generator
) -> Boxes:
    """Area uniform in `scale`, aspect ratio log-uniform in 3/4 .. 4/3; the first of ten attempts that fits."""
    draws = torch.rand(count, ATTEMPTS, 2, generator=generator)
    place = torch.rand(count, 2, generator=generator)
    area = height * width * (scale[0] + (scale[1] - scale[0]) * draws[..., 0])
    aspect = torch.exp((2 * draws[..., 1] - 1) * math.log(4 / 3))
    box_width, box_height = (area * aspect).sqrt().round().long(), (area / aspect).sqrt().round().long()
    fits = (box_width >= 1) & (box_width <= width) & (box_height >= 1) & (box_height <= height)
    first = fits.int().argmax(dim=1, keepdim=True)
    found = fits.any(dim=1)
    box_height = torch.where(found, box_height.gather(1, first)[:, 0], height)
    box_width = torch.where(found, box_width.gather(1, first)[:, 0], width)
    top = (place[:, 0] * (height - box_height + 1)).floor().long()
    left = (place[:, 1] * (width - box_width + 1)).floor().long()
    return top, left, box_height, box_width


def resample(images: Tensor, boxes: Boxes, size: tuple[int, int], mirrored: Tensor) -> Tensor:
    """Cut `boxes` out of uint8 images (B, C, h, w), resize to `size`, mirror where told; float in 0..1."""
    top, left, height, width = boxes
    rows = resampling_matrix(top, height, images.shape[2], size[0])
    columns = resampling_matrix(left, width, images.shape[3], size[1])
    columns = torch.where(mirrored[:, None, None], columns.flip(1), columns)
    rows, columns = rows.to(images.device), columns.to(images.device)
    pixels = images.float() / 255
    return (rows[:, None] @ pixels @ columns[:, None].transpose(2, 3)).clamp(0, 1)


def resampling_matrix(start: Tensor, length: Tensor, stored: int, size: int) -> Tensor:
    """Return (B, size, stored) weights that cut start .. start + length and resize it: anti-aliased bicubic.

    Pixels outside the box weigh nothing, as if the crop had been made first; a box that reaches past the image
    finds black there.
    """
    border = max(0, -int(start.min()), int((start + length).max()) - stored)  # where boxes reach past the image
    start, length = start.float()[:, None, None], length.float()[:, None, None]
    scale = length / size
    support = scale.clamp(min=1)  # a shrinking kernel widens, which is the anti-aliasing
    centre_of = start + (torch.arange(size)[None, :, None] + 0.5) * scale
    pixel = torch.arange(-border, stored + border)[None, None, :]
    inside = (pixel >= start) & (pixel < start + length)
    weights = _cubic((pixel + 0.5 - centre_of) / support) * inside
    weights = weights / weights.sum(dim=2, keepdim=True)
    return weights[:, :, border : border + stored]


def _cubic(distance: Tensor) -> Tensor:
    """Keys' cubic kernel with a = -0.5, PIL's bicubic."""
    x = distance.abs()
    near = 1.5 * x**3 - 2.5 * x**2 + 1
    far = -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return torch.where(x < 1, near, torch.where(x < 2, far, torch.zeros_like(x)))


def color_jitter(images: Tensor, draws: Tensor) -> Tensor:
    """Change brightness, contrast, then saturation and hue where there is colour, of images (B, 1 or 3, H, W) in 0..1.

    `draws` (B, 4) in -1..1 say how much, in that order.
    """
    brightness, contrast, saturation = (1 + JITTER * draws[:, i].view(-1, 1, 1, 1) for i in range(3))
    images = (images * brightness).clamp(0, 1)
    images = _blend(images, _grey(images).mean(dim=(1, 2, 3), keepdim=True), contrast)
    if images.shape[1] == 1:
        return images
    images = _blend(images, _grey(images), saturation)
    return _shift_hue(images, HUE * draws[:, 3].view(-1, 1, 1))


def _grey(images: Tensor) -> Tensor:
    if images.shape[1] == 1:
        return images
    return (images * images.new_tensor([0.2989, 0.587, 0.114]).view(3, 1, 1)).sum(dim=1, keepdim=True)


def _blend(images: Tensor, other: Tensor, share: Tensor) -> Tensor:
    return (share * images + (1 - share) * other).clamp(0, 1)


def _shift_hue(images: Tensor, turns: Tensor) -> Tensor:
    """Turn the hue of HSV by `turns` (B, 1, 1), keeping saturation and value."""
    value, smallest = images.amax(dim=1), images.amin(dim=1)
    chroma = value - smallest
    red, green, blue = images.unbind(dim=1)
    safe = chroma.clamp(min=1e-12)
    sector = torch.where(
        value == red,
        (green - blue) / safe % 6,
        torch.where(value == green, (blue - red) / safe + 2, (red - green) / safe + 4),
    )
    sector = (sector + 6 * turns) % 6
    channels = []
    for offset in (5, 3, 1):  # HSV to RGB: value - chroma * clamp(min(k, 4 - k), 0, 1)
        k = (offset + sector) % 6
        channels.append(value - chroma * torch.minimum(k, 4 - k).clamp(0, 1))
    return torch.stack(channels, dim=1)
