"""What a batch's images have to know of one another, where processes share it: gathered, and gradients go back.

Losses with in-batch negatives and batch statistics couple the images of a batch. DDP takes the mean of the processes'
gradients; as a gradient goes back here to every process whose loss it comes from, that mean is the gradient of one
process with the whole batch. Process 0 alone counts costs, on the device "meta", and draws pictures, in inference mode:
nothing is exchanged there.
"""

from typing import Any

import torch
from torch import Tensor, distributed


def gathered(values: Tensor) -> Tensor:
    """Return the values (B, ...) of all processes, in the order of their ranks, which is the batch's: (P * B, ...)."""
    if not _shared(values):
        return values
    empty = values.new_zeros(distributed.get_world_size() * len(values), *values.shape[1:])
    return _summed(empty.index_copy(0, places(values), values))


def mean_of_all(values: Tensor) -> Tensor:
    """Return the mean over processes of values of any shape."""
    return _summed(values) / distributed.get_world_size() if _shared(values) else values


def places(values: Tensor) -> Tensor:
    """Return where the rows of values (B, ...) lie among the gathered ones, int64 (B,)."""
    first = distributed.get_rank() * len(values) if _shared(values) else 0
    return torch.arange(len(values), device=values.device) + first


def _shared(values: Tensor) -> bool:
    """Say whether other processes have a part of the batch; only training is compiled."""
    if values.is_meta or not (distributed.is_available() and distributed.is_initialized()):
        return False
    return torch.compiler.is_compiling() or not torch.is_inference_mode_enabled()


def _summed(values: Tensor) -> Tensor:
    total: Tensor = _Sum.apply(values)
    return total


class _Sum(torch.autograd.Function):
    """The sum over processes; a gradient is the sum of theirs."""

    @staticmethod
    def forward(context: Any, values: Tensor) -> Tensor:
        total = values.clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(total)
        return total
