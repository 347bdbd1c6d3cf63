"""Frozen features: what probes see of an encoder, computed once, nothing hidden, nothing augmented."""

from collections.abc import Iterable, Iterator
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mae.config.data_section import DataConfig
from mae.data.augmentation import centre, normalise
from mae.data.dataset import ImageData, Images
from mae.models.vit import ViT, pool
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


def read_at(layer: int | None, encoder: nn.Module, seen: Tensor) -> Tensor:
    """Return tokens (B, 1 + N, D) of what an encoder takes, (B, C, H, W): of its block `layer`, or its last norm."""
    tokens: Tensor = encoder(seen) if layer is None else cast(ViT, encoder).after(seen, layer)
    return tokens


def batch_size(device: torch.device) -> int:
    """Return how many images are encoded at a time without gradients."""
    return GPU_BATCH if device.type == "cuda" else BATCH


def extract(pretext: Pretext, images: Images, indexes: Tensor, kind: str, device: torch.device, task: Task) -> Tensor:
    """Return features (n, D) that a task's encoder has of the images at `indexes` (n,), float32 on the CPU."""
    batches = images.batches(indexes.split(batch_size(device)))
    return gathered(told(encode(pretext, centred(pretext, batches, device), kind), task), len(indexes))


def centred(pretext: Pretext, batches: Iterable[Tensor], device: torch.device) -> Iterator[Tensor]:
    """Yield stored images as an encoder sees them: nothing is augmented."""
    for batch in batches:
        yield centre(batch.to(device, non_blocking=True), pretext.config.data)


@torch.inference_mode()
def encode(pretext: Pretext, batches: Iterable[Tensor], kind: str, layer: int | None = None) -> Iterator[Tensor]:
    """Yield float32 features (b, D) of each batch of images (b, C, H, W) in 0..1, on its device.

    They are pooled from the encoder's last norm, or from what its block `layer` gives.
    A GPU computes them in bf16 where it can; pooling and all that follows is float32.
    """
    was_training = pretext.training
    pretext.eval()
    for images in batches:
        with mixed(encoding_precision(images.device), images.device):
            tokens = read_at(layer, pretext.encoder, pretext.look(images))
        yield pool(tokens.float(), kind)
    pretext.train(was_training)


def raw_pixels(batches: Iterable[Tensor], config: DataConfig, data: ImageData) -> Iterator[Tensor]:
    """Yield the normalised pixels (b, C * h * w) of each batch of stored images, on the CPU: a probe's baseline.

    Of clips they are those of all frames.

    Sides longer than `RAW_SIDE` are averaged down to it: a million images of 224 x 224 would take 770 GB as features.
    """
    height, width = config.image_size
    size = min(height, RAW_SIDE), min(width, RAW_SIDE)
    for batch in batches:
        few = batch.cpu().split(BATCH)  # those of a GPU's batch would be as large as many of its features
        parts = (normalise(centre(each, config), data).flatten(1, -3) for each in few)  # frames beside channels
        yield torch.cat([F.adaptive_avg_pool2d(part, size).flatten(1) for part in parts])


def told(parts: Iterable[Tensor], task: Task) -> Iterator[Tensor]:
    """Yield the parts, and tell `task` of the rows of each after its use."""
    for part in parts:
        yield part
        task.advance(len(part))
