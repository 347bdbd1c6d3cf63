"""The online evaluation: how good the features are so far, told during pretraining, with labels and without.

It is the same in every run, so that curves of all runs can be compared: a run's curves are part of its pretraining,
which probe settings do not identify. It never sees a test image, so it may steer a search.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from mae.config.data_section import DataConfig
from mae.data.augmentation import draw, views
from mae.data.dataset import ImageData, Images
from mae.pretext.base import Pretext
from mae.probing.effective_rank import lidar, rankme
from mae.probing.feature_memory import gathered
from mae.probing.features import batch_size, encode, extract
from mae.probing.knn import knn_predict
from mae.runs.metrics import LIDAR, ONLINE, RANKME
from mae.runtime.progress import Silent
from mae.runtime.rng import generator, on_device, piece

REFERENCES, QUERIES = 10_000, 2_000
"""Most training images of the k-NN vote; RankMe is of both together."""

FEATURES, K, TEMPERATURE = "patch_mean", 20, 0.07
"""The mean over patches, as the loss reads what comes of patches and never the class token. The temperature is that of
instance discrimination (Wu et al., 2018)."""

LIDAR_IMAGES, VIEWS = 1000, 10
"""Most images of LiDAR, and views of each, where its paper has 1000 and 50. Images stay as many: the rank is below that
number. 10 views make 10,000 images to encode, beside the 12,000 of the vote; 50 would make 50,000. Smaller data sets
have a tenth of the images of the vote, so that views are as many as those."""


def evaluate_online(pretext: Pretext, data: ImageData) -> dict[str, float]:
    """Return k-NN top-1, in percent, RankMe and LiDAR on training images, whatever the probe settings are.

    The vote is on a part that is held out from its references, and left out where fewer than 5 images have a label.
    """
    labels = data.train.labels
    labelled = (labels >= 0).nonzero()[:, 0]
    of = labelled if len(labelled) else torch.arange(len(labels))
    chosen = of[torch.randperm(len(of), generator=generator(0, "online k-NN"))[: REFERENCES + QUERIES]]
    features = extract(pretext, data.train.images, chosen, FEATURES, pretext.mean.device, Silent())
    of_views = _features_of_views(pretext, data.train.images, chosen[: _lidar_images(len(chosen))])
    metrics = {RANKME: rankme(features), LIDAR: lidar(of_views)}
    queries = min(QUERIES, len(labelled) // 5)
    if queries:
        truth, asked, references = labels[chosen], features[:queries], features[queries:]
        predicted = knn_predict([references], truth[queries:], [asked], K, TEMPERATURE, len(data.classes))
        metrics[ONLINE] = 100 * (predicted == truth[:queries]).float().mean().item()
    return metrics


def encoded(count: int) -> tuple[int, int]:
    """Return how many images and how many views an evaluation encodes where `count` training images have a label."""
    images = min(REFERENCES + QUERIES, count)
    return images, VIEWS * _lidar_images(images)


def _lidar_images(images: int) -> int:
    return min(LIDAR_IMAGES, -(-images // VIEWS))


def _features_of_views(pretext: Pretext, images: Images, indexes: Tensor) -> Tensor:
    """Return features (n, q, D) of views of the images at `indexes` (n,): the same ones at every evaluation.

    They are those of the pretraining. One without augmentation has crops of the default scale: its own scale does not
    act, so that no fingerprint tells of it.
    """
    config, device = pretext.config.data, pretext.mean.device
    if config.augmentation == "none":
        crops = {"augmentation": "random_resized_crop", "crop_scale": DataConfig().crop_scale}
        config = config.model_copy(update=crops)
    draws = draw(config, len(indexes) * VIEWS, config.stored, generator(0, "online views"))
    at_once = batch_size(device) // VIEWS

    def batches() -> Iterator[Tensor]:
        for number, stored in enumerate(images.batches(indexes.split(at_once))):
            repeated = stored.to(device, non_blocking=True).repeat_interleave(VIEWS, dim=0)
            start = number * at_once * VIEWS
            own = piece(draws, slice(start, start + len(repeated)))
            yield views(repeated, config, on_device(own, device))

    return gathered(encode(pretext, batches(), FEATURES), len(indexes) * VIEWS).unflatten(0, (-1, VIEWS))
