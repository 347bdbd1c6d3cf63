"""What gives the decoder more context: convolutions between its blocks, and more than the encoder's last layer to read.

The third way, a pooled global token, is one layer of the decoder. Shapes in comments: B images, N patches, E decoder
width.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mae.models.vit import Size, gather_tokens


class Convolutions(nn.Module):
    """A residual branch: norm, depthwise convolutions of several sizes side by side over the grid, a pointwise layer.

    Added up, they would be no more than the largest of them; a GELU and the pointwise layer on all of their channels
    keep them apart. That layer starts at zero, so that training starts as without the branch.
    """

    def __init__(self, dim: int, kernels: tuple[int, ...], grid: Size, eps: float):
        super().__init__()
        self.grid = grid
        self.norm = nn.LayerNorm(dim, eps)
        self.convolutions = nn.ModuleList(nn.Conv2d(dim, dim, size, padding=size // 2, groups=dim) for size in kernels)
        self.pointwise = nn.Linear(len(kernels) * dim, dim)
        nn.init.zeros_(self.pointwise.weight)
        nn.init.zeros_(self.pointwise.bias)

    def forward(self, tokens: Tensor, order: Tensor, places: Tensor) -> Tensor:
        """Return tokens (B, 1 + N, E) after the branch; the class token, first, passes by.

        The others are in `order` (B, N), and `places` (B, N) is its inverse: where each patch of the grid is in it.
        """
        first, patches = tokens[:, :1], tokens[:, 1:]
        grid = gather_tokens(self.norm(patches), places).transpose(1, 2).unflatten(2, self.grid)  # (B, E, rows, cols)
        seen = torch.cat([convolution(grid) for convolution in self.convolutions], dim=1).flatten(2).transpose(1, 2)
        change = gather_tokens(self.pointwise(F.gelu(seen)), order)
        return torch.cat([first, patches + change], dim=1)


class Fusion(nn.Module):
    """What the decoder reads of several encoder blocks (MFF: Liu et al., ICCV 2023, arXiv 2308.00261).

    Kept: a linear projection of each block but the last, and a mean under learned weights, equal ones at first, before
    the encoder's last norm; probes read the last block alone. Adapted: which blocks is a setting, where the paper's
    code takes every second one, from the first on.
    """

    def __init__(self, blocks: tuple[int, ...], dim: int):
        super().__init__()
        self.blocks = blocks
        self.projections = nn.ModuleList(nn.Linear(dim, dim) for _ in blocks)
        self.weights = nn.Parameter(torch.zeros(len(blocks) + 1))  # before the softmax

    def forward(self, outputs: Sequence[Tensor]) -> Tensor:
        """Return tokens (B, n, D) of the outputs (B, n, D) of all encoder blocks."""
        *shallow, last = self.weights.softmax(dim=0)
        fused = last * outputs[-1]
        for weight, project, block in zip(shallow, self.projections, self.blocks, strict=True):
            fused = fused + weight * project(outputs[block - 1])
        return fused
