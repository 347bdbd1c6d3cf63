"""Features of one's own images as a table: a row per image, a column per feature."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from analysis.images.files import BATCH, class_of, decoded
from mae.data.dataset import Images
from mae.data.image_files import shown
from mae.errors import UserError
from mae.exchange.feature_encoder import FeatureEncoder
from mae.runtime.progress import Task


@torch.inference_mode()
def features_of_files(
    encoder: FeatureEncoder, files: Sequence[Path], device: torch.device, task: Task
) -> tuple[list[Path], Tensor]:
    """Return the files that can be read, and what an encoder on a device has of them, float32 (n, D), on the CPU.

    `UserError` if none can be read, or one cannot and `data.skip_bad_images` is not set.
    """
    read: list[Path] = []
    parts: list[Tensor] = []
    for names, images in decoded(files, encoder.config, task):
        read += names
        parts.append(encoder(images.to(device)).float().cpu())
    if not read:
        raise UserError(f"none of {len(files)} image file(s) can be read, such as {shown(files[0])}")
    return read, torch.cat(parts)


@torch.inference_mode()
def features_of_images(
    encoder: FeatureEncoder, images: Images, indexes: Tensor, device: torch.device, task: Task
) -> Tensor:
    """Return the features, float32 (n, D), of the images of a data set at `indexes` (n,), on the CPU."""
    parts = []
    for batch in images.batches(indexes.split(BATCH)):
        parts.append(encoder(batch.to(device)).float().cpu())
        task.advance(len(batch))
    return torch.cat(parts)


def feature_table(folder: Path, files: Sequence[Path], features: Tensor) -> pd.DataFrame:
    """Return `path` below the folder, `class`, which is its folder's name or empty, and features as `f0`, `f1` ..."""
    columns = {
        "path": [shown(file.relative_to(folder)) for file in files],
        "class": [class_of(file, folder) for file in files],
    }
    names = [f"f{number}" for number in range(features.shape[1])]
    return pd.concat([pd.DataFrame(columns), pd.DataFrame(features.numpy(), columns=names)], axis=1)
