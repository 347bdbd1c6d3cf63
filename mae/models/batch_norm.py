"""Batch norm over the batch of all processes, on every device; PyTorch's SyncBatchNorm needs GPUs."""

import torch
from torch import Tensor, nn

from mae.runtime.autocast import full
from mae.runtime.gathering import mean_of_all


class BatchNorm(nn.Module):
    """Batch norm of vectors (B, D) by the statistics of their batch, always: there are no running ones.

    Heads that have it are left out when the encoder is probed, so that nothing asks for the statistics of a training.
    """

    def __init__(self, width: int, affine: bool = True, eps: float = 1e-5):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width)) if affine else None
        self.bias = nn.Parameter(torch.zeros(width)) if affine else None

    def forward(self, values: Tensor) -> Tensor:
        with full(values.device):  # statistics are no less exact under mixed precision
            values = values.float()
            centred = values - mean_of_all(values.mean(dim=0))
            normed = centred * (mean_of_all(centred.square().mean(dim=0)) + self.eps).rsqrt()
            return normed if self.weight is None or self.bias is None else normed * self.weight + self.bias
