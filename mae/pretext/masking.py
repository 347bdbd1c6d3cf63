"""Mask samplers: which patches stay visible (section 3 of the paper, "Masking"; Table 1f).

A sampler has two halves. `draw` makes the random numbers of a batch on the CPU, few and whole where rounding could
tell; `order` makes of them, on any device, an order of patches per image whose first entries stay visible. Every
image of a batch keeps the same number of patches. To add a sampler, write both and enter it in `SAMPLERS`.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from mae.config.pretext_sections import MaskConfig
from mae.config.tree import Config

Grid = tuple[int, ...]
"""Rows and columns of patches; of clips, times before them, which random masks alone know."""

CUT = 1.0
BAND = (1.0, 2.0)
"""Deviations, in patches, of the Gaussians that part low frequencies of noise from high ones, and that bound the middle
ones. They are ours: the paper's are not in its published code."""

MARGIN = 6
"""Patches of noise beyond each side of a grid: three of the largest deviation, so that no border is smoother."""

BLOCKS = 64
"""Rectangles drawn per image by block sampling; far more than it takes to cover any share of a grid."""


class Mask(NamedTuple):
    """Which patches of B images are visible: `order` (B, N) int64 is a permutation, its first `kept` stay visible."""

    order: Tensor
    kept: int

    @property
    def visible(self) -> Tensor:
        """Indexes (B, kept) of the visible patches."""
        return self.order[:, : self.kept]

    @property
    def hidden(self) -> Tensor:
        """Indexes (B, N - kept) of the hidden patches."""
        return self.order[:, self.kept :]


class Sampler(NamedTuple):
    """Both halves of a sampler: `draw(generator, count, grid, kept)` gives a CPU tensor (count, ...), `order(draws,
    grid, settings)` the int64 permutations (count, N) on its device."""

    draw: Callable[[torch.Generator, int, Grid, int], Tensor]
    order: Callable[[Tensor, Grid, MaskConfig], Tensor]


def _draw_random(generator: torch.Generator, count: int, grid: Grid, kept: int) -> Tensor:
    return torch.rand(count, math.prod(grid), generator=generator)


def _random_order(draws: Tensor, grid: Grid, settings: MaskConfig) -> Tensor:
    """Every set of patches is equally likely."""
    return draws.argsort(dim=1, stable=True)


def _draw_blocks(generator: torch.Generator, count: int, grid: Grid, kept: int) -> Tensor:
    """Return rectangles: top, left, height, width and whether one is cut off from below, int16 (count, BLOCKS, 5).

    A rectangle's area is uniform between a quarter and all of the hidden area, its aspect ratio log-uniform between
    0.3 and 1/0.3.
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
    upwards = (torch.rand(count, 1, generator=generator) < 0.5).expand(count, BLOCKS)
    return torch.stack([top, left, height, width, upwards], dim=2).short()


def _block_order(draws: Tensor, grid: Grid, settings: MaskConfig) -> Tensor:
    """Hide large rectangles, as BEiT does, one after the other.

    The last one is cut off row by row, from the top or the bottom, at exactly the hidden count.
    """
    rows, columns = grid
    row = torch.arange(rows, device=draws.device).view(rows, 1)
    column = torch.arange(columns, device=draws.device).view(1, columns)
    top, left, height, width, _ = (side[..., None, None] for side in draws.unbind(dim=2))
    covered = (row >= top) & (row < top + height) & (column >= left) & (column < left + width)
    covered = covered.flatten(2)  # (count, BLOCKS, N)
    first = torch.where(covered.any(1), covered.int().argmax(1), BLOCKS)  # the rectangle that hides a patch
    raster = torch.arange(rows * columns, device=draws.device)
    within = torch.where(draws[:, :1, 4] > 0, raster.flip(0), raster)
    return (first * rows * columns + within).argsort(dim=1, descending=True)


def _draw_grid(generator: torch.Generator, count: int, grid: Grid, kept: int) -> Tensor:
    """Return shifts in rows and columns, int64 (count, 2)."""
    return (torch.rand(count, 2, generator=generator) * torch.tensor(grid)).long()


def _grid_order(draws: Tensor, grid: Grid, settings: MaskConfig) -> Tensor:
    """Keep patches on a regular lattice: one of every 2 x 2 at a ratio of 75 %.

    Other ratios follow an ordered-dither (Bayer) ranking, which spreads any number of patches evenly. The lattice is
    shifted at random per image, so that every patch is hidden at some time.
    """
    rows, columns = grid
    rank = _bayer(max(rows, columns), draws.device)
    row = (torch.arange(rows, device=draws.device) + draws[:, :1]) % rows
    column = (torch.arange(columns, device=draws.device) + draws[:, 1:]) % columns
    return rank[row[:, :, None], column[:, None, :]].flatten(1).argsort(dim=1)


def _bayer(size: int, device: torch.device) -> Tensor:
    """Return the ordered-dither ranks of a square of at least `size`, a power of two on a side."""
    rank = torch.zeros(1, 1, dtype=torch.int64, device=device)
    quarters = torch.tensor([[0, 2], [3, 1]], device=device)
    while len(rank) < size:
        # The finest step decides first: neighbours get ranks a quarter of the square apart.
        rank = 4 * rank.repeat(2, 2) + quarters.kron(torch.ones_like(rank))
    return rank


def _draw_noise(generator: torch.Generator, count: int, grid: Grid, kept: int) -> Tensor:
    """Return white noise, float32 (count, rows + 2 * MARGIN, columns + 2 * MARGIN)."""
    return torch.randn(count, *(side + 2 * MARGIN for side in grid), generator=generator)


def _noise_order(draws: Tensor, grid: Grid, settings: MaskConfig) -> Tensor:
    """Keep the patches at which filtered noise is strongest (ColorMAE, Hinojosa et al., 2024).

    Kept: the four colours, of Gaussians and their differences, and that the strongest patches stay. Adapted: every
    image gets noise of its own, where the paper cuts windows out of patterns made beforehand. It is filtered in
    float64: the rounding of another device moves no patch across the threshold.
    """
    noise = draws.double()
    white = noise[:, MARGIN:-MARGIN, MARGIN:-MARGIN]
    match settings.color:
        case "red":
            colored = _blurred(noise, grid, CUT)
        case "blue":
            colored = white - _blurred(noise, grid, CUT)
        case "green":
            colored = _middle(noise, grid)
        case "purple":
            colored = white - _middle(noise, grid)
    return colored.flatten(1).argsort(dim=1, descending=True, stable=True)


def _middle(noise: Tensor, grid: Grid) -> Tensor:
    """Return the middle frequencies, (count, rows, columns): a difference of Gaussians."""
    fine, coarse = (_blurred(noise, grid, deviation) for deviation in BAND)
    return fine - coarse


def _blurred(noise: Tensor, grid: Grid, deviation: float) -> Tensor:
    """Return noise with a margin (count, ...) under a Gaussian, (count, rows, columns)."""
    rows, columns = (_gaussian(side, deviation, noise) for side in grid)
    return rows @ noise @ columns.T


def _gaussian(side: int, deviation: float, like: Tensor) -> Tensor:
    """Return weights (side, side + 2 * MARGIN) of a Gaussian around each patch along a side; a row's sum is 1."""
    patch = torch.arange(side, device=like.device)[:, None] + MARGIN
    other = torch.arange(side + 2 * MARGIN, device=like.device)
    weights = torch.exp(-0.5 * ((other - patch).to(like.dtype) / deviation).square())
    return weights / weights.sum(dim=1, keepdim=True)


SAMPLERS = {
    "random": Sampler(_draw_random, _random_order),
    "block": Sampler(_draw_blocks, _block_order),
    "grid": Sampler(_draw_grid, _grid_order),
    "colored_noise": Sampler(_draw_noise, _noise_order),
}


def draw_masks(config: Config, count: int, generator: torch.Generator) -> Tensor:
    """Return what the masks of `count` images are made of, a CPU tensor (count, ...)."""
    return SAMPLERS[config.mask.sampling].draw(generator, count, config.grid, config.kept_patches)


def masks(config: Config, draws: Tensor) -> Mask:
    """Return the masks of a batch (B, N), on the device of its draws."""
    return Mask(SAMPLERS[config.mask.sampling].order(draws, config.grid, config.mask), config.kept_patches)
