"""Neighbours among images that are in memory, as the notebooks show them."""

from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor

from analysis.images.files import BATCH, decoded, image_files
from analysis.images.neighbours import evenly, most_similar, neighbour_figure
from mae.config.resolve import resolve
from mae.data.dataset import load_data
from mae.exchange.feature_encoder import FeatureEncoder
from mae.runtime.progress import Silent


def read_folder(folder: Path, encoder: FeatureEncoder) -> Tensor:
    """Return the images of a folder, in it or below, as the encoder's runs decode them: uint8 (N, C, h, w)."""
    return torch.cat([images for _, images in decoded(image_files(folder), encoder.config, Silent())])


def digit_images() -> Tensor:
    """Return the test images of the embedded digits, uint8 (N, 1, 8, 8)."""
    config = resolve("digits")
    test = load_data(config.data, config.run, Silent()).test
    return next(iter(test.images.batches([torch.arange(len(test.labels))])))


@torch.inference_mode()
def pictures(encoder: FeatureEncoder, images: Tensor, count: int) -> Figure:
    """Return some of uint8 images (N, C, H, W), each beside the `count` others most similar to it."""
    features = torch.cat([encoder(batch) for batch in images.split(BATCH)])
    asked = torch.tensor(evenly(len(images)))
    found = most_similar(features[asked], features, count, asked)
    return neighbour_figure(
        [images[[query, *row]] for query, row in zip(asked.tolist(), found.indexes.tolist(), strict=True)]
    )
