"""Images beside those that an encoder finds most similar to them."""

from collections.abc import Sequence
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional as F

from mae.config.resolve import resolve
from mae.data.dataset import load_data
from mae.data.image_files import EXTENSIONS, decode
from mae.errors import UserError
from mae.exchange.feature_encoder import FeatureEncoder
from mae.runtime.progress import Silent

BATCH = 64


def read_folder(folder: Path, encoder: FeatureEncoder) -> Tensor:
    """Return the images of a folder, in it or below, as the encoder's runs decode them: uint8 (N, C, h, w)."""
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in EXTENSIONS)
    if not files:
        raise UserError(f"{folder}: no images; expected files that end in {', '.join(sorted(EXTENSIONS))}")
    data = encoder.config.data
    return torch.stack([torch.tensor(decode(file, data.stored_sides, data.channels)) for file in files])


def digit_images() -> Tensor:
    """Return the test images of the embedded digits, uint8 (N, 1, 8, 8)."""
    config = resolve("digits")
    test = load_data(config.data, config.run, Silent()).test
    return next(iter(test.images.batches([torch.arange(len(test.labels))])))


@torch.inference_mode()
def nearest(encoder: FeatureEncoder, images: Tensor, count: int) -> Tensor:
    """Return the indexes (N, count) of the images most similar to each of images (N, C, H, W), the most similar first.

    Similarity is the cosine of features; an image is not its own neighbour.
    """
    features = F.normalize(torch.cat([encoder(batch) for batch in images.split(BATCH)]), dim=1)
    similarity = features @ features.T
    return similarity.fill_diagonal_(-2).topk(min(count, len(images) - 1)).indices


def neighbour_figure(images: Tensor, neighbours: Tensor, queries: Sequence[int]) -> Figure:
    """Return a row per query: uint8 images (N, C, H, W) of it and of its neighbours."""
    count = neighbours.shape[1] + 1
    figure = Figure(figsize=(count, len(queries)), layout="constrained")
    axes = figure.subplots(len(queries), count, squeeze=False)
    for row, query in zip(axes, queries, strict=True):
        for axis, index in zip(row, [query, *neighbours[query].tolist()], strict=True):
            axis.imshow(images[index].permute(1, 2, 0).squeeze(-1).numpy(), cmap="gray", vmin=0, vmax=255)
            axis.set(xticks=[], yticks=[])
    axes[0, 0].set_title("image")
    axes[0, 1].set_title("most similar", loc="left")
    return figure
