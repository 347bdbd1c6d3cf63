"""Random numbers as a pure function of what they are for.

Every draw of pretraining comes from a generator named by (seed, purpose, position): the order of images from
(seed, "order", epoch), a batch's crops from (seed, "augmentation", step) ... So nothing depends on how many
workers load data or where a run was interrupted, and the same masks fall on the same images on every device.
"""

import hashlib

import torch


def generator(seed: int, purpose: str, position: int = 0) -> torch.Generator:
    """Return a CPU generator whose stream depends on exactly the three arguments."""
    digest = hashlib.blake2b(f"{seed}/{purpose}/{position}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)  # seeds are signed 64-bit
