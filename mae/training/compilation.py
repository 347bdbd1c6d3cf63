"""A pretext task compiled as one graph, forward and backward (`train.compile`).

Shapes never change, as an incomplete last batch is left out: nothing is compiled again within a training. Inductor
keeps what it compiled on disk (`TORCHINDUCTOR_CACHE_DIR`), where trainings of equal shapes find it.
"""

from typing import cast

import torch
from torch import nn

from mae.errors import ImpossibleSettings

MODES = {"default": "default", "max-autotune": "max-autotune", "cudagraphs": "reduce-overhead"}
"""PyTorch's name of each way to compile."""

REPLAYED = ("max-autotune", "cudagraphs")
"""Modes that record the kernels of a pass once and replay them. Each replay writes its results to the same memory."""


def compiled(pretext: nn.Module, how: str) -> nn.Module:
    """Return a pretext task whose passes are compiled; the same weights, and itself if compiling is off."""
    if how == "off":
        return pretext
    return cast(nn.Module, torch.compile(pretext, fullgraph=True, dynamic=False, mode=MODES[how]))


def check_device(how: str, device: torch.device) -> None:
    """Raise `ImpossibleSettings` if a device cannot do what `train.compile` asks."""
    if how == "cudagraphs" and device.type != "cuda":
        raise ImpossibleSettings(f"train.compile=cudagraphs: expected a GPU, not {device.type}; give default or off")


def keep_gradients(pretext: nn.Module) -> None:
    """Give every parameter a gradient of its own, to which backward passes add.

    Else it would be the memory that the next replay overwrites, and micro-batches could not be summed.
    """
    for parameter in pretext.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.zeros_like(parameter)
