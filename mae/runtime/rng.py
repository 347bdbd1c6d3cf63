"""Random numbers as a pure function of what they are for.

Every draw of pretraining comes from a generator named by (seed, purpose, position): the order of images from
(seed, "order", epoch), a batch's crops from (seed, "augmentation", step) ... So nothing depends on how many
workers load data or where a run was interrupted, and the same masks fall on the same images on every device.
"""

import hashlib
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

Draws = TypeVar("Draws", bound=tuple[Any, ...])
"""A named tuple of random numbers: small CPU tensors (count, ...), None, and further such tuples."""


def generator(seed: int, purpose: str, position: int = 0) -> torch.Generator:
    """Return a CPU generator whose stream depends on exactly the three arguments."""
    digest = hashlib.blake2b(f"{seed}/{purpose}/{position}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)  # seeds are signed 64-bit


def branch(parent: torch.Generator, purpose: str) -> torch.Generator:
    """Return a generator of its own for one purpose of several, whatever is drawn from the others.

    So crops are the same under every way to draw masks, and studies compare like with like.
    """
    return generator(parent.initial_seed(), purpose)


def piece(draws: Draws, part: slice) -> Draws:
    """Return the draws of part of a batch's images."""
    return _each(draws, lambda tensor: tensor[part])


def on_device(draws: Draws, device: torch.device) -> Draws:
    """Return draws on a device; copying does not wait for it."""
    return _each(draws, lambda tensor: tensor.to(device, non_blocking=True))


def _each(draws: Draws, change: Callable[[Tensor], Tensor]) -> Draws:
    changed = [change(each) if isinstance(each, Tensor) else each and _each(each, change) for each in draws]
    return type(draws)(*changed) if hasattr(draws, "_fields") else type(draws)(changed)
