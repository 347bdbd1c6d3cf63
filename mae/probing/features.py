"""Frozen features: what probes see of an encoder, computed once, nothing hidden, nothing augmented."""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from mae.config.tree import DataConfig
from mae.data.augmentation import centre, normalise
from mae.data.dataset import ImageData, Images
from mae.pretext.base import Pretext
from mae.probing.feature_memory import gathered
from mae.runtime.autocast import encoding_precision, mixed
from mae.runtime.progress import Task

BATCH = 128
"""Images per forward pass. On a CPU, whose caches it fits, a 128 x 6 encoder is a third faster than with 512."""

GPU_BATCH = 1024
"""On a GPU, where the host would wait for every 128 images."""

RAW_SIDE = 32
"""Longest side of the images whose raw pixels are probed, pixels."""


def pool(tokens: Tensor, kind: str) -> Tensor:
    """Return features (B, D), or (B, 2 D) for both, of tokens (B, 1 + N, D), class token first."""
    class_token, patch_mean = tokens[:, 0].clone(), tokens[:, 1:].mean(dim=1)  # a view would keep all tokens in memory
    return {"class_token": class_token, "patch_mean": patch_mean, "both": torch.cat([class_token, patch_mean], 1)}[kind]


def batch_size(device: torch.device) -> int:
    """Return how many images are encoded at a time without gradients."""
    return GPU_BATCH if device.type == "cuda" else BATCH


def extract(pretext: Pretext, images: Images, indexes: Tensor, kind: str, device: torch.device, task: Task) -> Tensor:
    """Return features (n, D) that a task's encoder has of the images at `indexes` (n,), float32 on the CPU."""
    batches = images.batches(indexes.split(batch_size(device)))
    centred = (centre(batch.to(device, non_blocking=True), pretext.config.data) for batch in batches)
    return encode(pretext, centred, len(indexes), kind, task)


@torch.inference_mode()
def encode(pretext: Pretext, batches: Iterable[Tensor], count: int, kind: str, task: Task) -> Tensor:
    """Return features (count, D), float32 on the CPU, of batches of images (b, C, H, W) in 0..1 on its device.

    A GPU computes them in bf16 where it can; pooling and all that follows is float32. `task` is told of every batch.
    """
    was_training = pretext.training
    pretext.eval()

    def parts() -> Iterator[Tensor]:
        for images in batches:
            with mixed(encoding_precision(images.device), images.device):
                tokens = pretext.encoder(pretext.look(images))
            yield pool(tokens.float(), kind)
            task.advance(len(images))

    features = gathered(parts(), count)
    pretext.train(was_training)
    return features


def raw_pixels(images: Images, indexes: Tensor, config: DataConfig, data: ImageData, task: Task) -> Tensor:
    """Return the normalised pixels (n, C * h * w) of the images at `indexes` (n,), on the CPU: a probe's baseline.

    Sides longer than `RAW_SIDE` are averaged down to it: a million images of 224 x 224 would take 770 GB as features.
    """
    height, width = config.image_size
    size = min(height, RAW_SIDE), min(width, RAW_SIDE)

    def parts() -> Iterator[Tensor]:
        for batch in images.batches(indexes.split(BATCH)):
            yield F.adaptive_avg_pool2d(normalise(centre(batch.cpu(), config), data), size).flatten(1)
            task.advance(len(batch))

    return gathered(parts(), len(indexes))
