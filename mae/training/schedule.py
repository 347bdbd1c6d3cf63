"""Learning rate: linear scaling by batch size, linear warm-up, half-cosine decay to 0 (appendix A.1)."""

import math

from torch.optim import Optimizer


def peak_lr(base_lr: float, batch_size: int) -> float:
    """Return base_lr * batch_size / 256."""
    return base_lr * batch_size / 256


def lr_at(epoch: float, peak: float, warmup_epochs: float, epochs: float) -> float:
    """Return the learning rate at a fractional epoch, 0 <= epoch <= epochs."""
    if epoch < warmup_epochs:
        return peak * epoch / warmup_epochs
    if warmup_epochs >= epochs:
        return peak
    return peak * 0.5 * (1 + math.cos(math.pi * (epoch - warmup_epochs) / (epochs - warmup_epochs)))


def set_rates(optimizer: Optimizer, rate: float) -> None:
    """Set the learning rate of each group of parameters to its part of `rate`: its `lr_scale`, or all of it."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("lr_scale", 1.0)
