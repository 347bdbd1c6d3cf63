"""Mask samplers: which patches stay visible (section 3 of the paper, "Masking"; Table 1f).

A sampler is a pure function of (generator, count, grid, kept): it returns an order of the patches per image, a
permutation whose first `kept` entries are the visible patches and the rest the hidden ones. Every image of a batch
thus keeps the same number of patches. To add a sampler, write one function and enter it in `SAMPLERS`.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

Sampler = Callable[[torch.Generator, int, tuple[int, int], int], Tensor]

BLOCKS = 64
"""Rectangles drawn per image by block sampling; far more than it takes to cover any share of a grid."""


def random_order(generator: torch.Generator, count: int, grid: tuple[int, int], kept: int) -> Tensor:
    """Every set of patches is equally likely. Returns (count, patches) int64."""
    return torch.rand(count, math.prod(grid), generator=generator).argsort(dim=1)


def block_order(generator: torch.Generator, count: int, grid: tuple[int, int], kept: int) -> Tensor:
    """Hide large rectangles, as BEiT does, until enough patches are hidden. Returns (count, patches) int64.

    A rectangle's area is uniform between a quarter and all of the hidden area, its aspect ratio log-uniform between
    0.3 and 1/0.3. The last one is cut off row by row, from the top or the bottom, at exactly the hidden count.
    """
    rows, columns = grid
    hidden = rows * columns - kept
    draws = torch.rand(count, BLOCKS, 4, generator=generator)
    area = hidden * (0.25 + 0.75 * draws[..., 0])
    aspect = torch.exp((2 * draws[..., 1] - 1) * math.log(1 / 0.3))
    height = (area * aspect).sqrt().round().clamp(1, rows)
    width = (area / aspect).sqrt().round().clamp(1, columns)
    top = (draws[..., 2] * (rows - height + 1)).floor()
    left = (draws[..., 3] * (columns - width + 1)).floor()

    row = torch.arange(rows).view(rows, 1)
    column = torch.arange(columns).view(1, columns)
    top, left, height, width = (side[..., None, None] for side in (top, left, height, width))
    covered = (row >= top) & (row < top + height) & (column >= left) & (column < left + width)
    covered = covered.flatten(2)  # (count, BLOCKS, patches)
    first = torch.where(covered.any(1), covered.int().argmax(1), BLOCKS)  # the rectangle that hides a patch
    raster = torch.arange(rows * columns)
    upwards = torch.rand(count, 1, generator=generator) < 0.5
    within = torch.where(upwards, raster.flip(0), raster)
    return (first * rows * columns + within).argsort(dim=1, descending=True)


def grid_order(generator: torch.Generator, count: int, grid: tuple[int, int], kept: int) -> Tensor:
    """Keep patches on a regular lattice: one of every 2 x 2 at a ratio of 75 %. Returns (count, patches) int64.

    Other ratios follow an ordered-dither (Bayer) ranking, which spreads any number of patches evenly. The lattice is
    shifted at random per image, so that every patch is hidden at some time.
    """
    rows, columns = grid
    rank = _bayer(max(rows, columns))
    shift = (torch.rand(count, 2, generator=generator) * torch.tensor([rows, columns])).long()
    row = (torch.arange(rows) + shift[:, :1]) % rows
    column = (torch.arange(columns) + shift[:, 1:]) % columns
    return rank[row[:, :, None], column[:, None, :]].flatten(1).argsort(dim=1)


def _bayer(size: int) -> Tensor:
    """Return the ordered-dither ranks of a square of at least `size`, a power of two on a side."""
    rank = torch.zeros(1, 1, dtype=torch.int64)
    while rank.shape[0] < size:
        # The finest step decides first: neighbours get ranks a quarter of the square apart.
        rank = torch.cat(
            [torch.cat([4 * rank, 4 * rank + 2], dim=1), torch.cat([4 * rank + 3, 4 * rank + 1], dim=1)], dim=0
        )
    return rank


SAMPLERS: dict[str, Sampler] = {"random": random_order, "block": block_order, "grid": grid_order}


def sample_order(sampling: str, generator: torch.Generator, count: int, grid: tuple[int, int], kept: int) -> Tensor:
    """Return a (count, patches) int64 permutation per image; its first `kept` columns are the visible patches."""
    return SAMPLERS[sampling](generator, count, grid, kept)
