"""Tiles of images: cut out, rid of the colours that tell where they were, and read by an encoder of whole images.

A tile is read as what it would be in an image, a small grid of patches. Its positions are those of a part of the
encoder's grid that is drawn for each tile: so every position is trained, and none tells where the tile was. Shapes in
comments: B images, T tiles of each, C channels, h and w a tile's height and width as the encoder reads it, D width.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from mae.config.tree import Config
from mae.data.augmentation import resampling_matrix
from mae.models.vit import Encoder, patchify
from mae.runtime.autocast import full
from mae.runtime.rng import branch

GREEN_TO_MAGENTA = (-1.0, 2.0, -1.0)
"""The axis of red, green and blue along which lenses displace colours (Doersch et al., 2015, section 3.1)."""

GREY = 0.5
"""Of pictures, where there is no tile."""


class Reading(NamedTuple):
    """How tiles are read: `places` int64 (count, T, 2), the first row and column of the encoder's grid; `kept` int64
    (count, T), the one channel of each that is left, or None where all are."""

    places: Tensor
    kept: Tensor | None


def draw_reading(count: int, tiles: int, config: Config, generator: torch.Generator) -> Reading:
    """Return the draws of `tiles` tiles of each of `count` images."""
    room = torch.tensor(config.grid) - torch.tensor(config.tile_grid)
    places = (torch.rand(count, tiles, 2, generator=branch(generator, "places")) * (room + 1)).long()
    dropped = config.tile_color == "drop"
    return Reading(
        places, torch.randint(3, (count, tiles), generator=branch(generator, "channels")) if dropped else None
    )


def cut(images: Tensor, boxes: Tensor, config: Config) -> Tensor:
    """Return tiles (B, T, C, h, w) of images (B, C, H, W) at `boxes` (B, T, 4): top, left, height, width in pixels.

    They are resized, anti-aliased and bicubic, to as many whole patches as they have about.
    """
    h, w = (rows * patch for rows, patch in zip(config.tile_grid, config.model.patch_size, strict=True))
    top, left, height, width = boxes.flatten(0, 1).unbind(dim=1)
    with full(images.device):
        rows = resampling_matrix(top, height, images.shape[2], h).unflatten(0, boxes.shape[:2])  # (B, T, h, H)
        columns = resampling_matrix(left, width, images.shape[3], w).unflatten(0, boxes.shape[:2])  # (B, T, w, W)
        return (rows[:, :, None] @ images[:, None] @ columns[:, :, None].mT).clamp(0, 1)


def without_shortcuts(tiles: Tensor, reading: Reading, config: Config, look: Callable[[Tensor], Tensor]) -> Tensor:
    """Return tiles (B, T, C, h, w) in 0..1 as `look` makes them, less the colours that `config.tile_color` takes."""
    if reading.kept is not None:
        channel = torch.arange(3, device=tiles.device)
        return look(tiles) * (channel == reading.kept[..., None])[..., None, None]  # the others at the training mean
    return look(project(tiles) if config.tile_color == "project" else tiles)


def project(tiles: Tensor) -> Tensor:
    """Return tiles (B, T, 3, h, w) without what they have of the axis from green to magenta."""
    axis = tiles.new_tensor(GREEN_TO_MAGENTA).view(3, 1, 1)
    along = (tiles * axis).sum(dim=2, keepdim=True) / axis.square().sum()
    return tiles - along * axis


def encode(encoder: Encoder, tiles: Tensor, reading: Reading) -> Tensor:
    """Return the class tokens (B, T, D) of normalised tiles (B, T, C, h, w)."""
    patches = patchify(tiles.flatten(0, 1), encoder.patch)  # (BT, n, P)
    rows, columns = (
        torch.arange(side // patch, device=tiles.device)
        for side, patch in zip(tiles.shape[3:], encoder.patch, strict=True)
    )
    row, column = reading.places.flatten(0, 1)[..., None, None].unbind(dim=1)  # (BT, 1, 1)
    places = (row + rows[:, None]) * encoder.patch_embed.grid_size[1] + column + columns
    return encoder.forward_at(patches, places.flatten(1))[:, 0].unflatten(0, tiles.shape[:2])


def paste(size: tuple[int, int], tiles: Tensor, boxes: Tensor) -> Tensor:
    """Return grey images (B, C, *size) for people with tiles (B, T, C, h, w) of images at `boxes` (B, T, 4), resized to
    these by repeating pixels; a later tile lies on an earlier one."""
    canvas = tiles.new_full((len(tiles), tiles.shape[2], *size), GREY)
    for image, pieces, places in zip(canvas, tiles, boxes.tolist(), strict=True):
        for piece, (top, left, height, width) in zip(pieces, places, strict=True):
            resized = torch.nn.functional.interpolate(piece[None], (height, width))
            image[:, top : top + height, left : left + width] = resized[0]
    return canvas
