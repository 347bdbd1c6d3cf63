"""Frozen features: what probes see of an encoder, computed once, nothing hidden, nothing augmented."""

import torch
from torch import Tensor
from torch.nn import functional as F

from mae.config.tree import DataConfig
from mae.data.augmentation import centre, normalise
from mae.data.dataset import ImageData, Images
from mae.pretext.base import Pretext
from mae.runtime.progress import Task

BATCH = 128
"""Images per forward pass. On a CPU, whose caches it fits, a 128 x 6 encoder is a third faster than with 512."""

RAW_SIDE = 32
"""Longest side of the images whose raw pixels are probed, pixels."""


def pool(tokens: Tensor, kind: str) -> Tensor:
    """Return features (B, D), or (B, 2 D) for both, of tokens (B, 1 + N, D), class token first."""
    class_token, patch_mean = tokens[:, 0].clone(), tokens[:, 1:].mean(dim=1)  # a view would keep all tokens in memory
    return {"class_token": class_token, "patch_mean": patch_mean, "both": torch.cat([class_token, patch_mean], 1)}[kind]


@torch.inference_mode()
def extract(pretext: Pretext, images: Images, indexes: Tensor, kind: str, device: torch.device, task: Task) -> Tensor:
    """Return features (n, D) that a task's encoder has of the images at `indexes` (n,), float32 on the CPU."""
    was_training = pretext.training
    pretext.eval()
    parts = []
    for batch in images.batches(indexes.split(BATCH)):
        seen = pretext.look(centre(batch.to(device, non_blocking=True), pretext.config.data))
        parts.append(pool(pretext.encoder(seen), kind).float().cpu())
        task.advance(len(batch))
    pretext.train(was_training)
    return torch.cat(parts)


def raw_pixels(images: Images, indexes: Tensor, config: DataConfig, data: ImageData, task: Task) -> Tensor:
    """Return the normalised pixels (n, C * h * w) of the images at `indexes` (n,), on the CPU: a probe's baseline.

    Sides longer than `RAW_SIDE` are averaged down to it: a million images of 224 x 224 would take 770 GB as features.
    """
    height, width = config.image_size
    size = min(height, RAW_SIDE), min(width, RAW_SIDE)
    parts = []
    for batch in images.batches(indexes.split(BATCH)):
        parts.append(F.adaptive_avg_pool2d(normalise(centre(batch.cpu(), config), data), size).flatten(1))
        task.advance(len(batch))
    return torch.cat(parts)
