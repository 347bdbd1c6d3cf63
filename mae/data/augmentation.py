"""Augmentation in batches on the device, every image with its own random parameters (Table 1e).

Crop, resize and mirror are one linear map per direction: a row matrix (B, H, h) and a column matrix (B, W, w) give
`rows @ image @ columns.T`. Two batched products do a whole batch, anti-aliased, as PIL would do image by image.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from mae.config.data_section import DataConfig
from mae.data.facts import Statistics
from mae.runtime.autocast import full
from mae.runtime.rng import on_device

ATTEMPTS = 10
"""Crops drawn per image until one fits, as in torchvision's RandomResizedCrop; the centre is the fall-back."""

JITTER = (0.4, 0.4, 0.4, 0.1)
"""Strength of brightness, contrast and saturation, and of hue in turns: the values MoCo and SimSiam use."""


class Draws(NamedTuple):
    """What is random in the views of B images, small and on the CPU: `boxes` int64 (B, 4) are top, left, height and
    width in pixels, `mirrored` is bool (B,), `jitter` is (B, 4) in -1..1, or None without colour jitter.

    Of clips, `starts` int64 (B,) are the first frames; of images there are none.
    """

    boxes: Tensor
    mirrored: Tensor
    jitter: Tensor | None
    starts: Tensor | None = None


def draw(data: DataConfig, count: int, stored: Sequence[int], generator: torch.Generator) -> Draws:
    """Return the draws of `count` images of `stored` height and width: whole numbers, so the same on every device.

    Of clips, `stored` has frames before these; the model's begin anywhere, or in the middle if nothing is augmented.
    """
    *frames, height, width = stored
    boxes = crop_boxes(data, count, height, width, generator)
    mirrored = torch.rand(count, generator=generator) < 0.5 if data.flip else torch.zeros(count, dtype=torch.bool)
    jitter = torch.rand(count, 4, generator=generator) * 2 - 1 if data.augmentation == "color_jitter" else None
    return Draws(boxes, mirrored, jitter, _starts(data, count, frames[0], generator) if frames else None)


def _starts(data: DataConfig, count: int, stored: int, generator: torch.Generator) -> Tensor:
    """Return the first frames of clips cut out of `stored` ones: the middle, or anywhere."""
    room = stored - (data.frames or stored)
    if data.augmentation == "none":
        return torch.full((count,), room // 2)
    return torch.randint(room + 1, (count,), generator=generator)


def views(images: Tensor, data: DataConfig, draws: Draws) -> Tensor:
    """Return (B, C, H, W) float images in 0..1 of the model's size from stored uint8 images (B, C, h, w).

    Of stored clips (B, C, t, h, w) it returns clips (B, C, T, H, W), all frames of one changed in the same way.
    Images and draws are on one device, where all of the work is done.
    """
    if draws.starts is not None:
        images = frames_from(images, draws.starts, data.seen[0])
    if data.augmentation == "none" and not data.flip:
        return centre(images, data)
    with full(images.device):  # pixels are no less exact under mixed precision
        result = resample(images, draws.boxes, data.image_size, draws.mirrored, _border(data, images.shape[-2:]))
        if draws.jitter is None:
            return result
        return color_jitter(result.flatten(2, -2), draws.jitter).reshape_as(result)  # frames as one high image


def frames_from(clips: Tensor, starts: Tensor, count: int) -> Tensor:
    """Return `count` frames (B, C, count, h, w) of clips (B, C, t, h, w), from their frames `starts` (B,) on."""
    chosen = starts[:, None] + torch.arange(count, device=starts.device)
    return clips.gather(2, chosen[:, None, :, None, None].expand(-1, clips.shape[1], -1, *clips.shape[3:]))


def augment(images: Tensor, data: DataConfig, generator: torch.Generator) -> Tensor:
    """Return `views` of images (B, C, h, w), or clips, with draws of their own."""
    return views(images, data, on_device(draw(data, len(images), images.shape[2:], generator), images.device))


def centre(images: Tensor, data: DataConfig) -> Tensor:
    """Return (B, C, H, W) float images in 0..1: the centre of stored uint8 images, as for evaluation.

    Of clips (B, C, t, h, w) it is the one in time, too.
    """
    return middle(images, data).float() / 255


def middle(images: Tensor, data: DataConfig) -> Tensor:
    """Return the middle (B, C, *data.seen) of images, or clips."""
    sides = zip(images.shape[2:], data.seen, strict=True)
    return images[:, :, *(slice((side - size) // 2, (side - size) // 2 + size) for side, size in sides)]


def normalise(images: Tensor, data: Statistics) -> Tensor:
    """Return float images (B, C, ...) in 0..1 less the training mean, over the standard deviation, per channel."""
    per_channel = (-1, *(1 for _ in images.shape[2:]))
    mean = images.new_tensor(data.mean).view(per_channel)
    return (images - mean) / images.new_tensor(data.std).view(per_channel)


def crop_boxes(data: DataConfig, count: int, height: int, width: int, generator: torch.Generator) -> Tensor:
    """Return the part of each image that is used, int64 (count, 4): centre, a fixed size somewhere, or a random crop.

    A fixed crop of an image that is no larger than the model's size first gets a black border of an eighth.
    """
    if data.augmentation not in ("none", "fixed_crop"):
        return _random_resized_boxes(data.crop_scale, count, height, width, generator)
    size = torch.tensor(data.image_size)
    room = torch.tensor([height, width]) - size
    start = (room // 2).expand(count, 2)
    if data.augmentation == "fixed_crop":
        border = torch.where(room > 0, 0, size // 8)
        start = (torch.rand(count, 2, generator=generator) * (room + 2 * border + 1)).long() - border
    return torch.cat([start, size.expand(count, 2)], dim=1)


def _border(data: DataConfig, stored: Sequence[int]) -> int:
    """Return how far a box may reach past an image of `stored` height and width, pixels."""
    if data.augmentation != "fixed_crop":
        return 0
    return max(0 if side > size else size // 8 for side, size in zip(stored, data.image_size, strict=True))


def _random_resized_boxes(
    scale: tuple[float, float], count: int, height: int, width: int, generator: torch.Generator
) -> Tensor:
    """Area uniform in `scale`, aspect ratio log-uniform in 3/4 .. 4/3; the first of ten attempts that fits."""
    draws = torch.rand(count, ATTEMPTS, 2, generator=generator)
    corner = torch.rand(count, 2, generator=generator)
    area = height * width * (scale[0] + (scale[1] - scale[0]) * draws[..., 0])
    aspect = torch.exp((2 * draws[..., 1] - 1) * math.log(4 / 3))
    box_width, box_height = (area * aspect).sqrt().round().long(), (area / aspect).sqrt().round().long()
    fits = (box_width >= 1) & (box_width <= width) & (box_height >= 1) & (box_height <= height)
    first = fits.int().argmax(dim=1, keepdim=True)
    found = fits.any(dim=1)
    box_height = torch.where(found, box_height.gather(1, first)[:, 0], height)
    box_width = torch.where(found, box_width.gather(1, first)[:, 0], width)
    top = (corner[:, 0] * (height - box_height + 1)).long()
    left = (corner[:, 1] * (width - box_width + 1)).long()
    return torch.stack([top, left, box_height, box_width], dim=1)


def resample(images: Tensor, boxes: Tensor, size: tuple[int, int], mirrored: Tensor, border: int = 0) -> Tensor:
    """Cut `boxes` (B, 4) out of uint8 images (B, C, h, w), resize to `size`, mirror where told; float in 0..1.

    Boxes reach past an image by `border` pixels at most. Frames of clips (B, C, T, h, w) are cut like channels.
    """
    top, left, height, width = boxes.unbind(dim=1)
    rows = resampling_matrix(top, height, images.shape[-2], size[0], border)
    columns = resampling_matrix(left, width, images.shape[-1], size[1], border)
    columns = torch.where(mirrored[:, None, None], columns.flip(1), columns)
    pixels = images.flatten(1, -3).float() / 255
    cut = (rows[:, None] @ pixels @ columns[:, None].transpose(2, 3)).clamp(0, 1)
    return cut.unflatten(1, images.shape[1:-2])


def resampling_matrix(start: Tensor, length: Tensor, stored: int, size: int, border: int = 0) -> Tensor:
    """Return (B, size, stored) weights that cut start .. start + length and resize it: anti-aliased bicubic.

    Pixels outside the box weigh nothing, as if the crop had been made first; a box that reaches past the image, by
    `border` pixels at most, finds black there.
    """
    start, length = start.float()[:, None, None], length.float()[:, None, None]
    scale = length / size
    support = scale.clamp(min=1)  # a shrinking kernel widens, which is the anti-aliasing
    centre_of = start + (torch.arange(size, device=start.device)[None, :, None] + 0.5) * scale
    pixel = torch.arange(-border, stored + border, device=start.device)[None, None, :]
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


def color_jitter(images: Tensor, draws: Tensor, strength: Sequence[float] = JITTER) -> Tensor:
    """Change brightness, contrast, then saturation and hue where there is colour, of images (B, 1 or 3, H, W) in 0..1.

    `draws` (B, 4) in -1..1 say how much of each `strength`, in that order.
    """
    brightness, contrast, saturation = (1 + strength[i] * draws[:, i].view(-1, 1, 1, 1) for i in range(3))
    images = (images * brightness).clamp(0, 1)
    images = _blend(images, as_grey(images).mean(dim=(1, 2, 3), keepdim=True), contrast)
    if images.shape[1] == 1:
        return images
    images = _blend(images, as_grey(images), saturation)
    return _shift_hue(images, strength[3] * draws[:, 3].view(-1, 1, 1))


def as_grey(images: Tensor) -> Tensor:
    """Return the lightness (B, 1, H, W) of images (B, 1 or 3, H, W), as torchvision weighs the colours."""
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
