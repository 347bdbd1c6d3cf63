"""Regions of pixels that a context encoder fills in (Pathak et al., 2016, section 3.3, "Region masks").

A region has two halves, as a mask sampler has: `draw` makes the random numbers of a batch on the CPU, few; `covered`
makes of them, on any device, which pixels of each image are in the region. To add one, write both and enter it in
`REGIONS`.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from mae.config.pretext_sections import BLOCKS
from mae.config.tree import Config

CELLS, SPREAD = 4, 0.7
"""Cells of noise along a side of the image, and the deviation of the Gaussian that smooths them, in cells."""


class Region(NamedTuple):
    """Both halves: `draw(generator, count, config)` gives a CPU tensor (count, ...), or None where nothing is random;
    `covered(draws, config, device)` a bool tensor (count, 1, H, W), or (1, 1, H, W) for all images."""

    draw: Callable[[torch.Generator, int, Config], Tensor | None]
    covered: Callable[[Tensor | None, Config, torch.device], Tensor]


def window(config: Config) -> tuple[slice, slice]:
    """Return the rows and the columns of the centre."""
    starts = [(side - part) // 2 for side, part in zip(config.data.image_size, config.piece_size, strict=True)]
    rows, columns = (slice(start, start + part) for start, part in zip(starts, config.piece_size, strict=True))
    return rows, columns


def _draw_nothing(generator: torch.Generator, count: int, config: Config) -> None:
    return None


def _centre(draws: Tensor | None, config: Config, device: torch.device) -> Tensor:
    covered = torch.zeros(1, 1, *config.data.image_size, dtype=torch.bool, device=device)
    rows, columns = window(config)
    covered[..., rows, columns] = True
    return covered


def _draw_blocks(generator: torch.Generator, count: int, config: Config) -> Tensor:
    """Return the top and the left of every block, int16 (count, BLOCKS, 2)."""
    room = torch.tensor(config.data.image_size) - torch.tensor(config.piece_size)
    return (torch.rand(count, BLOCKS, 2, generator=generator) * (room + 1)).short()


def _blocks(draws: Tensor | None, config: Config, device: torch.device) -> Tensor:
    """Cover blocks of one size, each anywhere in the image; they may overlap, as in the paper."""
    assert draws is not None
    (height, width), (block_height, block_width) = config.data.image_size, config.piece_size
    row, column = torch.arange(height, device=device)[:, None], torch.arange(width, device=device)
    top, left = (each[..., None, None] for each in draws.unbind(dim=2))  # (count, BLOCKS, 1, 1)
    inside = (row >= top) & (row < top + block_height) & (column >= left) & (column < left + block_width)
    return inside.any(dim=1, keepdim=True)


def _draw_shapes(generator: torch.Generator, count: int, config: Config) -> Tensor:
    """Return white noise, float32 (count, CELLS, CELLS)."""
    return torch.randn(count, CELLS, CELLS, generator=generator)


def _shapes(draws: Tensor | None, config: Config, device: torch.device) -> Tensor:
    """Cover the pixels where smooth noise is strongest, equally many in every image.

    In float64, so that the rounding of another device moves no pixel across the threshold.
    """
    assert draws is not None
    rows, columns = (_smoothing(side, device) for side in config.data.image_size)
    noise = rows @ draws.double() @ columns.T  # (count, H, W)
    least = noise.flatten(1).sort(descending=True).values[:, config.shape_pixels - 1]
    return (noise >= least[:, None, None])[:, None]


def _smoothing(side: int, device: torch.device) -> Tensor:
    """Return the weights (side, CELLS) of cells at each pixel along a side."""
    pixel = (torch.arange(side, dtype=torch.float64, device=device) + 0.5) * (CELLS / side)
    cell = torch.arange(CELLS, device=device) + 0.5
    return torch.exp(-0.5 * ((cell - pixel[:, None]) / SPREAD).square())


REGIONS = {
    "centre": Region(_draw_nothing, _centre),
    "blocks": Region(_draw_blocks, _blocks),
    "shapes": Region(_draw_shapes, _shapes),
}


def without_border(covered: Tensor, width: tuple[int, int]) -> Tensor:
    """Return which pixels of regions, bool (n, 1, H, W), lie at least `width`, rows and columns, within them.

    The image's own border is none of a region's: there is no context beyond it.
    """
    rows, columns = width
    outside = (~covered).float()
    near = F.max_pool2d(outside, (2 * rows + 1, 1), stride=1, padding=(rows, 0))
    return F.max_pool2d(near, (1, 2 * columns + 1), stride=1, padding=(0, columns)) == 0
